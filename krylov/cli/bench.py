"""``krylov bench``: the package's own benchmarks, each a ratio measured in one interleaved run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from krylov.cli.errors import InputError
from krylov.cli.report import console, strict_json

_SUITES = {
    "kernels": "Vector passes of an iteration against what the memory allows.",
    "iteration": "One iteration without its product, against SciPy and other packages.",
    "solve": "Whole solves, against SciPy and other packages.",
    "lowrank": "Low-rank preconditioners: M r, the fused iteration, reduced storage.",
    "sequence": "Products that preconditioners save which learn from one system for the next.",
    "curvature": "Products with Hessian and Gauss-Newton matrices of networks, against curvlinops.",
    "minimize": "Newton-Krylov against SciPy's minimisers, to the same gradient norm, and near saddles.",
}


@click.group()
def bench() -> None:
    """Measure krylov on this machine against its references."""


def run_suite(name: str, quick: bool) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Run ``krylov.bench.<name>`` and return its column titles by key, and its rows."""
    try:
        module = importlib.import_module(f"krylov.bench.{name}")
        columns, rows = module.COLUMNS, module.run(quick=quick)
    except ModuleNotFoundError as error:
        raise InputError(
            f"this benchmark needs {error.name}: pip install 'krylov[bench]'"
        ) from None
    titles = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    return titles, list(rows)


def rows_table(titles: dict[str, str], rows: list[dict[str, Any]]) -> Table:
    """Write rows as a table; ``met`` says whether the bar was reached."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for key, title in titles.items():
        table.add_column(title, justify="left" if key in ("what", "met") else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in titles))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "[green]yes[/]" if value else "[red]no[/]"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def _command(name: str, text: str) -> click.Command:
    @click.command(name=name, help=text)
    @click.option("--quick", is_flag=True, help="Small sizes and few repeats: a trial, no verdict.")
    @click.option("--check", is_flag=True, help="Exit with 1 when a bar is missed.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
    @click.pass_context
    def command(ctx: click.Context, quick: bool, check: bool, as_json: bool) -> None:
        titles, rows = run_suite(name, quick)
        if as_json:
            click.echo(strict_json(rows))
        else:
            console().print(rows_table(titles, rows))
        if check and not all(row.get("met", True) in (True, None) for row in rows):
            ctx.exit(1)

    return command


for _name, _text in _SUITES.items():
    bench.add_command(_command(_name, _text))
