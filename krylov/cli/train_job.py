"""A run of ``krylov train`` and its result. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from rich.text import Text

from krylov.cli.errors import InputError
from krylov.cli.report import integer, seconds
from krylov.cli.runs import LOG
from krylov.cli.train_parts import (
    make_data,
    make_loss,
    make_model,
    make_optimizer,
    make_schedules,
    make_tracker,
)
from krylov.cli.train_settings import Settings
from krylov.torch.training import History
from krylov.torch.training.checkpoint import replace_file
from krylov.torch.training.fit import prepare
from krylov.torch.training.measure import error_rate, measure

__all__ = ["Job", "result_table"]

_CHECKPOINT, _MODEL, _TENSORBOARD = "checkpoint.pt", "model.pt", "tensorboard"


class Job:
    """A run that is ready to begin; nothing is written before it does.

    Raises
    ------
    InputError
        The options do not go together, or the data are not what they should be.
    """

    def __init__(self, settings: Settings, out: Path, *, resume: bool, progress: bool) -> None:
        self._out = out
        with _refusals():
            self._data = make_data(settings)
            self._loss = make_loss(settings, self._data)
            self._model = make_model(settings, self._data)
            self._run = prepare(
                self._model,
                self._loss,
                self._data,
                optimizer=make_optimizer(settings, self._model, len(self._data.train)),
                steps=settings.steps,
                batch=settings.batch,
                gradient_samples=settings.sampling,
                evaluation=settings.evaluation,
                seed=settings.seed,
                log=out / LOG,
                tensorboard=out / _TENSORBOARD if settings.tensorboard else None,
                checkpoint=out / _CHECKPOINT,
                resume=resume,
                time_limit=settings.time_limit,
                target_loss=settings.target_loss,
                target_held_out=settings.target_held_out,
                spectrum=make_tracker(settings, self._model),
                progress=progress,
                **make_schedules(settings, len(self._data.train)),
            )

    def run(self) -> dict[str, Any]:
        """Train, keep the best parameters, and measure them on the test samples."""
        with _refusals():
            history = self._run.go()
            with replace_file(self._out / _MODEL) as part:
                torch.save(self._model.state_dict(), part)
        return self._result(history)

    def _result(self, history: History) -> dict[str, Any]:
        best = history.records[history.best_step]
        result: dict[str, Any] = {
            "ending": history.ending.name,
            "advice": history.ending.value,
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "samples": {
                name: len(samples)
                for name in ("train", "held_out", "test")
                if (samples := getattr(self._data, name)) is not None
            },
            "last": history.records[-1],
            "best": best,
            "out": self._out.absolute(),
        }
        if self._data.test is not None:
            metric = None if self._data.classes is None else error_rate
            loss, error = measure(
                self._model, self._loss, self._data.test, batch=1024, metric=metric
            )
            result |= {"test_loss": loss, "test_error": error}
        return result


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(str(error)) from error
    except RuntimeError as error:  # no room, on disk or in memory; a loss that is not finite
        raise click.ClickException(" ".join(str(error).split())) from error


def result_table(result: dict[str, Any]) -> Table:
    """Lay the result out for a person."""
    last, best = result["last"], result["best"]
    ended = result["ending"].lower().replace("_", " ")
    rows = {
        "outcome": f"{ended}: {result['advice']}",
        "parameters": integer(result["parameters"]),
        "samples": ", ".join(
            f"{integer(count)} {name.replace('_', ' ')}"
            for name, count in result["samples"].items()
        ),
        "iterations": integer(last["step"]),
        "training loss": _losses(last, "loss", "error"),
        "best iteration": integer(best["step"]),
        "held-out loss there": _losses(best, "held_out_loss", "held_out_error"),
        "test loss there": _losses(result, "test_loss", "test_error"),
        "work": f"{last['gradient_equivalents']:,.1f} gradients of all the data, "
        f"{last['data_passes']:,.1f} passes over them",
        "time": seconds(last["seconds"]["total"]),
        "run": str(result["out"]),
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows.items():
        if words:
            table.add_row(name, Text(words))  # Text: file names are not markup
    return table


def _losses(record: dict[str, Any], loss: str, error: str) -> str:
    if record.get(loss) is None:
        return ""
    rate = record.get(error)
    return f"{record[loss]:.4g}" + ("" if rate is None else f", error {rate:.2%}")
