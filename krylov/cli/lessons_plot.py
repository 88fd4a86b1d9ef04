"""The picture of the demo's second part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from krylov.cli.lessons import Lessons
from krylov.cli.plots import COLOURS, GREY, PALE, STYLE, label, save

#: Of the lines, the first of which is no preconditioner.
_LINES = ("#8c8c8c", COLOURS[1], COLOURS[0], COLOURS[3], COLOURS[2])


def plot_lessons(path: Path, lessons: Lessons) -> None:
    """Draw the products of each system on the left, those of the sequence on the right."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        figure.get_layout_engine().set(wspace=0.06, w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        _each(left, lessons)
        _totals(right, lessons)
        save(figure, path)


def _each(axes: Any, lessons: Lessons) -> None:
    for (name, counts), colour in zip(lessons.products.items(), _LINES, strict=True):
        at = np.arange(1, len(counts) + 1)
        axes.plot(at, counts, color=colour, linewidth=1.8, marker="o", markersize=5, label=name)
    axes.set(
        title=f"{len(at)} systems that change slowly: products for each",
        xlabel="system, in the order in which they are solved",
        ylabel="products with A",
    )
    axes.set_xticks(at)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#ebebeb")
    axes.set_axisbelow(True)


def _totals(axes: Any, lessons: Lessons) -> None:
    names = list(lessons.products)
    at = np.arange(len(names))[::-1]
    longest = max(lessons.total(name) for name in names)
    for y, name, colour in zip(at, names, _LINES, strict=True):
        total, share = lessons.total(name), lessons.share(name)
        axes.barh(y, total, 0.62, color=PALE if name == names[0] else colour)
        words = f"{total:,}" if name == names[0] else f"{total:,}, {share:.0%}"
        if total > 0.75 * longest:
            inside = "black" if name == names[0] else "white"
            label(axes, 0, y, words, color=inside, fontweight="bold")
        else:
            label(axes, total, y, words, color="black", fontweight="bold")
    axes.set_yticks(at, names)
    for tick, colour in zip(axes.get_yticklabels(), _LINES, strict=True):
        tick.set_color(GREY if colour == _LINES[0] else colour)
        tick.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_title(f"All together (n = {lessons.n:,}, to a {lessons.rule})")
