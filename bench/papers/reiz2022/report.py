"""Tables, files and pictures of a scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clock import at
from common import console, curves, save, show, verdict

from reiz2022.scenario import Scenario
from reiz2022.settings import OURS

Points = dict[str, list[float]]

#: Scenarios in which ours is to have the least loss.
BARS = ("reg-lif", "reg-bos", "bnn-mnist")
_AXES = {"passes": "gradient-equivalents (passes over the data)", "seconds": "seconds"}


def final(points: Points, axis: str, budget: float) -> float:
    """Loss where a budget is spent; NaN where it was not, or the run has diverged."""
    loss = at(points[axis], points["loss"], budget)
    return loss if math.isfinite(points["loss"][-1]) else math.nan


def _shown(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else math.inf


def report(
    name: str,
    scenario: Scenario,
    runs: Mapping[str, list[Points]],
    best: Mapping[str, str],
    tried: Mapping[str, Mapping[str, float]],
    out: Path,
    quick: bool,
) -> None:
    """Print the table, write JSON and PNG."""
    budgets = {"seconds": scenario.seconds, "passes": scenario.passes}
    ends = {
        axis: {who: [final(p, axis, budget) for p in them] for who, them in runs.items()}
        for axis, budget in budgets.items()
    }
    rows = [
        (
            who,
            best[who],
            _shown(ends["seconds"][who]),
            _shown(ends["passes"][who]),
            f"{sum(p['passes'][-1] for p in them) / len(them):.1f}",
        )
        for who, them in runs.items()
    ]
    columns = (
        "",
        "best setting",
        f"loss after {scenario.seconds:g} s",
        f"after {scenario.passes:g} passes",
        "passes in all",
    )
    show(f"{name}: final training loss, mean (range)", columns, rows)
    least = {
        axis: min(them, key=lambda who, them=them: _mean(them[who])) for axis, them in ends.items()
    }
    for axis, who in least.items():
        wanted = name in BARS and axis == "seconds" and not quick
        met = verdict(who in OURS) if wanted else ""
        console.print(f"{name}: least loss for equal {axis}: {who} {met}")
    results: dict[str, Any] = {
        "budgets": budgets,
        "least": least,
        "bar_met": None if quick or name not in BARS else least["seconds"] in OURS,
        "tried": {who: {s: _plain(x) for s, x in them.items()} for who, them in tried.items()},
        "final": {
            axis: {who: list(map(_plain, x)) for who, x in them.items()}
            for axis, them in ends.items()
        },
        "best": dict(best),
        "runs": {
            who: [{k: list(map(_plain, x)) for k, x in p.items()} for p in them]
            for who, them in runs.items()
        },
    }
    save(out, f"reiz2022-{name}", results)
    lines = {f"{who}, {best[who]}": them[0] for who, them in runs.items()}
    curves(out, f"reiz2022-{name}", lines, _AXES, "loss", "training loss", log_y=True)


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
