"""The demo's second part: ten slowly changing systems, and preconditioners that learn from one for the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from krylov.bench.sequence import EXPERIMENTS, products
from krylov.bench.sequences import make_sequence
from krylov.bench.settings import NONE, SETTINGS

#: What is compared: a setting, and its name in the picture and the table.
_LINES = {
    NONE.name: "no preconditioner",
    "L-BFGS 32, textbook: newest scale, last run's pairs only": "L-BFGS 32, textbook",
    "L-BFGS 32": "L-BFGS 32",
    "Ritz 16": "Ritz 16",
    "Ritz 32": "Ritz 32",
}
_EXPERIMENT = EXPERIMENTS[1]
_SIZE, _COUNT = 20_000, 10
_QUICK_SIZE, _QUICK_COUNT = 1000, 3


@dataclass(frozen=True)
class Lessons:
    """Products that each system took, by preconditioner; the first one is none."""

    n: int
    rule: str
    products: dict[str, list[int]]

    def total(self, name: str) -> int:
        """Of the whole sequence."""
        return sum(self.products[name])

    def share(self, name: str) -> float:
        """Of the products without preconditioner."""
        return self.total(name) / self.total(next(iter(self.products)))


def run_lessons(quick: bool, announce: Callable[[str], None]) -> Lessons:
    """Solve the sequence with each preconditioner."""
    n, count = (_QUICK_SIZE, _QUICK_COUNT) if quick else (_SIZE, _COUNT)
    systems = make_sequence(n, count=count)
    counts = {}
    for setting, name in _LINES.items():
        announce(f"{count} systems that change slowly: {name}")
        counts[name] = products(systems, SETTINGS[setting], _EXPERIMENT.options)
    return Lessons(n, _EXPERIMENT.name, counts)


def lessons_table(lessons: Lessons) -> Table:
    """One line a preconditioner."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("a sequence of systems\n[dim]that changes slowly", no_wrap=True)
    table.add_column("products of\neach", no_wrap=True)
    table.add_column("\ntotal", justify="right")
    table.add_column("\nshare", justify="right")
    for name, each in lessons.products.items():
        share = lessons.share(name)
        table.add_row(
            name,
            " ".join(f"{count:2}" for count in each),
            str(lessons.total(name)),
            f"[bold]{share:.0%}[/]" if share < 1 else f"{share:.0%}",
        )
    return table


def lessons_words(lessons: Lessons) -> str:
    """What the table is about."""
    return (
        f"Each system has {lessons.n:,} unknowns and is solved to a {lessons.rule}; from one to the "
        "next every eigenvalue changes by some 5 %. What a preconditioner learns from the runs so far "
        "costs no product."
    )
