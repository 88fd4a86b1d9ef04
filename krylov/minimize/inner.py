"""The inner solve ``H d = -g``, as accurate as the outer loop needs it, by `krylov.cg` or `krylov.bicgstab`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov.minimize.path import ConjugatePath, Path, RayPath, steepest
from krylov.outcome import Outcome, SolveResult
from krylov.solve import bicgstab, cg, flexible_cg
from krylov.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse.linalg import LinearOperator

    from krylov.minimize.objective import Iterate
    from krylov.minimize.options import Options
    from krylov.stopping import Trace

    Vector = NDArray[np.float64]

__all__ = ["Forcing", "Inner", "InnerSolver"]

# Iterations of Bi-CG-STAB without a smaller residual that end it: on a singular Hessian it may never converge.
_PATIENCE = 10
# Residual that suffices where the next gradient then meets gtol, as a share of it.
_LAST = 0.5


class Forcing:
    """Relative residual of the inner solves.

    "superlinear": min(0.5, sqrt |g|) (Dembo and Steihaug 1983; Nocedal and Wright 2006, section 7.1).
    "eisenstat-walker": 0.9 (|g_k| / |g_{k-1}|)^1.618 after a start at 0.5, not much below its predecessor's power, at
    most 0.5 (Eisenstat and Walker 1996, choice 2). It does not depend on the scale of the objective.
    A number: that number. In no case smaller than what brings the next gradient to half of gtol.
    """

    def __init__(self, kind: str | float, gtol: float) -> None:
        self._kind, self._gtol = kind, gtol
        self._norm = math.nan
        self._value = 0.5

    def __call__(self, norm: float) -> float:
        """For the next inner solve, at a gradient of this norm."""
        if not isinstance(self._kind, str):
            value = float(self._kind)
        elif self._kind == "superlinear":
            value = min(0.5, math.sqrt(norm))
        elif math.isnan(self._norm):
            value = 0.5
        else:
            power = 0.5 * (1 + math.sqrt(5))
            floor = 0.9 * self._value**power
            value = 0.9 * (norm / self._norm) ** power
            value = min(0.5, max(value, floor) if floor > 0.1 else value)
        self._norm, self._value = norm, value
        return min(0.9, max(value, _LAST * self._gtol / norm))


@dataclass(frozen=True)
class Inner:
    """What an inner solve found.

    Attributes
    ----------
    path : Path
        Its steps.
    direction : ndarray or None
        Unit direction of negative curvature, downhill, where one ended the run.
    direction_curvature : float
        Its curvature.
    """

    path: Path
    direction: Vector | None = None
    direction_curvature: float = 0.0


class InnerSolver:
    """Solves ``H d = -g``, with one workspace for all solves."""

    def __init__(self, n: int, options: Options, forcing: Forcing) -> None:
        self._options, self._forcing = options, forcing
        self._limit = 10 * n if options.inner_maxiter is None else options.inner_maxiter
        method = options.solver
        if method == "cg" and hasattr(options.M, "update"):
            method = "flexible_cg"  # it learns while it is used
        self._method = method
        self._workspace = Workspace(method, n, np.float64)
        # Iterates to keep: at most log2 of the iterations, so that memory stays small.
        self._kept = [2**k for k in range(max(1, self._limit).bit_length())]

    def __call__(self, operator: LinearOperator, at: Iterate, radius: float | None) -> Inner:
        """Solve at an iterate, within a trust radius if there is one.

        Raises
        ------
        ValueError
            The preconditioner is not positive definite.
        """
        tolerance = self._forcing(at.norm) * at.norm

        impatient = self._method == "bicgstab"
        best, best_at = math.inf, 0

        # A run that a rule ends is not verified: no product is spent on it.
        def enough(trace: Trace) -> bool:
            nonlocal best, best_at
            norm, i = trace.residual_norm, trace.niter
            if norm < best:
                best, best_at = norm, i
            stuck = impatient and i - best_at >= _PATIENCE
            return norm <= tolerance or i >= self._limit or stuck

        common: dict[str, Any] = {
            "rtol": 0.0,
            "maxiter": self._limit + 1,
            "M": self._options.M,
            "stop": enough,
            "candidates": self._kept,
            "workspace": self._workspace,
        }
        b = -at.gradient
        if self._method == "bicgstab":
            return self._rays(bicgstab(operator, b, curvature="track", **common), at)
        solve = flexible_cg if self._method == "flexible_cg" else cg
        if radius is None:
            result = solve(operator, b, curvature="stop", **common)
        else:
            bounded = min(max(radius, 1e-140), 1e140)
            result = solve(operator, b, curvature="boundary", radius=bounded, **common)
        return self._path(result, at)

    def _path(self, result: SolveResult, at: Iterate) -> Inner:
        if result.outcome is Outcome.INDEFINITE_PRECONDITIONER:
            raise ValueError(f"M: {result.outcome.value}")
        points = _usable(result, at)
        direction = result.direction
        if direction is not None:
            if float(at.gradient @ direction) > 0:
                direction = -direction
            if not points:
                return Inner(steepest(at.gradient, at.norm), direction, result.direction_curvature)
        if not points:
            return Inner(steepest(at.gradient, at.norm))
        open_ended = result.outcome is Outcome.TRUST_RADIUS
        path = ConjugatePath(at.gradient, points, open_ended)
        return Inner(path, direction, result.direction_curvature)

    def _rays(self, result: SolveResult, at: Iterate) -> Inner:
        points = _usable(result, at)
        return Inner(RayPath(at.gradient, points) if points else steepest(at.gradient, at.norm))


def _usable(result: SolveResult, at: Iterate) -> list[tuple[Vector, float]]:
    """The kept iterates that are finite descent directions."""
    return [
        (x, curvature)
        for _, x, _, curvature in result.candidates
        if math.isfinite(curvature) and np.isfinite(x).all() and float(at.gradient @ x) < 0
    ]
