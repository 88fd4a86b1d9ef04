"""The picture of training runs: a loss against what it took to get there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from krylov.cli.plots import COLOURS, GREY, STYLE, save
from krylov.cli.runs import RunLog

__all__ = ["AXES", "draw_curves", "plot_runs", "points"]

#: Entries of a record that a loss is drawn against, and what the axes say.
AXES = {
    "step": "outer iterations",
    "data_passes": "passes over the data",
    "gradient_equivalents": "work, in gradients of all the data",
    "seconds.total": "seconds of training",
}
_MORE_AXES = {"collectives": "all-reduces, if the data were distributed"}
#: Entries that may be drawn, their words, and the entry of the held-out samples beside them.
WHAT = {"loss": ("loss", "held_out_loss"), "error": ("error", "held_out_error")}


def plot_runs(path: Path, runs: Sequence[RunLog], what: str, *, log_scale: bool = True) -> None:
    """Draw all runs against iterations, data passes, work and time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 8.4), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06, hspace=0.06, w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        panels = figure.subplots(2, 2).flat
        for panel, against in zip(panels, AXES, strict=True):
            draw_curves(panel, runs, against, what, log_scale=log_scale)
        save(figure, path)


def draw_curves(
    panel: Any, runs: Sequence[RunLog], against: str, what: str, *, log_scale: bool = True
) -> None:
    """Draw one panel: training solid, held out dashed."""
    words, held_out = WHAT[what]
    dashed = False
    for run, colour in zip(runs, cycle(COLOURS)):
        x, y = points(run, against, what)
        panel.plot(x, y, color=colour, linewidth=1.8, label=run.name)
        if len(x) == 1:
            panel.plot(x, y, "o", color=colour, markersize=5)
        x, y = points(run, against, held_out)
        panel.plot(x, y, color=colour, linewidth=1.3, linestyle=(0, (4, 2)), alpha=0.8)
        dashed = dashed or bool(x)
    if dashed:
        panel.plot([], [], color=GREY, linewidth=1.3, linestyle=(0, (4, 2)), label="held out")
    if log_scale and any(value > 0 for run in runs for value in points(run, against, what)[1]):
        panel.set_yscale("log", nonpositive="mask")
    panel.set(xlabel=(AXES | _MORE_AXES)[against], ylabel=words)
    panel.set_xlim(left=0)
    panel.grid(axis="y", color="#ebebeb")
    panel.set_axisbelow(True)
    panel.legend(frameon=False, fontsize=9, labelcolor=GREY)


def points(run: RunLog, against: str, what: str) -> tuple[list[float], list[float]]:
    """Where both entries are known."""
    pairs = zip(run.column(against), run.column(what), strict=True)
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
