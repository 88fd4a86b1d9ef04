"""Tables of numbers in CSV files, gzipped or not: every complaint names file, row and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from krylov.torch.training.files import read_bytes

__all__ = ["Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """Features as numbers, the target as it stands in the file."""

    path: Path
    features: NDArray[np.float64]
    names: list[str]
    target: list[str]
    target_name: str
    rows: list[int]  #: line numbers in the file


def read_table(path: Path, target: str | None = None, drop: Sequence[str] = ()) -> Table:
    """Read a table whose first line may hold the names of its columns.

    Parameters
    ----------
    path : Path
        A .csv or .csv.gz file.
    target : str, optional
        The column to predict, by name or by number from 1; the last one by default.
    drop : sequence of str
        Columns to leave out.

    Raises
    ------
    ValueError
        The file is not such a table, or there are gaps in it.
    """
    lines = [(number, row) for number, row in _lines(path) if row]
    if not lines:
        raise ValueError(f"{path}: no rows; a table needs some")
    names, lines = _header(lines)
    if not lines:
        raise ValueError(f"{path}: names of columns but no rows; a table needs some")
    for number, row in lines:
        if len(row) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(row)} columns, the first row has {len(names)}; "
                "the file may be truncated"
            )
    at = len(names) - 1 if target is None else _column(path, names, target)
    left_out = {_column(path, names, name) for name in drop}
    if at in left_out:
        raise ValueError(f"{path}: column {names[at]!r} cannot be the target and be left out")
    kept = [k for k in range(len(names)) if k != at and k not in left_out]
    if not kept:
        raise ValueError(f"{path}: no columns beside the target {names[at]!r}")
    features = np.empty((len(lines), len(kept)))
    for i, (number, row) in enumerate(lines):
        for j, k in enumerate(kept):
            features[i, j] = _number(path, number, names[k], row[k])
    labels = [row[at].strip() for _, row in lines]
    for (number, _), label in zip(lines, labels, strict=True):
        if label == "" or label.lower() == "nan":
            raise ValueError(
                f"{path}: row {number}, column {names[at]!r}: the target is missing; leave this row out"
            )
    return Table(path, features, [names[k] for k in kept], labels, names[at], [n for n, _ in lines])


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None


def _header(
    lines: list[tuple[int, list[str]]],
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    first = lines[0][1]
    # A row of samples holds at least one number, names are none.
    if any(_is_number(cell) for cell in first):
        return [str(k + 1) for k in range(len(first))], lines
    return [name.strip() for name in first], lines[1:]


def _column(path: Path, names: list[str], wanted: str) -> int:
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise ValueError(f"{path}: no column {wanted!r}; there are {', '.join(names)}")


def _number(path: Path, row: int, name: str, cell: str) -> float:
    where = f"{path}: row {row}, column {name!r}"
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
        if cell.strip():
            raise ValueError(
                f"{where}: {cell.strip()!r} is not a number; leave the column out or turn it into numbers"
            ) from None
    if not math.isfinite(value):
        raise ValueError(
            f"{where}: {'missing' if not cell.strip() else cell.strip()}; fill the gap, or leave out this row or "
            "this column"
        )
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
