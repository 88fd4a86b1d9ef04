"""Minimises the quadratic model ``q(d) = g.d + d.(B + lambda I) d / 2`` and keeps iterates on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from krylov.outcome import Outcome, SolveResult
from krylov.solve import bicgstab, cg, flexible_cg
from krylov.stopping import Trace, Verdict
from krylov.torch.curvature import CurvatureOperator
from krylov.workspace import Workspace

__all__ = ["Candidate", "Directions", "ModelSolver", "Solver"]

Solver = Literal["flexible_cg", "cg", "bicgstab", "subspace", "dense"]
_SOLVERS: dict[str, Callable[..., SolveResult]] = {
    "cg": cg,
    "flexible_cg": flexible_cg,
    "bicgstab": bicgstab,
}


@dataclass(frozen=True)
class Candidate:
    """An iterate of a run.

    Attributes
    ----------
    iteration : int
        Its number; 0 for a direction that is no iterate.
    step : Tensor of shape (n,)
        d.
    value : float
        q(d); NaN where the model is unbounded along d.
    damping : float or None
        Lambda of its model, where that is not the operator's shift.
    """

    iteration: int
    step: Tensor
    value: float
    damping: float | None = None


@dataclass(frozen=True)
class Directions:
    """What a run on the quadratic model found.

    Attributes
    ----------
    candidates : list of Candidate
        In the order of the run, at least one.
    outcome : Outcome
        How the run ended.
    iterations : int
        Of the solver.
    negative_curvature : bool
        Whether a direction of negative curvature was met.
    passes : float
        Backward passes beside the products with the operator, which counts these itself.
    shift : float or None
        Lambda of the system that was solved, where that is not the operator's shift.
    """

    candidates: list[Candidate]
    outcome: Outcome
    iterations: int
    negative_curvature: bool
    passes: float = 0
    shift: float | None = None


class ModelSolver:
    """One of the truncated solvers, with its memory.

    Parameters
    ----------
    solver : {"flexible_cg", "cg", "bicgstab"}
        Conjugate gradients stop at the first direction of negative curvature, with the iterate before it. Bi-CG-STAB
        goes on: every iterate x is a candidate ``-sign(g.x) x``, a descent direction whatever its curvature (He et
        al. 2016, section 3).
    stop : callable
        Stopping rule.
    maxiter : int
        Iterations at most.
    last_only : bool
        Whether the final iterate is the only candidate; else there is a geometric grid of them.
    """

    def __init__(
        self,
        solver: Solver,
        stop: Callable[[Trace], Verdict],
        maxiter: int,
        *,
        last_only: bool = False,
    ) -> None:
        self._solver, self._stop, self._maxiter = solver, stop, maxiter
        self._candidates: Any = () if last_only else "geometric"
        self._workspace: Workspace | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the workspace cannot be copied, and holds nothing that lasts."""
        return {**self.__dict__, "_workspace": None}

    def __call__(
        self, operator: CurvatureOperator, gradient: Tensor, start: Tensor | None, M: Any
    ) -> Directions:
        """Candidates for the step; see `Directions`."""
        n, dtype = operator.shape[0], gradient.dtype
        if self._workspace is None:
            self._workspace = Workspace(self._solver, n, str(dtype).removeprefix("torch."))
        result = _SOLVERS[self._solver](
            operator,
            -gradient,
            start,
            # Only an exact solution ends the run before the rule does.
            rtol=10 * torch.finfo(dtype).eps,
            maxiter=self._maxiter,
            M=M,
            curvature="track" if self._solver == "bicgstab" else "stop",
            stop=self._stop,
            candidates=self._candidates,
            workspace=self._workspace,
        )
        kept = [
            Candidate(iteration, x, value)
            for iteration, x, value, _ in result.candidates
            if math.isfinite(value) and bool(torch.isfinite(x).all())
        ]
        negative = result.direction is not None or any(c < 0 for *_, c in result.candidates)
        return Directions(
            kept or [_steepest(gradient, result)], result.outcome, result.niter, negative
        )


def _steepest(gradient: Tensor, result: SolveResult) -> Candidate:
    """``-g``, where a run ends at its first direction; the curvature found there gives it a length."""
    curvature = abs(result.direction_curvature)
    length = 1 / curvature if 0 < curvature < math.inf else 1.0
    return Candidate(0, gradient.mul(-length), math.nan)
