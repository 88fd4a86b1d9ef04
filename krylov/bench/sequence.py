"""Preconditioners that learn, on sequences of slowly changing systems: products that each system takes.

Every product with A counts, whoever makes it: the iterations, the verification of a residual, the renewal of Ritz
vectors, the sketch of a Nystroem preconditioner. On one machine the counts never change, with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import krylov
from krylov.bench.rows import row
from krylov.bench.sequences import System, make_sequence
from krylov.bench.settings import NONE, SETTINGS, Setting

__all__ = ["COLUMNS", "EXPERIMENTS", "Experiment", "products", "run", "table"]

COLUMNS = {
    "what": "what",
    "n": "n",
    "ours": "products of each system",
    "reference": "no M",
    "ratio": "ratio",
    "worst": "worst system",
    "bar": "bar",
    "met": "met",
}
# What rounding to fewer digits may cost in products.
_STORAGE_BAR = 1.1
# Of the attainable decrease of the quadratic.
_DECREASE = 0.99

Options = Callable[[System], dict[str, Any]]


def _to_decrease(system: System) -> dict[str, Any]:
    goal = _DECREASE * system.minimum
    return {"rtol": 0.0, "stop": lambda trace: trace.quadratic_value <= goal}


def _to_residual(rtol: float) -> Options:
    return lambda system: {"rtol": rtol}


@dataclass(frozen=True)
class Experiment:
    """A kind of sequence and a rule that ends its runs.

    Attributes
    ----------
    name : str
        In the table.
    options : callable
        Keywords of the solver for a system.
    sequence : mapping
        Keywords of `make_sequence`.
    settings : tuple of str
        Which of the settings take part, after none; all by default.
    judged : bool
        Whether the bars hold here.
    """

    name: str
    options: Options
    sequence: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = tuple(SETTINGS)
    judged: bool = True


_SOME = (
    "L-BFGS 32, textbook: newest scale, last run's pairs only",
    "L-BFGS 16",
    "L-BFGS 32",
    "Ritz 16",
    "Ritz 32",
    "Ritz 32 in bfloat16",
    "Nystroem 32, once for all",
)

EXPERIMENTS = (
    Experiment("99 % of the decrease", _to_decrease),
    Experiment("residual of 1e-2", _to_residual(1e-2)),
    Experiment("turning, 99 %", _to_decrease, {"angle": 0.05}, _SOME),
    Experiment("turning, residual of 1e-2", _to_residual(1e-2), {"angle": 0.05}, _SOME),
    Experiment("shift x 2/3 each, 99 %", _to_decrease, {"falling": 2 / 3}, _SOME),
    Experiment("random b, residual of 1e-3", _to_residual(1e-3), {"random_b": True}, _SOME, False),
)


def products(systems: Iterable[System], setting: Setting, options: Options) -> list[int]:
    """Solve the systems one after the other; returns the products that each took.

    Raises
    ------
    RuntimeError
        A run ended in another way than by its rule.
    """
    M: Any = None
    counts = []
    for system in systems:
        system.products = 0
        M = setting.make(system, M)
        result = krylov.flexible_cg(system.shifted, system.b, M=M, **options(system))
        if not result.outcome.ok:
            raise RuntimeError(f"{setting.name}: {result.outcome.name} after {result.niter}")
        counts.append(system.products)
    return counts


def table(
    experiment: Experiment, n: int = 20_000, count: int = 10, names: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """One row for each setting of an experiment."""
    systems = make_sequence(n, count=count, **experiment.sequence)
    wanted = dict.fromkeys([NONE.name, *(experiment.settings if names is None else names)])
    counts = {name: products(systems, SETTINGS[name], experiment.options) for name in wanted}
    none = counts[NONE.name]
    rows = []
    for name, each in counts.items():
        worst = max(a / b for a, b in zip(each, none, strict=True))
        bar = _bar(SETTINGS[name], counts, worst) if experiment.judged else None
        line = row(
            f"{experiment.name}: {name}",
            n,
            f"{' '.join(map(str, each))} = {sum(each)}",
            f"{sum(none)}",
            sum(each) / sum(none),
            bar=bar,
        )
        del line["median"]
        rows.append({key: (line | {"worst": worst})[key] for key in COLUMNS})
    return rows


def _bar(setting: Setting, counts: dict[str, list[int]], worst: float) -> tuple[str, bool] | None:
    total = sum(counts[setting.name])
    limits = []
    if setting.total is not None:
        share = total / sum(counts[NONE.name])
        limits.append((f"<= {setting.total:g}", share <= setting.total))
    if setting.worst is not None:
        limits.append((f"worst <= {setting.worst:g}", worst <= setting.worst))
    if setting.full in counts:
        most = _STORAGE_BAR * sum(counts[setting.full])
        limits.append((f"<= {_STORAGE_BAR:g} of full storage", total <= most))
    return (
        (", ".join(text for text, _ in limits), all(met for _, met in limits)) if limits else None
    )


def run(
    quick: bool = False, *, experiments: Iterable[Experiment] = EXPERIMENTS
) -> list[dict[str, Any]]:
    """All rows; quick: a small sequence, for a trial."""
    if quick:
        rows = [line for each in experiments for line in table(each, 2000, 4)]
        return [{**line, "met": None} for line in rows]
    return [line for each in experiments for line in table(each)]
