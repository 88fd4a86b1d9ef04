"""``krylov info``: what this installation is made of."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

import krylov
from krylov.cli.report import console, strict_json

_LABELS = {
    "version": "krylov",
    "isa": "instruction set in use",
    "isas": "instruction sets built and supported here",
    "openmp": "OpenMP",
    "threads": "threads",
    "compiler": "compiler",
    "cuda": "CUDA",
    "python": "Python",
    "numpy": "NumPy",
    "scipy": "SciPy",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def info(as_json: bool) -> None:
    """Show how this krylov was built and what it uses on this machine."""
    config = krylov.build_config()
    if as_json:
        click.echo(strict_json(config))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for key, value in config.items():
        table.add_row(_LABELS.get(key, key), _words(value))
    console().print(table)


def _words(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)
