"""The log: one JSON object a line, cut back when a run is resumed."""

from __future__ import annotations

import json
import math
import sys

import pytest

pytest.importorskip("torch")

from krylov.cli.errors import InputError
from krylov.cli.runs import read_json_lines as read_log
from krylov.outcome import Outcome
from krylov.torch.training.checkpoint import CheckpointError
from krylov.torch.training.log import JsonLog, TensorBoard, plain


def test_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLog(path)
    records = [{"step": 0, "loss": 1.5}]
    log.write(records)
    records.append({"step": 1, "loss": math.nan, "outcome": Outcome.CONVERGED})
    log.write(records)
    assert path.read_text().splitlines() == [
        '{"step": 0, "loss": 1.5}',
        '{"step": 1, "loss": null, "outcome": "CONVERGED"}',
    ]
    assert read_log(path) == [plain(record) for record in records]


def test_a_resumed_log_has_no_line_twice(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    log = JsonLog(path, [{"step": 0}, {"step": 1}])
    log.write([{"step": 0}, {"step": 1}, {"step": 2, "new": True}])
    assert read_log(path) == [{"step": 0}, {"step": 1}, {"step": 2, "new": True}]


def test_what_could_not_be_written_is_written_later(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "log.jsonl"
    log = JsonLog(path)
    log.write([{"step": 0}])
    folder.rename(tmp_path / "away")
    for records in ([{"step": 0}, {"step": 1}], [{"step": 0}, {"step": 1}, {"step": 2}]):
        with pytest.raises(CheckpointError, match="cannot be written"):
            log.write(records)
    (tmp_path / "away").rename(folder)
    log.write([{"step": step} for step in range(4)])
    assert read_log(path) == [{"step": step} for step in range(4)]


def test_reading_an_unfinished_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"step": 1')
    assert read_log(path) == [{"step": 0}]
    for text in ("hello\n", "[1]\n", '{"step": 0}\n{"st\n{"step": 2}\n'):
        path.write_text(text)
        with pytest.raises(InputError, match="no record of a run"):
            read_log(path)


def test_plain_values_are_json():
    value = plain({"a": (1, math.inf, None, True), "b": {"c": "x"}, 3: object})
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["a"] == [1, None, None, True]


def test_tensorboard_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_tensorboard_gets_numbers_by_name(tmp_path, monkeypatch):
    calls = []

    class Writer:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            calls.append("flush")

        def close(self):
            calls.append("close")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    board = TensorBoard(tmp_path, [{"step": 4}])
    board.write([{"step": 5, "loss": 0.5, "nan": math.nan, "word": "x", "optimizer": {"rho": 1}}])
    board.close()
    assert calls == [
        (str(tmp_path), 5),
        ("loss", 0.5, 5),
        ("optimizer/rho", 1.0, 5),
        "flush",
        "close",
    ]
