"""Low-rank preconditioners that have learnt something, of any size, for timing: what they know has no meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator

import krylov
from krylov import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["ACTIVE", "FORMS", "lbfgs", "nystrom", "pairs", "ritz"]

Storage = Literal["float64", "float32", "bfloat16"]

# The unknowns that the operator of `VectorPart` touches.
ACTIVE = 64


def pairs(
    n: int, count: int, dtype: DTypeLike = np.float64, active: int | None = None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Random directions with their products by a diagonal operator, zero beyond the `active` first entries."""
    diagonal = np.logspace(-4, 0, active or n).astype(dtype)
    for k in range(count):
        s = np.empty(n, dtype)
        _core.fill_random(s, 1000 + k)
        s[diagonal.size :] = 0
        y = np.zeros_like(s)
        y[: diagonal.size] = diagonal * s[: diagonal.size]
        yield s, y


def lbfgs(
    n: int,
    m: int,
    *,
    dtype: DTypeLike = np.float64,
    storage: Storage | None = None,
    apply: Literal["compact", "two_loop"] = "compact",
    active: int | None = None,
) -> krylov.LBFGSPreconditioner:
    """L-BFGS with m pairs."""
    M = krylov.LBFGSPreconditioner(n, m, dtype=dtype, storage=storage, apply=apply)
    for s, y in pairs(n, m, dtype, active):
        M.update(s, y)
    return M


def ritz(
    n: int,
    m: int,
    *,
    dtype: DTypeLike = np.float64,
    storage: Storage | None = None,
    active: int | None = None,
) -> krylov.RitzPreconditioner:
    """Ritz with m vectors."""
    M = krylov.RitzPreconditioner(n, m, dtype=dtype, storage=storage)
    for s, y in pairs(n, 2 * m, dtype, active):
        M.update(s, y)
    return M


def nystrom(n: int, m: int, *, dtype: DTypeLike = np.float64) -> krylov.NystromPreconditioner:
    """Nystroem with m vectors."""
    diagonal = np.logspace(-4, 0, n).astype(dtype)
    operator = LinearOperator((n, n), matvec=lambda x: diagonal * np.reshape(x, -1), dtype=dtype)
    return krylov.NystromPreconditioner(operator, m, shift=1e-3)


# Every way in which a low-rank preconditioner is applied, for so many unknowns.
FORMS: dict[str, Callable[[int], Any]] = {
    "L-BFGS, compact": lambda n: lbfgs(n, 12),
    "L-BFGS, two loops": lambda n: lbfgs(n, 12, apply="two_loop"),
    "L-BFGS in float32": lambda n: lbfgs(n, 12, storage="float32"),
    "L-BFGS in bfloat16": lambda n: lbfgs(n, 12, storage="bfloat16"),
    "L-BFGS, two loops in bfloat16": lambda n: lbfgs(n, 12, storage="bfloat16", apply="two_loop"),
    "L-BFGS of float32 in bfloat16": lambda n: lbfgs(n, 12, dtype="f4", storage="bfloat16"),
    "L-BFGS of complex128": lambda n: lbfgs(n, 12, dtype="c16"),
    "Ritz": lambda n: ritz(n, 12),
    "Ritz in bfloat16": lambda n: ritz(n, 12, storage="bfloat16"),
    "Nystroem": lambda n: nystrom(n, 12),
}
