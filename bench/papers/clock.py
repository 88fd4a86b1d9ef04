"""The clock of a contestant: what a run has spent so far, and what was seen while the clock stood still."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext


class Over(Exception):
    """The budget is spent."""


class Clock:
    """Counts seconds and passes over the data, and takes losses at growing intervals.

    Parameters
    ----------
    measure : callable
        Gives the losses, "loss" among them. Its time does not count.
    limit : float
        Seconds of the run.
    now : callable
        `time.perf_counter`, or `time.process_time` where other programs are running.

    Attributes
    ----------
    points : dict
        Lists of what was seen, with "seconds" and "passes".
    steps : int
        Ticks so far.
    view : callable
        ``view()``, a context within which the model is the one to be measured.
    """

    def __init__(
        self, measure: Callable[[], Mapping[str, float]], limit: float, now: Callable[[], float]
    ) -> None:
        self._measure, self.limit, self._now = measure, limit, now
        self.view: Callable[[], AbstractContextManager[object]] = nullcontext
        self.points: dict[str, list[float]] = {}
        self.steps = 0
        self._spent = self._passes = self._next = self._began = 0.0

    def start(self) -> None:
        self._look()
        self._began = self._now()

    @property
    def share(self) -> float:
        """Of the seconds, spent by the last tick."""
        return min(self._spent / self.limit, 1.0)

    def pay(self, passes: float) -> None:
        """Work in gradients of all samples; ends a run in the middle of a step that takes far too long."""
        self._passes += passes
        if self._spent + self._now() - self._began >= 1.2 * self.limit:
            self._spent += self._now() - self._began
            # The step came to nothing.
            self._record({key: series[-1] for key, series in self.points.items()})
            raise Over

    def tick(self) -> None:
        """To be called between steps."""
        self._spent += self._now() - self._began
        self.steps += 1
        over = self._spent >= self.limit
        if over or self._spent >= self._next:
            self._look()
            self._next = 1.1 * self._spent + 0.01 * self.limit
            if over or not math.isfinite(self.points["loss"][-1]):
                raise Over
        self._began = self._now()

    def _look(self) -> None:
        with self.view():
            self._record(self._measure())

    def _record(self, seen: Mapping[str, float]) -> None:
        for key, value in {**seen, "seconds": self._spent, "passes": self._passes}.items():
            self.points.setdefault(key, []).append(value)


def at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The value at x, linear between two records; NaN where the run ended before."""
    i = bisect_left(xs, x)
    if i == len(xs):
        return math.nan
    if xs[i] == x or i == 0:
        return ys[i]
    return ys[i - 1] + (x - xs[i - 1]) / (xs[i] - xs[i - 1]) * (ys[i] - ys[i - 1])
