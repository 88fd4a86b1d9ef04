"""Levenberg-Marquardt damping: how far the quadratic model is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from krylov.checks import choice, not_negative

__all__ = ["LevenbergMarquardt"]


@dataclass(frozen=True)
class LevenbergMarquardt:
    """``B + lambda I`` with a lambda that follows the ratio rho of real to predicted decrease.

    Parameters
    ----------
    initial : float
        lambda of the first step.
    increase, decrease : float
        Factors for ``rho < low`` (and for a rejected step), and for ``rho > high``; 1 and 1 keep lambda as it is. The
        papers have 3/2 and 2/3.
    low, high : float
        Bounds of rho.
    minimum, maximum : float
        Bounds of lambda.
    judge : {"ratio", "length"}
        What is compared with `low` and `high`: rho, or instead of it the length that the line search has chosen. A
        length of 1/4 says how far the model holds along a direction whose full length is far too long, where rho of
        that full step is no measure: for exact steps with little damping and `GridSearch`. In `HessianFree` Armijo's
        rule never sees a step that raises the loss, so that nearly every length is 1: it is refused with "length".

    References
    ----------
    Martens (2010), section 4.1; Sainath et al. (2013), algorithm 1, whose printed sign of rho is wrong.
    """

    initial: float = 1.0
    increase: float = 2.0
    decrease: float = 0.5
    low: float = 0.25
    high: float = 0.75
    minimum: float = 1e-12
    maximum: float = 1e12
    judge: Literal["ratio", "length"] = "ratio"

    def __post_init__(self) -> None:
        for name in ("initial", "increase", "decrease", "low", "high", "minimum", "maximum"):
            not_negative(getattr(self, name), name)
        choice(self.judge, "judge", ("ratio", "length"))
        if not self.increase >= 1 >= self.decrease > 0:
            raise ValueError("increase must be at least 1, and decrease in (0, 1]")
        if not self.low <= self.high:
            raise ValueError("low must not be above high")
        if not self.minimum <= self.maximum or not self.initial <= self.maximum:
            raise ValueError("neither minimum nor initial may be above maximum")

    @classmethod
    def of(cls, damping: Any, usual: LevenbergMarquardt | None = None) -> LevenbergMarquardt:
        """The rule itself, or the usual one from this number on."""
        if isinstance(damping, cls):
            return damping
        return replace(usual or cls(), initial=not_negative(damping, "damping"))

    def following(self, damping: float, rho: float, length: float) -> float:
        """The next lambda, after a step with this ratio whose length is a line search's; 0: it was rejected."""
        measure = length if self.judge == "length" else rho
        return self.after(damping, measure if length else math.nan)

    def after(self, damping: float, rho: float) -> float:
        """The next lambda; NaN stands for a step that was rejected or could not be judged."""
        if math.isnan(rho) or rho < self.low:
            return min(max(damping, self.minimum) * self.increase, self.maximum)
        if rho > self.high:
            return max(damping * self.decrease, min(self.minimum, damping))
        return damping
