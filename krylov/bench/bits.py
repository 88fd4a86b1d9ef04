"""The promise of equal bits: a solve gives the same numbers whatever the number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np

import krylov
from krylov import _core
from krylov.bench.poisson import poisson, right_hand_side
from krylov.bench.rows import row

__all__ = ["METHODS", "THREADS", "equal_bits"]

METHODS = ("cg", "flexible_cg", "bicgstab")
THREADS = (1, 2, 3, 4)


def equal_bits(method: str, side: int = 300, iterations: int = 60) -> dict[str, Any]:
    """Compare x and the history of residual norms, bit by bit, over solves with 1, 2, 3 and 4 threads."""
    from threadpoolctl import threadpool_limits

    a = poisson(side)
    b = right_hand_side(side * side)
    jacobi = krylov.JacobiPreconditioner(1.0 + np.arange(b.size) % 7)
    results = set()
    for count in THREADS:
        with threadpool_limits(count, user_api="openmp"):
            if _core.threads() != count and _core.thread_backend() != "serial":
                raise RuntimeError(f"asked for {count} threads, got {_core.threads()}")
            for m in (None, jacobi):
                result = getattr(krylov, method)(a, b, rtol=0.0, maxiter=iterations, M=m)
                results.add((m is None, result.x.tobytes(), result.residual_norms.tobytes()))
    different = len(results) - 2
    return row(
        f"{method}: bits of x and residuals over 1, 2, 3, 4 threads ({_core.thread_backend()})",
        b.size,
        "equal" if different == 0 else f"{different} different",
        "1 thread",
        bar=("equal", different == 0),
    )
