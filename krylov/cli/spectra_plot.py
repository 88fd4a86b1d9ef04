"""The picture of spectra along training: the largest eigenvalue above, the smallest below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from krylov.cli.curves import AXES, points
from krylov.cli.plots import COLOURS, GREY, STYLE, save
from krylov.cli.runs import RunLog

__all__ = ["SPECTRUM", "plot_spectra"]

#: The entry of a record, and the word for it on the command line.
SPECTRUM = "spectrum"
_PANELS = {"max": "largest eigenvalue", "min": "smallest eigenvalue"}


def plot_spectra(path: Path, runs: Sequence[RunLog]) -> None:
    """Draw both ends of the spectrum of all runs, each on a scale of its own: they differ by orders of magnitude."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 7), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for panel, (end, words) in zip(panels, _PANELS.items(), strict=True):
            for run, colour in zip(runs, cycle(COLOURS)):
                x, y = points(run, "step", f"{SPECTRUM}.{end}")
                style = "o-" if len(x) < 30 else "-"
                panel.plot(x, y, style, color=colour, linewidth=1.6, markersize=4, label=run.name)
            panel.axhline(0, color=GREY, linewidth=0.8)
            panel.set_ylabel(words)
            panel.grid(axis="y", color="#ebebeb")
            panel.set_axisbelow(True)
        panels[0].legend(frameon=False, fontsize=9, labelcolor=GREY)
        panels[-1].set_xlabel(AXES["step"])
        save(figure, path)
