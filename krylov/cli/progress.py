"""A bar that shows the residual falling to its tolerance, on a logarithmic scale."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

#: Seconds between two looks at the residual; the eye sees no more.
_INTERVAL = 0.05


class ResidualBar:
    """A stopping rule that never stops and draws a bar instead.

    The bar runs from the first residual to ``target``; half of it means half of the digits. It
    never goes back, since residuals of Bi-CG-STAB jump: it shows the smallest one so far.

    Parameters
    ----------
    console : rich.console.Console
        Nothing is drawn, and nothing is computed, unless this is a terminal.
    title : str
        What is being solved.
    target : float
        The residual norm at which the solver stops.
    """

    def __init__(self, console: Console, title: str, target: float) -> None:
        self.enabled = console.is_terminal
        self._target = target
        self._first = math.nan
        self._best = math.inf
        self._next_look = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", justify="right", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task(title, total=1.0, state="")

    def __enter__(self) -> ResidualBar:
        if self.enabled:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.enabled:
            self._bar.stop()

    def __call__(self, trace: Any) -> bool:
        """Look at the trace of a running solver, seldom, and let it go on."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _INTERVAL
            self._show(int(trace.niter), float(trace.residual_norm))
        return False

    def _show(self, iteration: int, residual: float) -> None:
        if math.isnan(self._first):
            self._first = residual
        self._best = min(self._best, residual)
        state = f"iteration {iteration:>7,}  residual {residual:.1e}  goal {self._target:.1e}"
        self._bar.update(self._task, completed=self.fraction(), state=state)

    def fraction(self) -> float:
        """Digits gained over digits wanted, between 0 and 1."""
        return log_fraction(self._first, self._best, self._target)


def log_fraction(first: float, now: float, target: float) -> float:
    """How far ``now`` is on the way from ``first`` to ``target``, in digits."""
    if not (0 < target < first and math.isfinite(first)):
        return 0.0
    if now <= target:
        return 1.0
    return max(0.0, math.log(first / now) / math.log(first / target))
