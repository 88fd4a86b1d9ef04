"""Pictures. matplotlib is imported when one is drawn, never before."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov.cli.errors import InputError
from krylov.cli.report import seconds, times

if TYPE_CHECKING:
    from krylov.cli.race import Race

#: File formats that every matplotlib writes.
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")

#: Okabe and Ito's colours, told apart by colour-blind readers; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("-", "-", "-", "-", "-", "-", (0, (4, 1.5)))
GREY, PALE = "#4d4d4d", "#c8c8c8"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "krylov",
}


def has_matplotlib() -> bool:
    """Whether a picture can be drawn."""
    return find_spec("matplotlib") is not None


def require_matplotlib(option: str) -> None:
    """Refuse an option that needs matplotlib where there is none."""
    if not has_matplotlib():
        raise InputError(f"{option} needs matplotlib: pip install 'krylov[plot]'")


def plot_residuals(
    path: Path,
    histories: Sequence[Sequence[float]],
    target: float,
    *,
    title: str,
    ylabel: str = "residual norm |r|",
) -> None:
    """Draw residual histories, of one or several right-hand sides, and the tolerance."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        longest = 1
        for history, colour in zip(histories, cycle(COLOURS)):
            residuals = _positive(history)
            longest = max(longest, residuals.size - 1)
            axes.semilogy(
                np.arange(residuals.size),
                residuals,
                color=colour,
                linewidth=1.6,
                marker="o" if residuals.size < 30 else "",
                markersize=4,
            )
        if target > 0:
            _mark_tolerance(axes, target, f"tolerance\n{target:.1e}")
        axes.set(title=_shortened(title), xlabel="iteration", ylabel=ylabel)
        axes.set_xlim(0, 1.03 * longest)
        lowest, highest = axes.get_ylim()
        axes.set_ylim(min(lowest, target / 10) if target > 0 else lowest, highest)
        axes.grid(axis="y", color="#ebebeb")
        axes.set_axisbelow(True)
        save(figure, path)


def plot_demo(path: Path, races: Sequence[Race], rtol: float) -> None:
    """Draw the demo: residual histories on the left, times on the right."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.05, 1))
        figure.get_layout_engine().set(wspace=0.06, w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        _histories(left, races, rtol)
        _times(right, races)
        save(figure, path)


def _histories(axes: Any, races: Sequence[Race], rtol: float) -> None:
    for race, colour, dash in zip(races, COLOURS, _DASHES, strict=False):
        residuals = _positive(race.history)
        last = residuals.size - 1
        axes.semilogy(residuals, color=colour, linestyle=dash, linewidth=1.5, label=_name(race))
        axes.plot(last, residuals[-1], "o", color=colour, markersize=5)
    _mark_tolerance(axes, rtol, f"tolerance\n{rtol:.0e}")
    axes.set(title="Residuals of krylov's runs", xlabel="iteration", ylabel="|r| / |b|")
    axes.set_xlim(left=0)
    axes.set_ylim(rtol / 8, min(axes.get_ylim()[1], 1e3))  # Bi-CG-STAB may jump far out
    axes.grid(axis="y", color="#ebebeb")
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=GREY)


def _times(axes: Any, races: Sequence[Race]) -> None:
    # Shares of SciPy's time, because the systems take from milliseconds to seconds and a bar on a
    # logarithmic axis has no honest length.
    at = np.arange(len(races))[::-1]
    height = 0.36
    for y, race, colour in zip(at, races, COLOURS, strict=False):
        share = 1 / race.speed_up
        axes.barh(y + height / 2, 1, height, color=PALE)
        axes.barh(y - height / 2, share, height, color=colour)
        label(axes, 0, y + height / 2, f"SciPy {seconds(race.scipy.seconds)}", color=GREY)
        words = f"krylov {seconds(race.ours.seconds)}, {times(race.speed_up)} as fast"
        if share < 0.6:
            label(axes, share, y - height / 2, words, color="black", fontweight="bold")
        else:
            label(axes, 0, y - height / 2, words, color="white", fontweight="bold")
    labels = [f"{_name(race)}\nn = {race.system.n:,}, {race.system.method_words}" for race in races]
    axes.set_yticks(at, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    # A run that was disturbed may be many times slower: cut its bar, keep the others readable.
    axes.set_xlim(0, min(max(1.0, *(1 / race.speed_up for race in races)), 2.0) * 1.01)
    axes.set_title("Time to the same tolerance")


def _name(race: Race) -> str:
    return race.system.name


def label(axes: Any, x: float, y: float, words: str, **style: Any) -> None:
    """Write beside a point."""
    axes.annotate(
        words, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=9, **style
    )


def _mark_tolerance(axes: Any, value: float, words: str) -> None:
    axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    # Beside the axes, where no curve can cross it.
    axes.annotate(
        words,
        (1, value),
        (5, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=GREY,
        fontsize=9,
    )


def _positive(history: Sequence[float] | np.ndarray) -> np.ndarray:
    # A logarithmic axis drops zeros, and with them the point where an exact solution was found.
    values = np.asarray(history, dtype=np.float64)
    good = values[np.isfinite(values) & (values > 0)]
    floor = float(good.min()) * 1e-1 if good.size else 1.0
    return np.where(values > 0, values, floor)


def _shortened(text: str, most: int = 70) -> str:
    plain = text.replace("$", r"\$")
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def save(figure: Any, path: Path) -> None:
    """Write a picture."""
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise InputError(f"{path}: the picture could not be written ({error})") from None
