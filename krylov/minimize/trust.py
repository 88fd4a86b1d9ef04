"""The trust region: which step of the path is taken, and what becomes of the radius."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from krylov.minimize.inner import Inner
    from krylov.minimize.objective import Iterate, Objective
    from krylov.minimize.path import Step

__all__ = ["TrustRegion"]

_EPS = float(np.finfo(np.float64).eps)
# Decrease over that of the model: below the first a step is rejected, below the second the radius shrinks, above the
# third it may grow (Nocedal and Wright 2006, algorithm 4.1; Conn, Gould and Toint 2000, section 17.1).
_ACCEPT, _POOR, _GOOD = 1e-4, 0.25, 0.75
_SHRINK = (0.1, 0.5)
_GROW = 2.0
_TRIALS = 60
# Where rounding hides the value: the gradient norm must fall to this share, in one of so many trials.
_HIDDEN_DECREASE, _HIDDEN_TRIALS = 0.9, 4


class TrustRegion:
    """Globalisation by a trust radius.

    A rejected step costs an evaluation and no product: the next one lies on the same path. A step to the boundary
    that was good is prolonged on the same path, too, while the objective falls (internal doubling, Dennis and
    Schnabel 1983, section 6.4.3).
    """

    def __init__(self, objective: Objective, radius: float, largest: float) -> None:
        self._objective = objective
        self.radius: float = min(radius, largest)
        self._largest = largest

    def restart(self, length: float) -> None:
        """Go on after a step of this length that was not its own."""
        self.radius = min(max(self.radius, length), self._largest)

    def advance(self, at: Iterate, inner: Inner) -> Iterate | None:
        """The next iterate, or None where no step decreases the objective."""
        smallest = _EPS * max(1.0, float(np.linalg.norm(at.x)))
        failures = 0
        for _ in range(_TRIALS):
            step = inner.path.step(self.radius)
            if not step.decrease > 0:
                return None
            value = self._objective.value(at.x + step.d)
            ratio, hidden = _ratio(at.value - value, step.decrease, max(abs(at.value), abs(value)))
            if ratio > _ACCEPT:
                if ratio > _GOOD and step.at_boundary and not hidden:
                    step, value = self._prolonged(at, inner, step, value)
                found = self._objective.iterate(at.x + step.d, value)
                # Where rounding hides the decrease of the value, that of the gradient decides.
                if found is not None and not (hidden and found.norm > _HIDDEN_DECREASE * at.norm):
                    if ratio < _POOR:
                        self.radius = _shorter(step, at.value - value)
                    elif hidden and step.at_boundary:
                        self.radius = min(_GROW * self.radius, self._largest)
                    return found
                value = math.inf
            failures += hidden
            if failures > _HIDDEN_TRIALS:
                return None
            self.radius = _shorter(step, at.value - value)
            if self.radius < smallest:
                return None
        return None

    def _prolonged(self, at: Iterate, inner: Inner, step: Step, value: float) -> tuple[Step, float]:
        while self.radius < self._largest:
            self.radius = min(_GROW * self.radius, self._largest)
            further = inner.path.step(self.radius)
            if further.norm < 1.2 * step.norm or not further.decrease > step.decrease:
                break
            trial = self._objective.value(at.x + further.d)
            if not at.value - trial > _GOOD * further.decrease:
                if trial < value:
                    return further, trial
                self.radius = max(step.norm, self.radius / _GROW)
                break
            step, value = further, trial
            if not step.at_boundary:
                break
        return step, value


def _ratio(actual: float, expected: float, size: float) -> tuple[float, bool]:
    """Decrease over that of the model, and whether rounding hides it (Conn, Gould and Toint 2000, section 17.4.2)."""
    noise = 10 * _EPS * size
    if expected <= noise and abs(actual) <= noise:
        return 1.0, True
    return (actual / expected if math.isfinite(actual) else -math.inf), False


def _shorter(step: Step, actual: float) -> float:
    """Radius from the minimum of the parabola through both values and the slope."""
    excess = -actual - step.slope
    if not math.isfinite(excess):
        return _SHRINK[0] * step.norm
    t = -step.slope / (2 * excess) if excess > 0 else _SHRINK[1]
    return min(max(t, _SHRINK[0]), _SHRINK[1]) * step.norm
