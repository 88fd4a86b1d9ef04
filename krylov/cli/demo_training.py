"""The demo's third part: a small network on the embedded digits, by Hessian-free steps and by Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table

from krylov.cli.curves import draw_curves
from krylov.cli.plots import STYLE, save
from krylov.cli.runs import RunLog

__all__ = [
    "Training",
    "missing",
    "plot_training",
    "run_training",
    "training_table",
    "training_words",
]

#: Seconds for each run; Adam's best rate of these is shown, Hessian-free steps get no choice.
_SECONDS, _QUICK_STEPS = 3.0, 2
_RATES = (0.001, 0.003, 0.01, 0.03)
_QUICK_RATES = (0.01,)
_SIZES, _BATCH = (64, 64), 128
#: Losses at which the two are compared; at the last one a run ends.
_GOALS, _FLOOR = (1e-1, 1e-3, 1e-5), 1e-8


@dataclass(frozen=True)
class Training:
    """Both runs, that of Hessian-free steps first."""

    runs: tuple[RunLog, RunLog]
    parameters: int
    samples: int


def missing() -> str:
    """What to install before this part can run; nothing where all is there."""
    if find_spec("torch") is None:
        return "training, which needs PyTorch, pip install 'krylov[torch]'"
    if find_spec("sklearn") is None:
        return "training, which needs scikit-learn's data, pip install 'krylov[bench]'"
    return ""


def run_training(quick: bool, announce: Callable[[str], None]) -> Training:
    """Train with both, from the same parameters on the same samples."""
    announce("training: loading PyTorch")
    import torch

    from krylov.torch.optim.hessian_free import HessianFree
    from krylov.torch.training import fit, load_data, mlp

    data = load_data("digits")
    threads = torch.get_num_threads()

    def run(name: str, make: Callable[..., torch.optim.Optimizer]) -> RunLog:
        announce(f"training on digits: {name}")
        model = mlp(64, 10, _SIZES, activation="tanh")
        history = fit(
            model,
            torch.nn.CrossEntropyLoss(),
            data,
            optimizer=make(model.parameters()),
            batch=_BATCH if make is not hessian_free else None,
            steps=_QUICK_STEPS if quick else 10**6,
            time_limit=_SECONDS,
            target_loss=_FLOOR,
            progress=False,
        )
        return RunLog(name, history.records)

    def hessian_free(params: object) -> HessianFree:
        return HessianFree(params, preconditioner="ritz")  # type: ignore[arg-type]

    # One thread for all: so small a network gains nothing from more, and loses much on a busy machine.
    torch.set_num_threads(1)
    try:
        ours = run("Hessian-free, Ritz 16", hessian_free)
        adams = [
            run(f"Adam, rate {rate}", lambda params, rate=rate: torch.optim.Adam(params, lr=rate))
            for rate in (_QUICK_RATES if quick else _RATES)
        ]
    finally:
        torch.set_num_threads(threads)
    best = min(adams, key=lambda log: min(_losses(log)))
    count = sum(parameter.numel() for parameter in mlp(64, 10, _SIZES).parameters())
    return Training((ours, best), count, len(data.train))


def training_table(training: Training) -> Table:
    """When and after how many all-reduces each of them reaches a loss."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("training on digits\n[dim]s (all-reduces) to a loss", no_wrap=True)
    for goal in _GOALS:
        table.add_column(f"\nof {goal:g}", justify="right", no_wrap=True)
    table.add_column("held-out\nerror", justify="right")
    for log in training.runs:
        errors = [error for error in log.column("held_out_error") if error is not None]
        reached = [_reached(log, goal) for goal in _GOALS]
        table.add_row(log.name, *reached, f"{min(errors):.1%}")
    return table


def training_words(training: Training) -> str:
    """What the table is about."""
    return (
        f"A network of {training.parameters:,} parameters on {training.samples:,} samples, {_SECONDS:.0f} s for each "
        f"run; Adam in mini-batches of {_BATCH} with the best of {len(_RATES)} rates. All-reduces are those that "
        "distributed data would need."
    )


def plot_training(path: Path, training: Training) -> None:
    """Draw the losses against time and against communication."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 4.8), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06, w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        panels: Sequence[tuple[str, str]] = (
            ("seconds.total", "Training on digits: loss against time"),
            ("collectives", "The same against communication"),
        )
        for panel, (against, title) in zip(figure.subplots(1, 2), panels, strict=True):
            draw_curves(panel, training.runs, against, "loss")
            panel.set_title(title)
        save(figure, path)


def _losses(log: RunLog) -> list[float]:
    return [loss for loss in log.column("loss") if loss is not None]


def _reached(log: RunLog, goal: float) -> str:
    times, counts = log.column("seconds.total"), log.column("collectives")
    for loss, time, count in zip(log.column("loss"), times, counts, strict=True):
        if loss is not None and loss <= goal and time is not None and count is not None:
            return f"{time:.2f} ({count:,.0f})"
    return "-"
