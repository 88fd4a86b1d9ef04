"""Rows of the benchmark tables."""

from __future__ import annotations

from typing import Any

__all__ = ["COLUMNS", "at_least", "at_most", "duration", "row"]

COLUMNS = {
    "what": "what",
    "n": "n",
    "ours": "krylov",
    "reference": "reference",
    "ratio": "ratio",
    "median": "median of rounds",
    "bar": "bar",
    "met": "met",
}


def row(
    what: str,
    n: int | None,
    ours: str,
    reference: str,
    ratio: float | None = None,
    *,
    median: float | None = None,
    bar: tuple[str, bool] | None = None,
) -> dict[str, Any]:
    """One line of a table; `bar` is its text and whether it was met."""
    return {
        "what": what,
        "n": n,
        "ours": ours,
        "reference": reference,
        "ratio": ratio,
        "median": median,
        "bar": bar and bar[0],
        "met": bar and bar[1],
    }


def at_most(value: float, limit: float, unit: str = "") -> tuple[str, bool]:
    """A bar from above."""
    return f"<= {limit:g}{unit}", value <= limit


def at_least(value: float, limit: float, unit: str = "x") -> tuple[str, bool]:
    """A bar from below."""
    return f">= {limit:g}{unit}", value >= limit


def duration(seconds: float) -> str:
    """Seconds in a unit that leaves a short number."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
