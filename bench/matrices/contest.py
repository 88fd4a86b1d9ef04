"""One system solved by our methods and by SciPy's, turn by turn, and what is claimed checked from outside."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse.linalg as spla
from systems import ILU_MAXITER, System, label, preconditioners

import krylov

# Solves are repeated for their times, unless one takes longer than this (seconds).
REPEATS, ONCE = 3, 0.3
# A residual above this many tolerances does not bear out a claim of convergence.
STRICT = 1.001
# What a Bi-CG-STAB that broke down is allowed beyond SciPy's mode.
RESTARTS = 10

# kind: (column, our solver with its options, SciPy's)
METHODS: dict[str, list[tuple[str, Callable[..., Any], str]]] = {
    "positive definite": [("cg", krylov.cg, "cg"), ("flexible_cg", krylov.flexible_cg, "cg")],
    "indefinite": [
        ("cg, stop", partial(krylov.cg, curvature="stop"), "cg"),
        ("bicgstab", krylov.bicgstab, "bicgstab"),
    ],
    "nonsymmetric": [("bicgstab", krylov.bicgstab, "bicgstab")],
}


@dataclass
class Row:
    """One line of the table."""

    matrix: str
    n: int
    nonzeros: int
    kind: str
    method: str
    M: str
    outcome: str = ""
    iterations: int | None = None
    residual: float = math.nan  #: |b - A x| / |b|, recomputed
    seconds: float = math.nan
    scipy_info: int | None = None
    scipy_iterations: int | None = None
    scipy_residual: float = math.nan
    scipy_seconds: float = math.nan
    faults: list[str] = field(default_factory=list)  #: what was claimed and is not so
    scipy_wrong: bool = False
    ok: bool = False


class Truth:
    """|b - A x| / |b| in extended precision, and what its rounding in the solver's precision may amount to."""

    def __init__(self, matrix: Any, b: np.ndarray) -> None:
        self.dtype = np.clongdouble if matrix.dtype.kind == "c" else np.longdouble
        self.A, self.b = matrix.astype(self.dtype), b.astype(self.dtype)
        self.size = abs(matrix)
        self.b_norm = self._norm(self.b)
        self.eps = np.finfo(b.dtype).eps * (4 + np.sqrt(np.diff(matrix.indptr).max()))

    def _norm(self, v: np.ndarray) -> np.longdouble:
        return np.sqrt(np.sum(np.abs(v) ** 2))

    def residual(self, x: np.ndarray) -> float:
        if not np.isfinite(x).all():
            return math.nan
        return float(self._norm(self.b - self.A @ x.astype(self.dtype)) / self.b_norm)

    def rounding(self, x: np.ndarray) -> float:
        return float(self.eps * self._norm(self.size @ np.abs(x) + np.abs(self.b)) / self.b_norm)


def run(system: System, rtol: float, maxiter: int) -> Iterator[Row]:
    n = len(system.b)
    truth = Truth(system.matrix, system.b)
    for name, M, why in preconditioners(system):
        limit = min(10 * n, ILU_MAXITER if name == "ilu" else maxiter)
        # Ours one after the other and SciPy's, round after round, so that a busy machine slows all alike.
        rows = [
            Row(label(system), n, system.matrix.nnz, system.kind, column, name)
            for column, _, _ in METHODS[system.kind]
        ]
        if why:
            yield from (skipped(row, why) for row in rows[:1])
            continue
        for attempt in range(REPEATS):
            slowest = 0.0
            reference: dict[str, tuple[Any, ...]] = {}
            for row, (_, ours, theirs) in zip(rows, METHODS[system.kind], strict=True):
                slowest = max(slowest, solve(row, ours, system, M, truth, rtol, limit))
                if theirs not in reference:
                    reference[theirs] = solve_scipy(theirs, system, M, rtol, limit)
                    slowest = max(slowest, reference[theirs][-1])
                x, row.scipy_info, row.scipy_iterations, seconds = reference[theirs]
                row.scipy_seconds = min(seconds, row.scipy_seconds) if attempt else seconds
                if not attempt:
                    row.scipy_residual = truth.residual(x)
                    row.scipy_wrong = (
                        row.scipy_info == 0 and not row.scipy_residual <= STRICT * rtol
                    )
            if slowest > ONCE:
                break
        yield from rows
        for row in rows:
            if row.outcome == "BREAKDOWN" and row.method == "bicgstab":
                yield restarted(row, system, M, truth, rtol, limit)


def restarted(broken: Row, system: System, M: Any, truth: Truth, rtol: float, maxiter: int) -> Row:
    """The same solve with restarts, which SciPy's mode has none of."""
    row = replace(
        broken, method=f"bicgstab, {RESTARTS} restarts", outcome="", faults=[], seconds=math.nan
    )
    solve(row, partial(krylov.bicgstab, max_restarts=RESTARTS), system, M, truth, rtol, maxiter)
    return row


def skipped(row: Row, why: str) -> Row:
    row.method, row.outcome = "", f"no preconditioner: {why}"
    return row


def solve(
    row: Row,
    ours: Callable[..., Any],
    system: System,
    M: Any,
    truth: Truth,
    rtol: float,
    maxiter: int,
) -> float:
    start = time.perf_counter()
    try:
        result = ours(system.A, system.b, rtol=rtol, maxiter=maxiter, M=M)
    except Exception as error:
        row.outcome = f"{type(error).__name__}: {error}"
        row.faults.append("exception")
        return time.perf_counter() - start
    seconds = time.perf_counter() - start
    first = not row.outcome
    row.seconds = seconds if first else min(row.seconds, seconds)
    if first:
        row.outcome, row.ok = result.outcome.name, result.outcome.ok
        row.iterations, row.residual = result.niter, truth.residual(result.x)
        row.faults += faults(result, row, truth, rtol)
    return seconds


def faults(result: Any, row: Row, truth: Truth, rtol: float) -> Iterator[str]:
    """What a result claims and does not keep."""
    if not np.isfinite(result.x).all():
        yield "x is not finite"
        return
    slack = truth.rounding(result.x)
    if row.ok and not row.residual <= STRICT * rtol:
        # What the solver's own precision cannot tell from the tolerance is no lie.
        yield "above the tolerance" if row.residual <= rtol + slack else "wrong: converged"
    if result.info == 0 and not row.ok:
        yield "wrong: info is 0"
    told = result.true_residual_norm
    if (
        told is not None
        and abs(told / float(truth.b_norm) - row.residual) > slack + 1e-6 * row.residual
    ):
        yield "wrong: true residual"
    if "bicgstab" in row.method and not row.ok and row.residual > 1 + slack:
        yield "worse than the start"
    if result.direction is not None:
        p = result.direction.astype(truth.dtype)
        if not np.vdot(p, truth.A @ p).real < truth.eps * abs(truth.A).max():
            yield "wrong: direction"


def solve_scipy(
    name: str, system: System, M: Any, rtol: float, maxiter: int
) -> tuple[Any, int, int, float]:
    count = [0]

    def callback(_: Any) -> None:
        count[0] += 1

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        x, info = getattr(spla, name)(
            system.A, system.b, rtol=rtol, atol=0.0, maxiter=maxiter, M=M, callback=callback
        )
    return x, info, count[0], time.perf_counter() - start
