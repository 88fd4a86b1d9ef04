"""What the experiments of the papers share: options, data, crossing times, tables and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from krylov.torch.training.idx import find_idx, read_idx

ROOT = Path(__file__).resolve().parents[2]
#: Beside the checkout.
DATA = ROOT.parent / "shared" / "data"
console = Console()
if not console.is_terminal:
    console = Console(width=200)  # tables in a file need no wrapping


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--data``, ``--seeds``, ``--quick``, ``--out``."""
    for option in (
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=ROOT / "build" / "papers",
            help="Folder for the JSON and PNG files.",
        ),
        click.option("--quick", is_flag=True, help="Tiny sizes: a trial, no verdict."),
        click.option("--seeds", type=click.IntRange(1), default=3, show_default=True),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            default=DATA,
            help="Folder with mnist/.  [default: ../shared/data]",
        ),
    ):
        command = option(command)
    return command


def mnist(data: Path) -> tuple[Tensor, Tensor]:
    """All 60,000 training images, flat and between 0 and 1, and their labels."""
    folder = data / "mnist"
    try:
        images = read_idx(find_idx(folder, "train-images-idx3-ubyte"), 3)
        labels = read_idx(find_idx(folder, "train-labels-idx1-ubyte"), 1)
    except ValueError as error:
        raise click.ClickException(f"{error} (--data)") from None
    pixels = torch.from_numpy(images.reshape(len(images), -1).copy()).float().div_(255)
    return pixels, torch.from_numpy(labels.copy()).long()


def split(count: int, *sizes: int, seed: int) -> list[Tensor]:
    """Disjoint random samples of these sizes."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return list(order[: sum(sizes)].split(sizes))


def crossing(xs: Sequence[float], losses: Sequence[float], target: float) -> float:
    """Where the loss first reaches the target, linear between two records; infinite where it never does."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0 or losses[i - 1] <= loss:
                return xs[i]
            share = (losses[i - 1] - target) / (losses[i - 1] - loss)
            return xs[i - 1] + share * (xs[i] - xs[i - 1])
    return math.inf


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean and range; "-" for none."""
    found = list(values)
    if not found or not all(map(math.isfinite, found)):
        reached = sum(map(math.isfinite, found))
        return f"reached by {reached} of {len(found)}" if found else "-"
    mean = sum(found) / len(found)
    if len(found) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(found):.{digits}f}-{max(found):.{digits}f})"


def verdict(met: bool | None) -> str:
    """For the last column of a table."""
    return "" if met is None else "[green]yes[/]" if met else "[red]no[/]"


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def save(out: Path, name: str, results: Mapping[str, Any]) -> None:
    """Write ``name.json``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"results: {path}")


def curves(
    out: Path,
    name: str,
    lines: Mapping[str, Mapping[str, Sequence[float]]],
    axes: Mapping[str, str],
    y: str,
    y_label: str,
    *,
    log_y: bool = False,
) -> None:
    """Draw ``name.png``: one panel for each x axis (key to label), one line for each run."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(axes), figsize=(5.5 * len(axes), 4.2), sharey=True)
    for panel, (key, label) in zip(
        panels if len(axes) > 1 else [panels], axes.items(), strict=True
    ):
        for line, points in lines.items():
            panel.plot(points[key], points[y], label=line, linewidth=1.4)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
        if log_y:
            panel.set_yscale("log")
    first = figure.axes[0]
    first.set_ylabel(y_label)
    figure.axes[-1].legend(fontsize=8)
    figure.tight_layout()
    path = out / f"{name}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    console.print(f"picture: {path}")
