"""A run that was killed and resumed equals one that was not, to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PROGRAM = Path(__file__).with_name("runs.py")
NAMES = ("hf-lbfgs", "hf-ritz", "adam", "sgd", "lbfgs", "neumann")


def started(folder, mode, *names):
    command = [sys.executable, "-W", "error", str(PROGRAM), str(folder), str(mode), *names]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(process, code=0):
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == code, errors


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Results of runs that were left alone, and of runs that were killed within a step and resumed."""
    alone, killed = (tmp_path_factory.mktemp(name) for name in ("alone", "killed"))
    ended(started(alone, "whole", *NAMES))
    processes = []
    for name in NAMES:
        calls = json.loads((alone / name / "calls.json").read_text())
        within_the_fourth = (calls[2] + calls[3]) // 2
        processes.append(started(killed, within_the_fourth, name))
    for process in processes:
        ended(process, -signal.SIGKILL)
    for name in NAMES:
        assert len((killed / name / "log.jsonl").read_text().splitlines()) == 4  # 0 to 3
        # As if it had been killed between log and checkpoint, and again while it wrote.
        with (killed / name / "log.jsonl").open("a") as log:
            log.write('{"step": 4}\n{"step": 5, "lo')
        (killed / name / "checkpoint.pt.part").write_bytes(b"half a check")
    ended(started(killed, "resume", *NAMES))
    return alone, killed


def records(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_log_is_the_same_but_for_the_seconds(folders, name):
    first, second = (records(folder / name / "log.jsonl") for folder in folders)
    assert [record["step"] for record in first] == list(range(7))
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_same_to_the_last_bit(folders, name):
    first, second = (torch.load(folder / name / "model.pt") for folder in folders)
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key])


@pytest.mark.parametrize("name", NAMES)
def test_so_is_all_that_the_next_iteration_depends_on(folders, name):
    first, second = (
        torch.load(folder / name / "checkpoint.pt", weights_only=True) for folder in folders
    )
    for part in ("model", "optimizer", "iteration", "random", "best", "step", "spectrum"):
        same(first[part], second[part])
    assert not list(folders[1].rglob("*.part"))


def test_so_are_the_records_of_the_spectrum(folders):
    first, second = (
        json.loads((folder / "neumann" / "spectrum.json").read_text()) for folder in folders
    )
    assert [record["step"] for record in first] == [0, 2, 4, 6]
    assert first == second


def same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            same(one, other)
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    else:
        assert first == second or first != first
