"""What a finished run means: outcome, SciPy's info, the iterate that is returned, and the direction of curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core
from krylov.outcome import Outcome, SolveResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.judge import Judge
    from krylov.options import Options
    from krylov.problem import Problem

__all__ = ["report"]

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

# A run that ends in infinity after its residual had grown this much has diverged; its products were sound.
_GROWTH = 1e8


def report(
    run: _core.Run,
    method: str,
    problem: Problem,
    options: Options,
    judge: Judge | None,
    maxiter: int,
    spent: int,
) -> SolveResult:
    """Build the result; `spent` products were made before the run."""
    residual_norms = run.residual_norms
    outcome = _outcome(run, method, judge, residual_norms)
    true_norm = run.true_residual_norm
    candidates = [] if judge is None else judge.finish(run.iterations)
    curvature = run.curvature()
    # x.Ax is finite unless x has overflowed (or is so large that its square does).
    overflowed = not math.isfinite(curvature) and not np.isfinite(problem.x).all()
    if overflowed and outcome.ok:
        outcome = Outcome.NON_FINITE
    if overflowed or (not outcome.ok and _is_worse_than_start(run, method, residual_norms)):
        problem.x[:] = 0 if problem.start is None else problem.start
        true_norm = float(residual_norms[0]) if residual_norms.size else math.nan
        curvature = 0.0 if problem.start is None else math.nan
    direction, direction_curvature = None, run.direction_curvature
    if run.status == _core.Status.NEGATIVE_CURVATURE:
        p, v = run.vectors[run.direction_slot], run.vectors[run.slots.index("v")]
        unit, direction_curvature = _unit_direction(p, v)
        direction = problem.exchange.outward(unit)
    tracked = method != "bicgstab" or options.track
    return SolveResult(
        problem.exchange.outward(problem.x) if options.out is None else options.out,
        _info(run, method, outcome, maxiter),
        outcome=outcome,
        niter=run.iterations,
        nmatvec=run.products + spent,
        restarts=run.restarts,
        residual_norm=float(residual_norms[-1]) if residual_norms.size else math.nan,
        true_residual_norm=None if true_norm < 0 else true_norm,
        residual_norms=residual_norms,
        quadratic_values=run.quadratic_values if tracked else np.empty(0),
        curvature=curvature,
        direction=direction,
        direction_curvature=direction_curvature,
        candidates=candidates,
        _alphas=run.alphas,
        _betas=run.betas,
    )


def _met_negative(run: _core.Run, method: str) -> bool:
    """Whether the recurrence itself relied on curvature that was not positive."""
    return run.negative_curvatures > 0 and method != "bicgstab"


def _outcome(
    run: _core.Run, method: str, judge: Judge | None, residual_norms: NDArray[np.float64]
) -> Outcome:
    if run.status == _core.Status.STOPPED:
        assert judge is not None
        assert judge.outcome is not None
        return judge.outcome
    outcome = _OUTCOMES[run.status]
    met_negative = _met_negative(run, method)
    if outcome is Outcome.CONVERGED and (met_negative or run.indefinite_preconditioner):
        return Outcome.CONVERGED_INDEFINITE
    if outcome is Outcome.ITERATION_LIMIT and met_negative:
        return Outcome.NEGATIVE_CURVATURE
    if outcome is Outcome.NON_FINITE and residual_norms.size:
        return _why_not_finite(run, residual_norms)
    return outcome


def _why_not_finite(run: _core.Run, residual_norms: NDArray[np.float64]) -> Outcome:
    """Whether the products were at fault, or sound and given vectors that had grown beyond their dtype."""
    start = float(residual_norms[0])
    if residual_norms[np.isfinite(residual_norms)].max(initial=0.0) / _GROWTH > start:
        return Outcome.DIVERGENCE
    if "shadow" in run.slots:
        p = run.vectors[run.slots.index("p")]
        largest = float(np.abs(p).max(initial=0.0)) * run.sigma / _GROWTH
        if run.iterations > 0 and not largest <= start:
            return Outcome.BREAKDOWN
    return Outcome.NON_FINITE


def _info(run: _core.Run, method: str, outcome: Outcome, maxiter: int) -> int:
    if maxiter == 0 and outcome is Outcome.ITERATION_LIMIT:
        return 0
    if outcome in (Outcome.CONVERGED, Outcome.CONVERGED_INDEFINITE):
        # SciPy tests for convergence before an iteration, so never after the last; its bicgstab after a half step.
        exhausted = run.iterations >= maxiter and not run.ended_at_half_step
        return maxiter if exhausted and maxiter > 0 else 0
    return _BREAKDOWN_INFO.get(run.status, max(run.iterations, 1))


def _is_worse_than_start(run: _core.Run, method: str, residual_norms: NDArray[np.float64]) -> bool:
    # The last iterate of cg on a definite system minimises the quadratic, whatever its residual.
    by_residual = method in ("bicgstab", "neumann") or _met_negative(run, method)
    if not by_residual or run.true_residual_norm < 0 or not residual_norms.size:
        return False
    # Also where the recomputed residual is no number.
    return not run.true_residual_norm <= float(residual_norms[0])


def _unit_direction(p: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Unit vector along p and its curvature p.v, in float64 and scaled first: squares of tiny vectors vanish."""
    wide = np.result_type(p.dtype, np.float64)
    p_scale, v_scale = float(np.abs(p).max()), float(np.abs(v).max())
    q = p.astype(wide) / p_scale
    norm = float(np.linalg.norm(q))
    w = v.astype(wide) / v_scale if v_scale > 0 else np.zeros_like(q)
    curvature = float(np.vdot(q, w).real) / norm / norm * v_scale / p_scale
    unit: NDArray[Any] = (q / norm).astype(p.dtype)
    return unit, curvature
