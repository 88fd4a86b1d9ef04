"""Whether a point with a vanishing gradient is a saddle, and the way out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.linalg import LinearOperator

from krylov.minimize.linesearch import search
from krylov.minimize.path import Step
from krylov.ritz_probe import LowestRitz, lowest_ritz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.minimize.objective import Iterate, Objective

    Vector = NDArray[np.float64]

__all__ = ["escape"]

# Relative to the largest Ritz value in size: below it, curvature is rounding. Differences of the gradient have more.
_ROUNDING = 1e-8
_ROUNDING_OF_DIFFERENCES = 1e-5
# Runs of Lanczos' method, the later ones from the lowest Ritz vector of the one before.
_ROUNDS = 3
# Random directions tried where the Hessian vanishes.
_FLAT_DIRECTIONS = 4
_LENGTHS = (1.0, 0.25, 1 / 16, 1 / 64)
_DOUBLINGS = 20
_EPS = float(np.finfo(np.float64).eps)


def escape(
    operator: LinearOperator, objective: Objective, at: Iterate, steps: int, seed: int, exact: bool
) -> Iterate | None:
    """A lower iterate beyond the saddle, or None where no way down is found.

    Follows the Ritz vector of the most negative Ritz value. Where the lowest one is zero to rounding, as at the origin
    of a deep linear network, the objective itself is tried along its vector, both ways.
    """
    rng = np.random.default_rng(seed)
    rounding = _ROUNDING if exact else _ROUNDING_OF_DIFFERENCES
    reach = max(1.0, float(np.linalg.norm(at.x)))
    start, lowest = rng.standard_normal(at.x.size), None
    for turn in range(max(_ROUNDS, _FLAT_DIRECTIONS)):
        lowest = lowest_ritz(operator, start, steps)
        if lowest is None:
            return None
        tolerance = rounding * lowest.scale
        if lowest.value < -tolerance:
            found = _follow(objective, at, lowest, 0.1 * reach)
            if found is not None:
                return found
        if lowest.scale == 0.0:
            # H v = 0 for a random v, hence H = 0: another random direction each time.
            found = _fall(objective, at, lowest.vector, reach)
            if found is not None or turn == _FLAT_DIRECTIONS - 1:
                return found
            start = rng.standard_normal(at.x.size)
            continue
        settled = lowest.value - lowest.residual > -tolerance or lowest.residual <= tolerance
        if settled or turn >= _ROUNDS - 1:
            break
        start = lowest.vector
    if lowest is not None and lowest.value <= rounding * lowest.scale:
        return _fall(objective, at, lowest.vector, reach)
    return None


def _follow(objective: Objective, at: Iterate, lowest: LowestRitz, length: float) -> Iterate | None:
    """Search along negative curvature, downhill first."""
    slope = float(at.gradient @ lowest.vector)
    for sign in (1.0, -1.0) if slope <= 0 else (-1.0, 1.0):
        step = Step(
            sign * length * lowest.vector,
            length,
            min(sign * length * slope, 0.0),
            length * length * lowest.value,
        )
        found = search(objective, at, step)
        if found is not None:
            return found
    return None


def _fall(objective: Objective, at: Iterate, vector: Vector, reach: float) -> Iterate | None:
    """Where the Hessian says nothing: the objective along the vector, at a few lengths, both ways."""
    for length in _LENGTHS:
        for sign in (1.0, -1.0):
            t = sign * length * reach
            value = objective.value(at.x + t * vector)
            if value < at.value - 100 * _EPS * max(1.0, abs(at.value)):
                for _ in range(_DOUBLINGS):  # on for as long as it goes down
                    further = objective.value(at.x + 2 * t * vector)
                    if not further < value:
                        break
                    t, value = 2 * t, further
                found = objective.iterate(at.x + t * vector, value)
                if found is not None:
                    return found
    return None
