"""Armijo's line search, with the curvature term where that is negative."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from krylov.minimize.path import Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.minimize.inner import Inner
    from krylov.minimize.objective import Iterate, Objective

    Vector = NDArray[np.float64]

__all__ = ["Armijo", "search"]

_EPS = float(np.finfo(np.float64).eps)
_SUFFICIENT = 1e-4
_TRIALS = 40
# Share of the linear decrease above which the step is too short: at the minimum of a parabola it is a half.
_NEARLY_LINEAR = 0.8
# Share of the last step that the next one is, at least and at most, after a failure.
_SHRINK = (0.1, 0.5)


class Armijo:
    """Globalisation by backtracking along the inner solution.

    Where conjugate gradients met negative curvature, the step is their last iterate and, beyond it, a piece of the
    direction met, as long as the step before.
    """

    radius: float | None = None

    def __init__(self, objective: Objective, first_length: float) -> None:
        self._objective = objective
        self._length = first_length

    def restart(self, length: float) -> None:
        """Go on after a step of this length that was not its own."""
        self._length = length

    def advance(self, at: Iterate, inner: Inner) -> Iterate | None:
        """The next iterate, or None where no step decreases the objective."""
        step = self._step(at, inner)
        found = search(self._objective, at, step)
        if found is not None:
            self._length = float(np.linalg.norm(found.x - at.x))
        return found

    def _step(self, at: Iterate, inner: Inner) -> Step:
        step = inner.path.step(math.inf)
        if inner.direction is None:
            if step.curvature <= 0 and step.norm > 0:  # a ray of unknown or negative curvature
                t = self._length / step.norm
                step = Step(t * step.d, self._length, t * step.slope, t * t * step.curvature)
            return step
        t = self._length
        d = step.d if step.curvature > 0 else np.zeros_like(step.d)
        # The direction is conjugate to the iterate, so that their curvatures add up.
        slope = float(at.gradient @ d) + t * float(at.gradient @ inner.direction)
        curvature = t * t * inner.direction_curvature + max(step.curvature, 0.0)
        d = d + t * inner.direction
        return Step(d, float(np.linalg.norm(d)), slope, curvature)


def search(objective: Objective, at: Iterate, step: Step) -> Iterate | None:
    """Find t with ``f(x + t d) <= f + c (t g.d + ½ t² min(d.Hd, 0))``.

    Along negative curvature, and where the objective falls almost as its slope says, the step is doubled for as long as
    that helps. After a failure the parabola through the values says how much shorter the next trial is (Nocedal and
    Wright 2006, section 3.5).

    Returns
    -------
    Iterate or None
        None where the step has become too short to matter, or d is no descent direction.
    """
    bend = min(step.curvature, 0.0)
    if not (step.slope < 0 or bend < 0) or step.norm == 0.0:
        return None
    slope = min(step.slope, 0.0)

    def enough(t: float, value: float) -> bool:
        wanted = at.value + _SUFFICIENT * (t * slope + 0.5 * t * t * bend)
        return value <= wanted and value < at.value

    t = 1.0
    shortest = _EPS * max(1.0, float(np.linalg.norm(at.x))) / step.norm
    for _ in range(_TRIALS):
        value = objective.value(at.x + t * step.d)
        if enough(t, value):
            if bend < 0 or at.value - value > -_NEARLY_LINEAR * t * slope:
                t, value = _expanded(objective, at, step, t, value)
            found = objective.iterate(at.x + t * step.d, value)
            if found is not None:
                return found
            value = math.inf
        found = _by_gradient(objective, at, t * step.d, value, t * slope + 0.5 * t * t * bend)
        if found is not None:
            return found
        t *= _shrink(value - at.value - t * slope, t * slope)
        if t < shortest:
            break
    return None


def _expanded(
    objective: Objective, at: Iterate, step: Step, t: float, value: float
) -> tuple[float, float]:
    for _ in range(_TRIALS):
        further = objective.value(at.x + 2 * t * step.d)
        if not further < value:
            break
        t, value = 2 * t, further
    return t, value


def _shrink(excess: float, slope: float) -> float:
    if not math.isfinite(excess) or excess <= 0:
        return _SHRINK[0] if not math.isfinite(excess) else _SHRINK[1]
    return min(max(-slope / (2 * excess), _SHRINK[0]), _SHRINK[1])


def _by_gradient(
    objective: Objective, at: Iterate, d: Vector, value: float, expected: float
) -> Iterate | None:
    """Where rounding hides the decrease of the value, that of the gradient decides."""
    noise = 10 * _EPS * max(abs(at.value), abs(value))
    if not (abs(expected) <= noise and abs(value - at.value) <= noise):
        return None
    found = objective.iterate(at.x + d, value)
    return found if found is not None and found.norm < at.norm else None
