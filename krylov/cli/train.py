"""``krylov train``: a network by name, on data by name or from files."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from krylov.cli.errors import InputError
from krylov.cli.report import console, strict_json
from krylov.cli.runs import CONFIG
from krylov.cli.train_options import settings_options
from krylov.cli.train_settings import Settings, read_settings, write_settings

_INTERRUPTED = 130


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="RUN",
    help="Folder for log, checkpoint and model.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in RUN; other options are its own."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON only, no table and no bar.")
@settings_options
@click.pass_context
def train(ctx: click.Context, /, out: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a network, by second-order steps unless told otherwise.

    \b
    krylov train --out digits
    krylov train --out mnist --data mnist --path FOLDER --model autoencoder \\
        --init sparse --precond lbfgs --curvature-samples geometric:1000:1.3
    krylov train --out mnist --resume --steps 100

    Ctrl-C ends the run after the iteration in hand; --resume goes on from there, or from the last iteration before a
    crash, as if nothing had happened. RUN then holds config.json, log.jsonl (a line an iteration, for krylov plot),
    checkpoint.pt and, at the end, model.pt: the parameters of the smallest held-out loss.

    Exit code: 0 finished, 1 failed, 2 bad input, 130 interrupted.
    """  # noqa: D301  (click knows a paragraph that is not to be wrapped by its backspace)
    if find_spec("torch") is None:
        raise InputError("krylov train needs PyTorch: pip install 'krylov[torch]'")
    given = {
        name: value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name.replace('_', '-')} must be finite, got {value}")
    if resume:
        settings = read_settings(out, given)
    else:
        _new_folder(out)
        settings = Settings(**options)
    # Imported here: it takes seconds.
    from krylov.cli.train_job import Job, result_table

    job = Job(settings, out, resume=resume, progress=not as_json)
    if not resume:
        write_settings(out, settings)
    result = job.run()
    if as_json:
        click.echo(strict_json(result))
    else:
        console().print(result_table(result))
    ctx.exit(_INTERRUPTED if result["ending"] == "INTERRUPTED" else 0)


def _new_folder(folder: Path) -> None:
    if (folder / CONFIG).exists():
        raise InputError(
            f"{folder}: already holds a run; add --resume to go on with it, or choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made there ({error.strerror})") from None
