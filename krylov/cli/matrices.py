"""The matrix of a solve: read, checked and classified."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from krylov.cli.errors import InputError
from krylov.cli.market import read_matrix_market

#: Entries a_ij and conj(a_ji) that differ by less than this, relatively, count as equal: files
#: often hold decimals that were rounded on their way.
_SYMMETRY_TOLERANCE = 16 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Matrix:
    """A square matrix without empty rows, ready for a solver."""

    path: Path
    array: csr_array
    kind: str  #: as the file declares it: real, integer, pattern, complex
    symmetry: str  #: as its entries say: symmetric, Hermitian, complex symmetric, ...
    notes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.array.shape[0])

    @property
    def self_adjoint(self) -> bool:
        """Whether conjugate gradients may be tried."""
        return self.symmetry in ("symmetric", "Hermitian")

    def diagonal(self) -> np.ndarray:
        """Return the diagonal; real where it has to be."""
        diagonal = np.asarray(self.array.diagonal())
        return np.real(diagonal) if self.self_adjoint else diagonal


def read_matrix(path: Path) -> Matrix:
    """Read, check and classify a Matrix Market file.

    Raises
    ------
    InputError
        Unreadable, not square, empty, NaN or infinite entries, rows or columns without entries.
    """
    market = read_matrix_market(path)
    rows, columns = market.data.shape
    if rows != columns:
        hint = "; a right-hand side goes with --rhs" if columns == 1 else ""
        raise InputError(f"{path}: not square, {rows} x {columns}{hint}")
    if rows == 0:
        raise InputError(f"{path}: has no rows")
    entries = coo_array(market.data)
    notes = []
    if market.field == "pattern":
        notes.append("pattern only: every stored entry taken as 1")
    elif entries.dtype.kind in "iub":
        notes.append("integer entries converted to float64")
    if entries.dtype.kind in "iub":
        entries = entries.astype(np.float64)
    _check_finite(path, entries)
    stored = entries.nnz
    entries.eliminate_zeros()
    if entries.nnz < stored:
        notes.append(f"{stored - entries.nnz} explicit zeros dropped")
    _check_not_empty(path, entries)
    array = csr_array(entries)
    array.sort_indices()
    return Matrix(path, array, market.field, classify(array), notes)


def classify(array: Any) -> str:
    """Name the symmetry of a square sparse array, from its entries."""
    is_complex = array.dtype.kind == "c"
    adjoint = csr_array(array.conj().T)
    if _equal(array, adjoint):
        return "Hermitian" if is_complex else "symmetric"
    if _equal(array, -adjoint):
        return "skew-Hermitian" if is_complex else "skew-symmetric"
    if is_complex and _equal(array, csr_array(array.T)):
        return "complex symmetric"
    return "nonsymmetric"


def choose_method(matrix: Matrix) -> tuple[str, str]:
    """Pick a solver from the symmetry and the diagonal, and say why.

    A positive diagonal is necessary for positive definiteness, not sufficient: the outcome of the
    run tells when it was not enough.
    """
    if not matrix.self_adjoint:
        return "bicgstab", f"the matrix is {matrix.symmetry}"
    wrong = int(np.count_nonzero(~(matrix.diagonal() > 0)))
    if wrong == 0:
        return "cg", f"the matrix is {matrix.symmetry} with a positive diagonal"
    return "bicgstab", (
        f"the matrix is {matrix.symmetry}, but {wrong} of its {matrix.n} diagonal entries are "
        "not positive, so it is not positive definite"
    )


def check_jacobi(matrix: Matrix) -> None:
    """Refuse a diagonal that Jacobi's preconditioner would divide by zero."""
    zeros = np.flatnonzero(matrix.diagonal() == 0)
    if zeros.size:
        raise InputError(
            f"{matrix.path}: --precond jacobi divides by the diagonal, which is zero in "
            f"{_some_rows(zeros)}; use --precond none"
        )


def _equal(one: Any, other: Any) -> bool:
    # Entry by entry: the largest entry says nothing about the small ones of a badly scaled matrix.
    difference = abs(one - other)
    bound = abs(one).maximum(abs(other)) * _SYMMETRY_TOLERANCE
    return bool((difference - bound).max() <= 0)


def _check_finite(path: Path, entries: Any) -> None:
    wrong = np.flatnonzero(~np.isfinite(entries.data))
    if wrong.size:
        at = wrong[0]
        raise InputError(
            f"{path}: {wrong.size} entries are NaN or infinite, the first in row "
            f"{entries.row[at] + 1}, column {entries.col[at] + 1}"
        )


def _check_not_empty(path: Path, entries: Any) -> None:
    # Before anything of length n is allocated: n comes from the size line, which may be wrong.
    for name, index in (("row", entries.row), ("column", entries.col)):
        used = np.unique(index)
        missing = entries.shape[0] - used.size
        if missing:
            gaps = np.flatnonzero(used != np.arange(used.size))
            first = int(gaps[0]) if gaps.size else used.size
            raise InputError(
                f"{path}: singular, {missing} of its {entries.shape[0]} {name}s hold no nonzero "
                f"entry (the first: {name} {first + 1})"
            )


def _some_rows(indices: np.ndarray) -> str:
    if indices.size == 1:
        return f"row {indices[0] + 1}"
    return f"{indices.size} rows (the first: row {indices[0] + 1})"
