"""One solve from the caller's arguments to the `SolveResult`: checks, memory, the run, the verdict."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator

from krylov import _core
from krylov.arrays import Exchange, common_dtype, mark_written, view
from krylov.drive import drive
from krylov.judge import Judge
from krylov.operators import Operator, as_operator
from krylov.outcome import Outcome, SolveResult
from krylov.preconditioners import inverse_diagonal_of
from krylov.stopping import Trace, Verdict
from krylov.workspace import Workspace, dtype_code

__all__ = ["Options", "solve"]

_CURVATURE = {"ignore": 0, "track": 0, "stop": 1, "boundary": 2}

_OUTCOMES = {
    _core.Status.CONVERGED: Outcome.CONVERGED,
    _core.Status.ITERATION_LIMIT: Outcome.ITERATION_LIMIT,
    _core.Status.NEGATIVE_CURVATURE: Outcome.NEGATIVE_CURVATURE,
    _core.Status.TRUST_RADIUS: Outcome.TRUST_RADIUS,
    _core.Status.INDEFINITE_PRECONDITIONER: Outcome.INDEFINITE_PRECONDITIONER,
    _core.Status.BREAKDOWN: Outcome.BREAKDOWN,
    _core.Status.BREAKDOWN_RHO: Outcome.BREAKDOWN,
    _core.Status.BREAKDOWN_OMEGA: Outcome.BREAKDOWN,
    _core.Status.STAGNATION: Outcome.STAGNATION,
    _core.Status.DIVERGENCE: Outcome.DIVERGENCE,
    _core.Status.NON_FINITE: Outcome.NON_FINITE,
}
# SciPy's codes of a broken Bi-CG-STAB.
_BREAKDOWN_INFO = {_core.Status.BREAKDOWN_RHO: -10, _core.Status.BREAKDOWN_OMEGA: -11}


@dataclass(frozen=True)
class Options:
    """Keywords common to the solvers, checked once."""

    rtol: float = 1e-5
    atol: float = 0.0
    maxiter: int | None = None
    M: Any = None
    callback: Callable[[Any], Any] | None = None
    curvature: str = "ignore"
    radius: float | None = None
    stop: Callable[[Trace], Verdict] | None = None
    candidates: Literal["all", "geometric"] | Iterable[int] | None = None
    workspace: Workspace | None = None
    check_every: int = 1
    out: Any = None
    max_restarts: int = 0
    step: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is None or isinstance(value, str) or not float(value) >= 0:
                raise ValueError(f"{name} must be a number and not negative, got {value!r}")
        if self.maxiter is not None and operator.index(self.maxiter) < 0:
            raise ValueError(f"maxiter must not be negative, got {self.maxiter}")
        if operator.index(self.check_every) < 1:
            raise ValueError(f"check_every must be at least 1, got {self.check_every}")
        if operator.index(self.max_restarts) < 0:
            raise ValueError(f"max_restarts must not be negative, got {self.max_restarts}")
        if self.radius is not None and not 0 < float(self.radius) < math.inf:
            raise ValueError(f"radius must be a positive number, got {self.radius!r}")
        if self.curvature == "boundary" and self.radius is None:
            raise ValueError(
                "curvature='boundary' follows a direction to the trust radius: give radius"
            )
        for name in ("callback", "stop"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable, not {type(value).__name__}")

    @property
    def track(self) -> bool:
        """Whether Bi-CG-STAB measures the curvature of every iterate."""
        return (
            self.curvature == "track"
            or self.candidates is not None
            or getattr(self.stop, "needs_quadratic", False)
        )


def solve(method: str, A: Any, b: Any, x0: Any, options: Options) -> SolveResult:
    """Solve A x = b with a recurrence of the native core."""
    a = as_operator(A, "A")
    exchange = Exchange(b)
    rhs = view(b, "b")
    n = rhs.size
    if rhs.ndim not in (1, 2) or (rhs.ndim == 2 and rhs.shape[1] != 1):
        raise ValueError(f"b must have shape (n,) or (n, 1), but its shape is {rhs.shape}")
    if a.shape is not None and a.shape[0] != n:
        raise ValueError(f"shapes of A {a.shape} and b {rhs.shape} are incompatible")
    dtype = common_dtype(rhs.dtype) if a.dtype is None else common_dtype(a.dtype, rhs.dtype)
    rhs = np.ascontiguousarray(rhs.reshape(n), dtype)
    m, diagonal = _preconditioner(A, options.M, n, dtype)
    x = _solution_memory(options.out, rhs, n, dtype)
    has_x0 = x0 is not None and _fill_start(x, x0, rhs, m, diagonal, exchange)
    radius = 0.0 if options.radius is None else float(options.radius)
    if radius and has_x0 and not float(np.linalg.norm(x)) < radius:
        raise ValueError(
            f"x0 has norm {np.linalg.norm(x):.3g}, outside the trust radius {radius:.3g}"
        )

    maxiter = 10 * n if options.maxiter is None else operator.index(options.maxiter)
    watched = not (options.callback is None and options.stop is None and options.candidates is None)
    fused_diagonal = diagonal is not None and method in ("cg", "flexible_cg")
    run = _core.Run(
        method,
        n,
        dtype_code(dtype),
        rtol=float(options.rtol),
        atol=float(options.atol),
        maxiter=maxiter,
        has_x0=has_x0,
        preconditioned=m is not None or (diagonal is not None and not fused_diagonal),
        diagonal=fused_diagonal,
        judge_every=options.check_every if watched else 0,
        on_curvature=_CURVATURE[options.curvature],
        radius=radius,
        max_restarts=options.max_restarts,
        track=options.track,
        step=options.step,
    )
    workspace = options.workspace or Workspace(method, n, dtype)
    workspace.acquire(method, n, dtype)
    try:
        memory = {"b": rhs, "x": x, **workspace.vectors}
        if diagonal is not None:
            memory["diag"] = diagonal
            if not fused_diagonal:
                run.set_diagonal(diagonal)
        for slot, name in enumerate(run.slots):
            if name in memory:
                run.set_vector(slot, memory[name])
        multiply = a.multiplier(n, dtype, exchange)
        matrix = a.csr(dtype)
        if matrix is not None:
            run.set_matrix(matrix)
        run.set_convert(_converter(a, m, n, dtype))
        judge = Judge(run, x, exchange, options, maxiter) if watched else None
        drive(run, multiply, m.multiplier(n, dtype, exchange) if m else None, judge)
        _refuse_non_finite_input(run, rhs)
        result = _report(run, method, x, maxiter, options, judge, exchange)
    finally:
        workspace.release()
    if options.out is not None:
        mark_written(options.out)
    return result


def _preconditioner(
    A: Any, M: Any, n: int, dtype: np.dtype[Any]
) -> tuple[Operator | None, np.ndarray[Any, Any] | None]:
    """M as an operator, or as a diagonal."""
    if M is None:
        psolve = getattr(A, "psolve", None)  # SciPy's contract
        if psolve is None:
            return None, None
        M = LinearOperator((n, n), matvec=psolve, dtype=dtype)
    if isinstance(M, np.ndarray) and M.ndim == 1:
        raise ValueError(
            "M must be an operator; for a diagonal give JacobiPreconditioner(diagonal)"
        )
    m = as_operator(M, "M")
    if m.shape is not None and m.shape[0] != n:
        raise ValueError(f"shapes of M {m.shape} and b ({n},) are incompatible")
    diagonal = inverse_diagonal_of(M)
    if diagonal is None or (diagonal.dtype.kind == "c" and dtype.kind != "c"):
        return m, None
    return None, np.ascontiguousarray(diagonal, dtype)


def _solution_memory(
    out: Any, rhs: np.ndarray[Any, Any], n: int, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    if out is None:
        return np.zeros(n, dtype)
    x = view(out, "out")
    if x.shape != (n,) or x.dtype != dtype or not x.flags.c_contiguous or not x.flags.writeable:
        raise ValueError(
            f"out must be a contiguous, writable vector of shape ({n},) and dtype {dtype}; it has shape "
            f"{x.shape} and dtype {x.dtype}"
        )
    if np.may_share_memory(x, rhs):
        raise ValueError("out must not share memory with b")
    return x


def _fill_start(
    x: np.ndarray[Any, Any],
    x0: Any,
    rhs: np.ndarray[Any, Any],
    m: Operator | None,
    diagonal: np.ndarray[Any, Any] | None,
    exchange: Exchange,
) -> bool:
    if isinstance(x0, str):
        if x0 != "Mb":
            raise ValueError(f"x0 must be a vector or 'Mb', got {x0!r}")
        if diagonal is not None:
            x[:] = diagonal * rhs
        elif m is not None:
            answer = m.multiplier(x.size, x.dtype, exchange)(rhs.copy(), np.empty_like(x))
            x[:] = m.converter(x.size, x.dtype, narrow=True)(answer)
        else:
            x[:] = rhs
        return True
    start = view(x0, "x0")
    if (
        start.size != x.size
        or start.ndim not in (1, 2)
        or (start.ndim == 2 and start.shape[1] != 1)
    ):
        raise ValueError(f"shapes of b ({x.size},) and x0 {start.shape} are incompatible")
    if start.dtype.kind == "c" and x.dtype.kind != "c":
        raise TypeError(f"x0 is complex, but A and b are real ({x.dtype}): take its real part")
    x[:] = start.reshape(-1)
    _refuse_non_finite(x, "x0")
    return True


def _converter(
    a: Operator, m: Operator | None, n: int, dtype: np.dtype[Any]
) -> Callable[[Any, bool], Any]:
    convert_a = a.converter(n, dtype)
    convert_m = convert_a if m is None else m.converter(n, dtype, narrow=True)
    return lambda answer, product: (convert_a if product else convert_m)(answer)


def _refuse_non_finite(vector: np.ndarray[Any, Any], name: str) -> None:
    finite = np.isfinite(vector)
    if not finite.all():
        i = int(np.argmin(finite))
        raise ValueError(f"{name} contains {vector[i]} at index {i}; every entry must be finite")


def _refuse_non_finite_input(run: _core.Run, rhs: np.ndarray[Any, Any]) -> None:
    if not math.isfinite(run.b_norm):
        _refuse_non_finite(rhs, "b")


def _report(
    run: _core.Run,
    method: str,
    x: np.ndarray[Any, Any],
    maxiter: int,
    options: Options,
    judge: Judge | None,
    exchange: Exchange,
) -> SolveResult:
    status, niter = run.status, run.iterations
    if status == _core.Status.STOPPED:
        assert judge is not None
        assert judge.outcome is not None
        outcome = judge.outcome
    else:
        outcome = _OUTCOMES[status]
    met_negative = run.negative_curvatures > 0 and method != "bicgstab"
    if outcome is Outcome.CONVERGED and (met_negative or run.indefinite_preconditioner):
        outcome = Outcome.CONVERGED_INDEFINITE
    elif outcome is Outcome.ITERATION_LIMIT and met_negative and maxiter > 0:
        outcome = Outcome.NEGATIVE_CURVATURE

    converged = outcome in (Outcome.CONVERGED, Outcome.CONVERGED_INDEFINITE)
    exhausted = 0 < maxiter <= niter
    if maxiter == 0 or (converged and not exhausted):
        info = 0
    else:
        info = _BREAKDOWN_INFO.get(status, max(niter, 1))

    direction = None
    if status == _core.Status.NEGATIVE_CURVATURE:
        p = run.vectors[run.direction_slot]
        direction = exchange.outward(p / np.linalg.norm(p))
    quadratic_values = run.quadratic_values
    if method == "bicgstab" and not options.track:
        quadratic_values = np.empty(0)
    true_norm = run.true_residual_norm
    candidates = [] if judge is None else judge.finish(niter)
    curvature = run.curvature()
    return SolveResult(
        exchange.outward(x) if options.out is None else options.out,
        info,
        outcome=outcome,
        niter=niter,
        nmatvec=run.products,
        restarts=run.restarts,
        residual_norm=float(run.residual_norms[-1]) if run.residual_norms.size else math.nan,
        true_residual_norm=None if true_norm < 0 else true_norm,
        residual_norms=run.residual_norms,
        quadratic_values=quadratic_values,
        curvature=curvature,
        direction=direction,
        direction_curvature=run.direction_curvature,
        candidates=candidates,
        _alphas=run.alphas,
        _betas=run.betas,
    )
