"""The promise of equal bits: a solve gives the same numbers whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import krylov
from krylov import _core
from krylov.bench.poisson import poisson, right_hand_side
from krylov.bench.rows import row
from krylov.bench.taught import FORMS

__all__ = ["METHODS", "THREADS", "equal_bits", "equal_bits_of_form"]

METHODS = ("cg", "flexible_cg", "bicgstab")
THREADS = (1, 2, 3, 4)


def equal_bits(method: str, side: int = 300, iterations: int = 60) -> dict[str, Any]:
    """Compare x and the history of residual norms, bit by bit, over solves with 1, 2, 3 and 4 threads."""
    a = poisson(side)
    b = right_hand_side(side * side)
    jacobi = krylov.JacobiPreconditioner(1.0 + np.arange(b.size) % 7)

    def bits() -> tuple[bytes, ...]:
        runs = [
            getattr(krylov, method)(a, b, rtol=0.0, maxiter=iterations, M=m) for m in (None, jacobi)
        ]
        return tuple(part.tobytes() for run in runs for part in (run.x, run.residual_norms))

    return _compared(f"{method}: bits of x and residuals", b.size, bits)


def equal_bits_of_form(form: str, side: int = 200, iterations: int = 40) -> dict[str, Any]:
    """Compare a low-rank preconditioner from its making, by itself and in solves that it learns from."""
    a = poisson(side)

    def bits() -> tuple[bytes, ...]:
        M = FORMS[form](side * side)
        if hasattr(M, "update"):
            M.harvest = True
        b = right_hand_side(side * side).astype(M.dtype)
        parts = [M @ b]
        for solver in (krylov.flexible_cg, krylov.cg, krylov.bicgstab):
            run = solver(a.astype(M.dtype), b, rtol=0.0, maxiter=iterations, M=M)
            parts += [run.x, run.residual_norms]
        parts.append(M @ b)
        return tuple(part.tobytes() for part in parts)

    return _compared(f"{form}: bits of M b, and of solves that it learns from", side * side, bits)


def _compared(what: str, n: int, bits: Callable[[], tuple[bytes, ...]]) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    results = set()
    for count in THREADS:
        with threadpool_limits(count, user_api="openmp"):
            if _core.threads() != count and _core.thread_backend() != "serial":
                raise RuntimeError(f"asked for {count} threads, got {_core.threads()}")
            results.add(bits())
    different = len(results) - 1
    return row(
        f"{what} over 1, 2, 3, 4 threads ({_core.thread_backend()})",
        n,
        "equal" if different == 0 else f"{different} different",
        "1 thread",
        bar=("equal", different == 0),
    )
