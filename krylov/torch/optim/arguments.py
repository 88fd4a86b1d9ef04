"""What the constructors of the optimizers of second order have in common, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from krylov.checks import choice, finite_number, integer
from krylov.torch.flatten import Parameters
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.linesearch import LineSearch, check_line_search
from krylov.torch.optim.preconditioning.policies import Preconditioning, make_preconditioning
from krylov.torch.optim.solvers.directions import Solver

__all__ = ["Arguments"]


@dataclass(frozen=True)
class Arguments:
    """Arguments that both optimizers have, each of its kind; see there for what they mean."""

    curvature: str
    solver: Solver
    preconditioner: str | None
    preconditioner_options: Mapping[str, Any] | None
    rule: LevenbergMarquardt
    maxiter: int
    warm_start: float
    line_search: LineSearch | None
    seed: int

    @classmethod
    def checked(
        cls,
        curvatures: Sequence[str],
        solvers: Sequence[str],
        *,
        curvature: str,
        solver: Solver,
        preconditioner: str | None,
        preconditioner_options: Mapping[str, Any] | None,
        damping: float | LevenbergMarquardt,
        maxiter: int,
        warm_start: float,
        line_search: LineSearch | None,
        seed: int,
    ) -> Arguments:
        """From what a user gave to an optimizer that has these curvatures and solvers.

        Raises
        ------
        TypeError, ValueError
            One of them makes no sense, which is named. Preconditioners are looked at by `preconditioning`.
        """
        choice(curvature, "curvature", curvatures)
        choice(solver, "solver", solvers)
        if not 0 <= finite_number(warm_start, "warm_start") <= 1:
            raise ValueError(f"warm_start must be between 0 and 1, got {warm_start!r}")
        check_line_search(line_search)
        return cls(
            curvature,
            solver,
            preconditioner,
            preconditioner_options,
            LevenbergMarquardt.of(damping),
            integer(maxiter, "maxiter", 1),
            float(warm_start),
            line_search,
            integer(seed, "seed", 0),
        )

    def preconditioning(self, parameters: Parameters) -> Preconditioning:
        """The policy for vectors of this length; see `make_preconditioning` for what it raises."""
        return make_preconditioning(
            self.preconditioner,
            self.preconditioner_options,
            n=parameters.n,
            dtype=parameters.dtype,
            curvature=self.curvature,
            solver=self.solver,
            seed=self.seed,
        )
