"""One solve: from a checked problem to the `SolveResult`."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core
from krylov.arrays import mark_written, refuse_non_finite
from krylov.drive import drive
from krylov.judge import Judge
from krylov.outcome import Outcome, SolveResult
from krylov.problem import Problem, prepare
from krylov.spectrum import neumann_scale
from krylov.workspace import Workspace, dtype_code

if TYPE_CHECKING:
    from krylov.options import Options

__all__ = ["solve"]

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


def solve(method: str, A: Any, b: Any, x0: Any, options: Options) -> SolveResult:
    """Solve A x = b with a recurrence of the native core."""
    problem = prepare(A, b, x0, options)
    workspace = options.workspace or Workspace(method, problem.n, problem.dtype)
    workspace.acquire(method, problem.n, problem.dtype)
    try:
        step, spent = 1.0, 0
        if method == "neumann" and options.scale == "auto":
            step, spent = neumann_scale(problem)
        elif method == "neumann":
            step = float(options.scale)
        run = _make_run(method, problem, options, step)
        _place_vectors(run, method, problem, workspace)
        judge = (
            Judge(run, problem, options, _maxiter(problem, options)) if options.watched else None
        )
        precondition = problem.m.multiply if problem.m else None
        drive(run, problem.a.multiply, precondition, judge, problem.x)
        if not math.isfinite(run.b_norm):
            refuse_non_finite(problem.b, "b")
        result = _report(run, method, problem, options, judge, spent)
    finally:
        workspace.release()
    if options.out is not None:
        mark_written(options.out)
    return result


def _maxiter(problem: Problem, options: Options) -> int:
    return 10 * problem.n if options.maxiter is None else operator.index(options.maxiter)


def _fuses_diagonal(method: str) -> bool:
    return method in ("cg", "flexible_cg")


def _make_run(method: str, problem: Problem, options: Options, step: float) -> _core.Run:
    diagonal = problem.diagonal is not None
    return _core.Run(
        method,
        problem.n,
        dtype_code(problem.dtype),
        rtol=options.tolerance[0],
        atol=options.tolerance[1],
        maxiter=_maxiter(problem, options),
        has_x0=problem.start is not None,
        preconditioned=problem.m is not None or (diagonal and not _fuses_diagonal(method)),
        diagonal=diagonal and _fuses_diagonal(method),
        judge_every=options.check_every if options.watched else 0,
        on_curvature=_CURVATURE[options.curvature],
        radius=0.0 if options.radius is None else float(options.radius),
        max_restarts=options.max_restarts,
        track=options.track,
        step=step,
    )


def _place_vectors(run: _core.Run, method: str, problem: Problem, workspace: Workspace) -> None:
    memory = {"b": problem.b, "x": problem.x, **workspace.vectors}
    if problem.diagonal is not None and _fuses_diagonal(method):
        memory["diag"] = problem.diagonal
    elif problem.diagonal is not None:
        run.set_diagonal(problem.diagonal)
    for slot, name in enumerate(run.slots):
        if name in memory:
            run.set_vector(slot, memory[name])
    if problem.a.csr is not None:
        run.set_matrix(problem.a.csr)
    convert_a = problem.a.convert
    convert_m = convert_a if problem.m is None else problem.m.convert
    run.set_convert(lambda answer, product: (convert_a if product else convert_m)(answer))


def _report(
    run: _core.Run,
    method: str,
    problem: Problem,
    options: Options,
    judge: Judge | None,
    spent: int,
) -> SolveResult:
    status, niter, maxiter = run.status, run.iterations, _maxiter(problem, options)
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
        direction = problem.exchange.outward(_unit(p))
    quadratic_values = run.quadratic_values
    if method == "bicgstab" and not options.track:
        quadratic_values = np.empty(0)
    true_norm = run.true_residual_norm
    if outcome is Outcome.NON_FINITE and not np.isfinite(problem.x).all():
        # x itself has overflowed: the start is the last iterate that is known to be sound.
        problem.x[:] = 0 if problem.start is None else problem.start
        true_norm = float(run.residual_norms[0]) if run.residual_norms.size else math.nan
    candidates = [] if judge is None else judge.finish(niter)
    curvature = run.curvature()
    return SolveResult(
        problem.exchange.outward(problem.x) if options.out is None else options.out,
        info,
        outcome=outcome,
        niter=niter,
        nmatvec=run.products + spent,
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


def _unit(p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Unit vector along p, in float64 and scaled first: the squares of a tiny float32 vector vanish."""
    wide = p.astype(np.result_type(p.dtype, np.float64))
    wide /= np.abs(wide).max()
    unit: np.ndarray[Any, Any] = (wide / np.linalg.norm(wide)).astype(p.dtype)
    return unit
