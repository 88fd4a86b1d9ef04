"""Checkpoints: replaced in one stroke, whatever happens."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import numpy as np

from krylov.torch.generators import random_state, restore_random_state
from krylov.torch.training import checkpoint
from krylov.torch.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)


def test_round_trip(tmp_path):
    path = tmp_path / "c.pt"
    state = {"a": [1, 2.5, None, "x", True], "b": {"t": torch.arange(3)}, "c": (1, 2)}
    save_checkpoint(path, state)
    back = load_checkpoint(path)
    assert torch.equal(back["b"]["t"], state["b"]["t"])
    assert (back["a"], back["c"]) == (state["a"], state["c"])
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), r"state\['a'\]\[0\] is a ndarray"),
        (np.float64(1), "NumPy scalar"),
        (object(), "object"),
        ({1}, "set"),
    ],
)
def test_what_could_not_be_read_again_is_refused(tmp_path, value, words):
    save_checkpoint(tmp_path / "c.pt", {"a": 1})
    with pytest.raises(TypeError, match=words):
        save_checkpoint(tmp_path / "c.pt", {"a": [value]})
    assert load_checkpoint(tmp_path / "c.pt")["a"] == 1


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from krylov.torch.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(path, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # larger files cannot be written
try:
    save_checkpoint(path, {"step": 2, "large": torch.zeros(100_000)})
except CheckpointError as error:
    print(error)
print(load_checkpoint(path)["step"], len(list(path.parent.iterdir())))
"""


def test_full_disk_leaves_the_last_one_intact(tmp_path):
    path = tmp_path / "c.pt"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    complaint, rest = run.stdout.strip().splitlines()
    assert str(path) in complaint
    assert "cannot be written" in complaint
    assert "intact" in complaint
    assert rest == "1 1"


def test_interrupted_while_writing(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    save_checkpoint(path, {"step": 3})
    assert os.listdir(tmp_path) == ["c.pt"]


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "none" / "c.pt", {})


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_what_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "c.pt"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="this version"):
        load_checkpoint(path)


def test_cut_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "evil": Evil()}, "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002


def test_all_generators_go_on(tmp_path):
    torch.randn(1), np.random.randn(1), random.gauss(0, 1)  # noqa: NPY002  (leave half a pair behind)
    save_checkpoint(tmp_path / "c.pt", {"random": random_state()})
    first = draws()
    restore_random_state(load_checkpoint(tmp_path / "c.pt")["random"])
    assert draws() == first
