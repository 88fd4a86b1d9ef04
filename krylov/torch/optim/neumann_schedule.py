"""What time does in the Neumann optimizer: warm-up, resets, momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from krylov.checks import finite_number, integer

__all__ = ["Clock", "Plan", "Timetable", "momentum_range"]


@dataclass(frozen=True)
class Clock:
    """Where a run is.

    Attributes
    ----------
    step : int
        Steps taken, those of the warm-up included.
    inner : int
        Inner iterations since the last reset.
    length : int
        K: inner iterations until the next one; 0 stands for never.
    """

    step: int = 0
    inner: int = 0
    length: int = 0

    def as_dict(self) -> dict[str, int]:
        """For a state."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Clock:
        """The inverse.

        Raises
        ------
        TypeError, ValueError
            An entry is missing, or is no count.
        """
        names = {field.name for field in fields(cls)}
        if wrong := names ^ saved.keys():
            raise ValueError(f"the state of Neumann does not fit: {', '.join(sorted(wrong))}")
        return cls(**{name: integer(saved[name], name, 0) for name in names})


@dataclass(frozen=True)
class Plan:
    """One step.

    Attributes
    ----------
    clock : Clock
        After it.
    warmup : bool
        Whether it is one of plain SGD.
    reset : bool
        Whether the Neumann iterate begins anew.
    mu : float
        Momentum.
    """

    clock: Clock
    warmup: bool
    reset: bool
    mu: float


@dataclass(frozen=True)
class Timetable:
    """Krishnan et al. (2018), table 1, in steps instead of epochs; `Neumann` says what the entries mean.

    Raises
    ------
    TypeError, ValueError
        An entry makes no sense.
    """

    warmup_steps: int
    reset_every: int | None
    reset_growth: int
    momentum: tuple[float, float]
    momentum_every: int

    def __post_init__(self) -> None:
        integer(self.warmup_steps, "warmup_steps", 0)
        if self.reset_every is not None:
            integer(self.reset_every, "reset_every", 1)
        integer(self.reset_growth, "reset_growth", 1)
        integer(self.momentum_every, "momentum_every", 1)
        low, high = self.momentum
        if not 0 <= low <= high < 1:
            raise ValueError(
                f"momentum must be (first, last) with 0 <= first <= last < 1, got {(low, high)!r}"
            )

    def begin(self) -> Clock:
        """The clock of a new run."""
        return Clock(length=self.reset_every or 0)

    def next(self, clock: Clock) -> Plan:
        """The step that follows.

        The paper resets where ``t mod K == 1`` while K changes; here K counts from the last reset, so that the inner
        loops take K, 2 K, 4 K, ... iterations.
        """
        step = clock.step + 1
        t = step - self.warmup_steps
        if t < 1:
            return Plan(Clock(step, 0, clock.length), True, False, 0.0)
        due = clock.length > 0 and clock.inner >= clock.length
        length = clock.length * self.reset_growth if due else clock.length
        reset = due or clock.inner == 0
        after = Clock(step, 1 if reset else clock.inner + 1, length)
        return Plan(after, False, reset, self._mu(t))

    def _mu(self, t: int) -> float:
        """``1 - 1 / (1 + t)``, t from 1 on; it grows by one every `momentum_every` steps."""
        low, high = self.momentum
        return min(max(1 - 1 / (2 + (t - 1) / self.momentum_every), low), high)


def momentum_range(momentum: Any) -> tuple[float, float]:
    """Limits of the momentum; a number stands for both."""
    if isinstance(momentum, Sequence) and not isinstance(momentum, str):
        if len(momentum) != 2:
            raise ValueError(f"momentum must be a number or (first, last), got {momentum!r}")
        low, high = momentum
    else:
        low = high = momentum
    return finite_number(low, "momentum"), finite_number(high, "momentum")
