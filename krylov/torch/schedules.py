"""How large the next sample is: fixed, geometric, by the variance of the gradient, or one after the other.

For the gradient sample and for the curvature sample alike. A schedule never shrinks its sample and is told
its largest size, as a rule all the data.

Sources: Byrd, Chin, Nocedal and Wu, "Sample size selection in optimization methods for machine learning",
Math. Program. 134 (2012); Sainath et al., "Accelerating Hessian-free optimization for deep neural networks by
implicit preconditioning and sampling" (2013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from krylov.checks import integer, number
from krylov.torch.statistics import GradientStatistics

__all__ = [
    "FixedSize",
    "GeometricSchedule",
    "GeometricThenVariance",
    "GradientStatistics",
    "Schedule",
    "VarianceSchedule",
]


class Schedule(Protocol):
    """The size of a sample from one outer iteration to the next."""

    #: Whether `update` wants the statistics of the gradient.
    needs_statistics: ClassVar[bool]

    @property
    def size(self) -> int:
        """Samples to take now."""

    def update(self, statistics: GradientStatistics | None = None) -> int:
        """An outer iteration is over; returns the new size."""

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class FixedSize:
    """The same size for ever."""

    needs_statistics: ClassVar[bool] = False

    def __init__(self, size: int) -> None:
        self._size = integer(size, "size", 1)

    @property
    def size(self) -> int:
        """Samples to take."""
        return self._size

    def update(self, statistics: GradientStatistics | None = None) -> int:
        """Nothing changes."""
        return self._size

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class GeometricSchedule:
    """``initial * factor**i`` samples in outer iteration i, at most ``maximum``.

    Sainath et al. use 1.2 for the gradient and 1.3 for the curvature sample, with an initial size that reaches all
    the data at about half of the iterations.

    Parameters
    ----------
    initial : int
        Samples of the first iteration.
    factor : float
        Growth an iteration, at least 1.
    maximum : int
        The largest size, as a rule all the data.
    """

    needs_statistics: ClassVar[bool] = False

    def __init__(self, initial: int, factor: float, maximum: int) -> None:
        self._initial, self._maximum = _bounds(initial, maximum)
        self._factor = number(factor, "factor")
        if not 1 <= self._factor < math.inf:
            raise ValueError(f"factor must be at least 1 and finite, got {factor!r}")
        self._step = 0

    @property
    def size(self) -> int:
        """Samples to take now."""
        # By logarithms first: factor**i overflows when training goes on for long.
        if self._step * math.log(self._factor) >= math.log(self._maximum / self._initial):
            return self._maximum
        return min(self._maximum, round(self._initial * self._factor**self._step))

    def update(self, statistics: GradientStatistics | None = None) -> int:
        """One iteration further."""
        self._step += 1
        return self.size

    def state_dict(self) -> dict[str, Any]:
        """The number of iterations."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._step = integer(state["step"], "step", 0)


class VarianceSchedule:
    """As many samples as the variance of the gradient asks for, at most ``maximum``.

    The size stays while ``|Var|_1 / size <= theta^2 |g|^2``, and becomes ``|Var|_1 / (theta^2 |g|^2)`` when it no
    longer does. Both figures come from the gradient sample, for a schedule of the curvature sample too. Statistics
    of fewer than two groups say nothing about the variance, and not finite ones nothing at all: the size stays.

    Parameters
    ----------
    initial : int
        Samples of the first iteration.
    theta : float
        Admitted error of the gradient relative to its norm; 0.25 was the best of Sainath et al.
    maximum : int
        The largest size, as a rule all the data.
    """

    needs_statistics: ClassVar[bool] = True

    def __init__(self, initial: int, theta: float, maximum: int) -> None:
        self._size, self._maximum = _bounds(initial, maximum)
        self._theta = _theta(theta)

    @property
    def size(self) -> int:
        """Samples to take now."""
        return self._size

    def update(self, statistics: GradientStatistics | None = None) -> int:
        """Test the sample and grow it where it fails.

        Raises
        ------
        TypeError
            No statistics are given: the optimizer in use does not collect them.
        """
        self._size = _by_variance(self._size, self._theta, self._maximum, _needed(statistics))
        return self._size

    def state_dict(self) -> dict[str, Any]:
        """The size."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._size = integer(state["size"], "size", 1)


class GeometricThenVariance:
    """Geometric at first, by variance once its estimate can be relied on, and from then on for good.

    Small samples judge themselves badly: few groups give a rough variance, and where the sample's gradient is mostly
    noise its norm is that of the noise, so that the test always asks for ``size / theta^2`` at most. The estimate
    counts as reliable when it stands on at least ``groups`` groups and noise is at most half of ``|g|^2``, that is
    ``|Var|_1 / samples <= |g|^2 / 2``.

    Parameters
    ----------
    initial, factor, theta, maximum
        As for `GeometricSchedule` and `VarianceSchedule`.
    groups : int
        Groups that make a variance; ten estimate it within about a half in the worst case, where all of it is that
        of one parameter.
    """

    needs_statistics: ClassVar[bool] = True

    def __init__(
        self, initial: int, factor: float, theta: float, maximum: int, *, groups: int = 10
    ) -> None:
        self._geometric = GeometricSchedule(initial, factor, maximum)
        self._maximum = maximum
        self._theta = _theta(theta)
        self._groups = integer(groups, "groups", 2)
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Samples to take now."""
        return self._geometric.size if self._size is None else self._size

    @property
    def phase(self) -> str:
        """``"geometric"`` or ``"variance"``."""
        return "geometric" if self._size is None else "variance"

    def update(self, statistics: GradientStatistics | None = None) -> int:
        """Grow by the factor, or test the sample and grow it where it fails.

        Raises
        ------
        TypeError
            No statistics are given: the optimizer in use does not collect them.
        """
        statistics = _needed(statistics)
        if self._size is None and not self._reliable(statistics):
            return self._geometric.update()
        self._size = _by_variance(self.size, self._theta, self._maximum, statistics)
        return self._size

    def state_dict(self) -> dict[str, Any]:
        """The iterations of the first phase and the size of the second one."""
        return {"geometric": self._geometric.state_dict(), "size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._geometric.load_state_dict(state["geometric"])
        size = state["size"]
        self._size = None if size is None else integer(size, "size", 1)

    def _reliable(self, statistics: GradientStatistics) -> bool:
        if statistics.groups < self._groups:
            return False
        return statistics.variance_l1 / statistics.samples <= 0.5 * statistics.norm2


def _by_variance(size: int, theta: float, maximum: int, statistics: GradientStatistics) -> int:
    variance, norm2 = statistics.variance_l1, statistics.norm2
    if not (math.isfinite(variance) and math.isfinite(norm2)) or variance <= 0:
        return size
    admitted = theta * theta * norm2
    # Compared before dividing: the gradient may be zero, or so small that the quotient overflows.
    if variance >= admitted * maximum:
        return maximum
    return max(size, math.ceil(variance / admitted))


def _needed(statistics: GradientStatistics | None) -> GradientStatistics:
    if statistics is None:
        raise TypeError(
            "a schedule by variance needs the statistics of the gradient, which HessianFree collects; "
            "with another optimizer use GeometricSchedule or FixedSize"
        )
    return statistics


def _bounds(initial: int, maximum: int) -> tuple[int, int]:
    integer(initial, "initial", 1)
    if integer(maximum, "maximum", 1) < initial:
        raise ValueError(f"maximum must be at least initial, {initial}, got {maximum}")
    return initial, maximum


def _theta(theta: float) -> float:
    if not 0 < number(theta, "theta") < math.inf:
        raise ValueError(f"theta must be positive and finite, got {theta!r}")
    return theta
