"""Right-hand sides and solutions in files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy.sparse import issparse

from krylov.cli.errors import InputError
from krylov.cli.market import check_readable, first_bytes, is_matrix_market, read_matrix_market

_NPY_MAGIC = b"\x93NUMPY"

#: Formats in which a solution is written.
SOLUTION_SUFFIXES = (".npy", ".mtx")


def read_columns(path: Path, n: int) -> np.ndarray:
    """Read right-hand sides of length ``n``, one a column: Matrix Market, ``.npy`` or text, by content."""
    check_readable(path)
    if is_matrix_market(path):
        data = read_matrix_market(path).data
        values = data.toarray() if issparse(data) else np.asarray(data)
    elif first_bytes(path).startswith(_NPY_MAGIC):
        values = _read_npy(path)
    else:
        values = _read_text(path)
    return _checked(path, values, n)


def write_solution(path: Path, x: np.ndarray) -> None:
    """Write a solution, or several as columns, as ``.npy`` or as a Matrix Market array."""
    try:
        with path.open("wb") as stream:
            if path.suffix == ".npy":
                np.save(stream, x)
            else:
                scipy.io.mmwrite(stream, x.reshape(len(x), -1))
    except OSError as error:
        raise InputError(f"{path}: the solution could not be written ({error})") from None


def _read_npy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: broken .npy file ({error})") from None


def _read_text(path: Path) -> Any:
    for dtype in (np.float64, np.complex128):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # no data: the length will say so
                return np.loadtxt(path, dtype=dtype, comments=("#", "%"), ndmin=1)
        except (ValueError, OSError, EOFError):
            continue
    raise InputError(
        f"{path}: not a vector: expected Matrix Market, .npy, or text with one row a line"
    )


def _checked(path: Path, values: Any, n: int) -> np.ndarray:
    if values.dtype.kind not in "iubfc":
        raise InputError(f"{path}: holds {values.dtype}, not numbers")
    if values.ndim < 2 or (1 in values.shape and n > 1):
        values = values.reshape(-1, 1)
    shape = " x ".join(str(size) for size in values.shape)
    if values.ndim > 2:
        raise InputError(f"{path}: holds a {shape} array, not columns")
    if values.shape[1] == 1 and len(values) != n:
        raise InputError(f"{path}: has {len(values)} entries, but the matrix has {n} rows")
    if len(values) != n:
        raise InputError(f"{path}: holds a {shape} array, but the matrix has {n} rows")
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0] + 1
        where = f"entry {row}" if values.shape[1] == 1 else f"entry {row} of column {column}"
        raise InputError(f"{path}: {len(wrong)} entries are NaN or infinite, the first is {where}")
    kind = np.complex128 if values.dtype.kind == "c" else np.float64
    columns: np.ndarray = values.astype(values.dtype if values.dtype.char in "fdFD" else kind)
    return columns
