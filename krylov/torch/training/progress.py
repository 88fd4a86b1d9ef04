"""What a person watches while training runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["TrainingBar", "state_words"]


class TrainingBar:
    """Iterations as a bar; beside it loss, damping, iterations of the solver and sample sizes.

    Parameters
    ----------
    steps : int
        All iterations.
    shown : bool
        Draw it if the console is a terminal.
    console : Console, optional
        stderr by default.
    """

    def __init__(self, steps: int, *, shown: bool = True, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=steps, state="")

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, record: Mapping[str, Any]) -> None:
        """An iteration is over."""
        self._bar.update(self._task, completed=record["step"], state=state_words(record))

    def say(self, words: str) -> None:
        """Something that must not be missed, above the bar and without a terminal too."""
        self._bar.console.print(words, markup=False, highlight=False, soft_wrap=True)


def state_words(record: Mapping[str, Any]) -> str:
    """The record of an iteration in a few words."""
    optimizer = record.get("optimizer") or {}
    entries = {
        "loss": _number(record.get("loss")),
        "held out": _number(record.get("held_out_loss")),
        "damping": _number(optimizer.get("damping")),
        "CG": _number(optimizer.get("iterations")),
        "samples": "/".join(
            f"{record[name]:,}"
            for name in ("gradient_samples", "curvature_samples")
            if record.get(name)
        ),
    }
    return "  ".join(f"{name} {words}" for name, words in entries.items() if words)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
