"""``krylov plot``: the curves of training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from krylov.cli.curves import WHAT, plot_runs
from krylov.cli.errors import InputError
from krylov.cli.outputs import check_output
from krylov.cli.plots import PICTURE_SUFFIXES, require_matplotlib
from krylov.cli.runs import RunLog, read_run
from krylov.cli.spectra_plot import SPECTRUM, plot_spectra


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("krylov-curves.png"),
    show_default=True,
    metavar="FILE",
    help="The picture: .png, .pdf or .svg.",
)
@click.option(
    "--what",
    type=click.Choice([*WHAT, SPECTRUM]),
    default="loss",
    show_default=True,
    help="What is drawn; error: of classification, spectrum: what krylov train --spectrum has measured.",
)
@click.option("--linear", is_flag=True, help="No logarithmic scale.")
def plot(runs: tuple[Path, ...], out: Path, what: str, linear: bool) -> None:
    """Draw the loss of training runs against iterations, passes over the data, work and time.

    RUN is a folder that krylov train has written, or a log. A run that is still going may be drawn too.
    """
    require_matplotlib("krylov plot")
    check_output(out, suffixes=PICTURE_SUFFIXES, inputs=[path for path in runs if path.is_file()])
    logs = [read_run(path) for path in runs]
    for log, path in zip(logs, runs, strict=True):
        if all(value is None for value in log.column(f"{what}.max" if what == SPECTRUM else what)):
            raise InputError(f"{path}: no {what} in its log")
    if what == SPECTRUM:
        plot_spectra(out, _distinct(logs, runs))
    else:
        plot_runs(out, _distinct(logs, runs), what, log_scale=not linear)
    click.echo(f"picture: {out.absolute()}")


def _distinct(logs: list[RunLog], paths: tuple[Path, ...]) -> list[RunLog]:
    """Runs of the same name are told apart by their whole paths."""
    names = [log.name for log in logs]
    return [
        replace(log, name=str(path)) if names.count(log.name) > 1 else log
        for log, path in zip(logs, paths, strict=True)
    ]
