"""What a person watches while the demo runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from krylov.cli.demo_table import results_table
from krylov.cli.progress import log_fraction
from krylov.cli.race import Race
from krylov.cli.systems import System

_INTERVAL = 0.05


class DemoScreen:
    """The results so far, and the residual of the run in hand as it falls.

    Drawn from the main thread only, between runs and from krylov's untimed first run: a thread that
    redraws would take a core from the solver being timed.
    """

    def __init__(self, console: Console, rtol: float) -> None:
        self.enabled = console.is_terminal
        self._rtol = rtol
        self._races: list[Race] = []
        self._line = Text()
        self._fraction = 0.0
        self._name = ""
        self._norm = 1.0
        self._next_look = 0.0
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._picture
        )

    def __enter__(self) -> DemoScreen:
        if self.enabled:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.enabled:
            self._live.stop()

    def begin(self, system: System) -> None:
        """Hear that a system is about to be solved."""
        self._name, self._fraction = system.name, 0.0
        self._norm = float(np.linalg.norm(system.b))

    def announce(self, text: str) -> None:
        """Say what happens now."""
        self._line = Text(text)
        self._draw()

    def finished(self, race: Race) -> None:
        """Hear that a system has been solved by both."""
        self._races.append(race)
        self._name = ""
        self._draw()

    def __call__(self, trace: Any) -> bool:
        """Look at the trace of krylov's first run, as a stopping rule that never stops."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _INTERVAL
            relative = float(trace.residual_norm) / self._norm
            # Right-hand sides are compared with x = 0, so every system starts at one.
            self._fraction = max(self._fraction, log_fraction(1.0, relative, self._rtol))
            self._line = Text(f"iteration {trace.niter:,}, residual {relative:.1e}")
            self._draw()
        return False

    def _draw(self) -> None:
        if self.enabled:
            self._live.refresh()

    def _picture(self) -> Group:
        now = Table.grid(padding=(0, 2, 0, 0))
        now.add_row(
            Text(self._name, style="bold"), ProgressBar(1.0, self._fraction, width=24), self._line
        )
        return Group(results_table(self._races), now) if self._races else Group(now)
