"""What ``--precond`` means: which M, for which methods, and how it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import krylov
from krylov.cli.errors import InputError
from krylov.cli.matrices import Matrix, check_jacobi

#: Preconditioners with a size, and their default.
SIZES = {"lbfgs": 32, "ritz": 16, "nystrom": 32}
NAMES = ("none", "jacobi", *SIZES)


@dataclass(frozen=True)
class Choice:
    """A preconditioner as it was asked for; its size is None where it has none."""

    name: str
    size: int | None

    @property
    def learns(self) -> bool:
        """Whether it is made from the runs."""
        return self.name in ("lbfgs", "ritz")

    @property
    def words(self) -> str:
        """As in a summary."""
        return self.name if self.size is None else f"{self.name}, size {self.size}"


def choose(name: str, size: int | None, method: str) -> Choice:
    """Check the options against each other, before anything is read."""
    if name not in SIZES:
        if size is not None:
            raise InputError(f"--precond-size is for {', '.join(SIZES)}, not for {name}")
        if name != "none" and method == "neumann":
            raise InputError("--method neumann takes no preconditioner")
        return Choice(name, None)
    if method == "neumann":
        raise InputError("--method neumann takes no preconditioner")
    choice = Choice(name, SIZES[name] if size is None else size)
    if choice.learns and method == "bicgstab":
        raise InputError(f"--precond {name} learns from cg and flexible_cg, not from bicgstab")
    return choice


def method_for(choice: Choice, matrix: Matrix, method: str, reason: str) -> tuple[str, str]:
    """Adapt an automatic method to the preconditioner, or refuse one that it cannot serve."""
    if choice.name == "jacobi":
        check_jacobi(matrix)
    if choice.size is None:
        return method, reason
    if not matrix.self_adjoint:
        raise InputError(
            f"{matrix.path}: --precond {choice.name} needs a self-adjoint matrix, this one is "
            f"{matrix.symmetry}; use jacobi or none"
        )
    if choice.learns and method == "bicgstab":
        raise InputError(
            f"{matrix.path}: --precond {choice.name} needs a positive definite matrix: {reason}"
        )
    if choice.name == "lbfgs" and method == "cg" and reason != "given":
        return "flexible_cg", f"{reason}; M changes within the run"
    return method, reason


def build(choice: Choice, matrix: Matrix, dtype: np.dtype[Any]) -> tuple[Any, int]:
    """M, and the products that it took to make it."""
    if choice.name == "none":
        return None, 0
    if choice.name == "jacobi":
        return krylov.JacobiPreconditioner(matrix.diagonal()), 0
    assert choice.size is not None
    size = min(choice.size, matrix.n)
    if choice.name == "lbfgs":
        return krylov.LBFGSPreconditioner(matrix.n, size, dtype=dtype, harvest=True), 0
    if choice.name == "ritz":
        return krylov.RitzPreconditioner(matrix.n, size, dtype=dtype, harvest=True), 0
    return krylov.NystromPreconditioner(matrix.array, size, dtype=dtype), size


@dataclass
class Solved:
    """A solve of one right-hand side, in one run or two."""

    last: Any  #: the result of the last run
    iterations: int
    products: int
    restarts: int
    residual_norms: list[float]


def solve_with(
    choice: Choice, M: Any, solver: Callable[..., Any], limit: int, options: dict[str, Any]
) -> Solved:
    """Run the solver; a Ritz preconditioner that knows nothing yet is taught by the beginning of the run.

    Parameters
    ----------
    choice, M
        The preconditioner.
    solver : callable
        The solver, bound to A and b.
    limit : int
        Iterations at most.
    options : dict
        Further keywords.
    """
    lesson = 2 * choice.size if choice.size is not None and choice.name == "ritz" else 0
    if not lesson or len(M) or limit <= lesson:
        return _joined(solver(M=M, maxiter=limit, **options))
    first = solver(M=M, maxiter=lesson, **options)
    if first.outcome is not krylov.Outcome.ITERATION_LIMIT:
        return _joined(first)
    return _joined(first, solver(M=M, x0=first.x, maxiter=limit - lesson, **options))


def _joined(*runs: Any) -> Solved:
    history = [float(runs[0].residual_norms[0])] if len(runs[0].residual_norms) else []
    for run in runs:
        history += [float(norm) for norm in run.residual_norms[1:]]
    return Solved(
        runs[-1],
        sum(int(run.niter) for run in runs),
        sum(int(run.nmatvec) for run in runs),
        sum(int(run.restarts) for run in runs),
        history,
    )
