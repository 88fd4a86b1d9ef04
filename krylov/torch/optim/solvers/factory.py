"""The solver of the quadratic model by its name, with its stopping rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from krylov.checks import integer
from krylov.outcome import Outcome
from krylov.stopping import FixedIterations, Rule, Trace, Verdict
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.solvers.dense import DenseSolver
from krylov.torch.optim.solvers.directions import Directions, ModelSolver, Solver
from krylov.torch.optim.solvers.subspace import SubspaceSolver

__all__ = ["SolveModel", "make_solver", "make_truncated_solver"]

#: ``solve(operator, gradient, start, M)`` minimises the model of the operator, shifted, and the gradient.
SolveModel = Callable[[CurvatureOperator, Tensor, Tensor | None, Any], Directions]

# Iterations of a run. Each run goes on from the last one's result, so that short ones together make a long one, with a
# new gradient and new curvature on its way.
_ITERATIONS = 10


def make_solver(solver: Solver, stop: Any, maxiter: int) -> SolveModel:
    """The solver of that name.

    Raises
    ------
    TypeError, ValueError
        `stop` is no number of iterations and no rule, or a rule that the solver has no use for.
    """
    if isinstance(stop, type):
        raise TypeError(f"stop must be a rule, not a class: give {stop.__name__}(...)")
    if solver == "dense":
        if stop is not None:
            raise ValueError("solver='dense' is exact and takes no stop: leave it out")
        return DenseSolver()
    if not callable(stop):
        stop = FixedIterations(_ITERATIONS if stop is None else integer(stop, "stop", 1))
    if solver != "subspace":
        return ModelSolver(solver, stop, maxiter)
    if not isinstance(stop, FixedIterations):
        raise ValueError(
            "solver='subspace' takes a fixed number of products: stop must be an integer or FixedIterations, not "
            f"{type(stop).__name__}"
        )
    return SubspaceSolver(min(stop.iterations, maxiter))


def make_truncated_solver(solver: Solver, tol: float, maxiter: int) -> SolveModel:
    """The solver of that name, which goes on to ``|r| <= tol |g|`` and keeps its final iterate only.

    "subspace" has no residual: it takes `maxiter` products.
    """
    if solver == "subspace":
        return SubspaceSolver(maxiter, last_only=True)
    return ModelSolver(solver, _Tolerance(tol, maxiter), maxiter, last_only=True)


@dataclass(frozen=True)
class _Tolerance(Rule):
    """Ends a run by the residual of the recurrence: a solver that meets its own tolerance takes a product to verify it.

    At the limit of iterations it would do so too.
    """

    tol: float
    iterations: int

    def __call__(self, trace: Trace) -> Verdict:
        if trace.residual_norm <= self.tol * trace.b_norm:
            return True
        return Outcome.ITERATION_LIMIT if trace.niter >= self.iterations else None
