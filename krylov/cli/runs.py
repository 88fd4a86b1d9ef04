"""Folders of training runs, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krylov.cli.errors import InputError

__all__ = ["CONFIG", "LOG", "RunLog", "read_json_lines", "read_run"]

#: Files in the folder of a run.
CONFIG, LOG = "config.json", "log.jsonl"


@dataclass(frozen=True)
class RunLog:
    """A name and the records of a run, from step 0."""

    name: str
    records: list[dict[str, Any]]

    def column(self, name: str) -> list[float | None]:
        """Entries of all records, ``"loss"`` or ``"seconds.total"``; None where there is no number."""
        found: list[float | None] = []
        for record in self.records:
            value: Any = record
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            usable = isinstance(value, (int, float)) and not isinstance(value, bool)
            found.append(float(value) if usable else None)
        return found


def read_run(path: Path) -> RunLog:
    """Read the log of a run from its folder, or the log itself.

    Raises
    ------
    InputError
        There is none, or it is something else.
    """
    file = path / LOG if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no run there: neither a log nor a folder with {LOG}")
    records = read_json_lines(file)
    if not records:
        raise InputError(f"{file}: the log is empty")
    return RunLog(path.resolve().name if path.is_dir() else path.stem, records)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a log; a last line that is not finished is left out.

    Raises
    ------
    InputError
        It cannot be read, or a line is not a record.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file, so this is not a log") from None
    records = []
    for number, line in enumerate(lines[:-1], 1):  # the last piece is empty, or lacks its end
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "step" not in record:
            raise InputError(f"{path}: line {number} is no record of a run, so this is not a log")
        records.append(record)
    return records
