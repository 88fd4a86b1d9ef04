"""The table of the demo: two lines a system, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from krylov.cli.race import Race
from krylov.cli.report import integer, scientific, seconds, times


def results_table(races: Sequence[Race]) -> Table:
    """One line for each solver of each system."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("system\n[dim]n (nonzeros) method", no_wrap=True)
    table.add_column("\nsolver", no_wrap=True)
    for title in ("\ntime", "\niterations", "true\nresidual", "\nspeed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    for race in races:
        system = race.system
        table.add_row(
            system.name,
            "SciPy",
            seconds(race.scipy.seconds),
            integer(race.scipy.iterations),
            scientific(race.scipy.residual),
        )
        table.add_row(
            f"[dim]{integer(system.n)} ({integer(system.nnz)}) {system.method_words}[/]",
            "krylov",
            seconds(race.ours.seconds),
            integer(race.ours.iterations),
            f"[{'green' if race.outcome.ok else 'red'}]{scientific(race.ours.residual)}[/]",
            f"[bold]{times(race.speed_up)}[/]",
        )
    return table
