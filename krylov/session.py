"""One solve: from a checked problem to the `SolveResult`."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from krylov import _core
from krylov.arrays import mark_written, refuse_non_finite
from krylov.drive import drive
from krylov.judge import Judge
from krylov.preconditioners.learning import lesson
from krylov.problem import Problem, prepare
from krylov.report import report
from krylov.spectrum import neumann_scale
from krylov.workspace import Workspace, dtype_code

if TYPE_CHECKING:
    from krylov.options import Options
    from krylov.outcome import SolveResult

__all__ = ["solve"]

_CURVATURE = {"ignore": 0, "track": 0, "stop": 1, "boundary": 2}


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
        with lesson(options.M, method) as learn:
            run = _make_run(method, problem, options, step, learn is not None)
            _place_vectors(run, method, problem, workspace)
            judge = (
                Judge(run, problem, options, _maxiter(problem, options))
                if options.watched
                else None
            )
            precondition = problem.m.multiply if problem.m else None
            drive(run, problem.a.multiply, precondition, judge, problem.x, learn)
        if not math.isfinite(run.b_norm):
            refuse_non_finite(problem.b, "b")
        result = report(run, method, problem, options, judge, _maxiter(problem, options), spent)
    finally:
        workspace.release()
    if options.out is not None:
        mark_written(options.out)
    return result


def _maxiter(problem: Problem, options: Options) -> int:
    return 10 * problem.n if options.maxiter is None else operator.index(options.maxiter)


def _fuses(method: str) -> bool:
    """Whether the recurrence applies a diagonal or low-rank M within its own passes."""
    return method in ("cg", "flexible_cg")


def _make_run(
    method: str, problem: Problem, options: Options, step: float, learns: bool
) -> _core.Run:
    fuses = _fuses(method)
    diagonal, low_rank = problem.diagonal is not None, problem.low_rank
    return _core.Run(
        method,
        problem.n,
        dtype_code(problem.dtype),
        rtol=options.tolerance[0],
        atol=options.tolerance[1],
        maxiter=_maxiter(problem, options),
        has_x0=problem.start is not None,
        preconditioned=problem.m is not None or (not fuses and (diagonal or low_rank is not None)),
        diagonal=diagonal and fuses,
        judge_every=options.check_every if options.watched else 0,
        on_curvature=_CURVATURE[options.curvature],
        radius=0.0 if options.radius is None else float(options.radius),
        max_restarts=options.max_restarts,
        track=options.track,
        step=step,
        low_rank=low_rank.native if low_rank is not None and fuses else None,
        learns=learns,
    )


def _place_vectors(run: _core.Run, method: str, problem: Problem, workspace: Workspace) -> None:
    memory = {"b": problem.b, "x": problem.x, **workspace.vectors}
    if problem.diagonal is not None and _fuses(method):
        memory["diag"] = problem.diagonal
    elif problem.diagonal is not None:
        run.set_diagonal(problem.diagonal)
    elif problem.low_rank is not None and not _fuses(method):
        run.set_low_rank(problem.low_rank.native)
    for slot, name in enumerate(run.slots):
        if name in memory:
            run.set_vector(slot, memory[name])
    if problem.a.csr is not None:
        run.set_matrix(problem.a.csr)
    convert_a = problem.a.convert
    convert_m = convert_a if problem.m is None else problem.m.convert
    run.set_convert(lambda answer, product: (convert_a if product else convert_m)(answer))
