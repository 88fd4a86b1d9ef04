"""The log of a run: JSON, one line an outer iteration, and TensorBoard for those who want it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from krylov.torch.training.checkpoint import CheckpointError, replace_file

__all__ = ["JsonLog", "TensorBoard", "plain"]

Record = Mapping[str, Any]


class JsonLog:
    """A file with one line a record, handed to the system as soon as there is one.

    Parameters
    ----------
    path : Path
        The file, replaced by one with these records.
    records : sequence
        What a resumed run has behind it: lines after its checkpoint belong to iterations that are done again.
    """

    def __init__(self, path: Path, records: Sequence[Record] = ()) -> None:
        self._path = path
        self._complete = True
        self._rewrite(records)

    def write(self, records: Sequence[Record]) -> None:
        """Add the last of the records.

        Raises
        ------
        CheckpointError
            The disk is full, for example. The next call writes what is missing as well.
        """
        if not self._complete:
            self._rewrite(records)
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(records[-1]))
        except OSError as error:
            self._complete = False
            raise CheckpointError(
                f"{self._path}: the log cannot be written ({error.strerror})"
            ) from error

    def _rewrite(self, records: Sequence[Record]) -> None:
        self._complete = False
        with replace_file(self._path) as part:
            part.write_text("".join(map(_line, records)), encoding="utf-8")
        self._complete = True


class TensorBoard:
    """The numbers of each record as TensorBoard's scalars.

    Parameters
    ----------
    folder : Path
        Where TensorBoard looks for them.
    records : sequence
        What a resumed run has behind it; what was shown after that is withdrawn.
    """

    def __init__(self, folder: Path, records: Sequence[Record] = ()) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("TensorBoard's log needs it: pip install tensorboard") from None
        writer: Any = SummaryWriter
        self._writer = writer(str(folder), purge_step=records[-1]["step"] + 1 if records else None)

    def write(self, records: Sequence[Record]) -> None:
        """Show the last of the records."""
        record = plain(records[-1])
        for name, value in _numbers(record):
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Nothing more will come."""
        self._writer.close()


def _numbers(record: Record, prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            found.append((prefix + name, float(value)))
    return found


def _line(record: Record) -> str:
    return json.dumps(plain(record), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null, members of an enum their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
