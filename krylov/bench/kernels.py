"""Every pass over the vectors, in every kernel table this machine can run: bandwidth as a share of axpy's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from krylov import _core
from krylov.bench.rows import COLUMNS, row
from krylov.bench.timing import interleave
from krylov.bench.vector_part import PassCalls, axpy_bound, filled

__all__ = ["COLUMNS", "SIZES", "TABLES", "against_axpy", "pass_calls", "run"]

SIZES = (10**5, 10**7)
# The naive reference is the tests' truth; its speed matters to nobody.
TABLES = tuple(name for name in _core.tables() if name != "reference")
_PASSES = {line["name"]: line for line in _core.passes()}
# Values stay as they are, or nearly: no overflow, no denormal numbers however often a pass is repeated.
_COEFS = {"scale": 1.0}


def pass_calls(table: str, name: str, n: int) -> PassCalls:
    """A turn of calls of one pass on vectors of its own."""
    info = _PASSES[name]
    coefs = [_COEFS.get(name, 1e-9)] * info["coefs"]
    window = _window(n)
    return PassCalls(table, name, [filled(info["vectors"], n)], coefs, 4 * window, window)


def _window(n: int) -> int:
    return 8 if n <= 200_000 else 1


def against_axpy(table: str, name: str, n: int, rounds: int = 0) -> dict[str, Any]:
    """Measure the bandwidth of one pass over that of the best table's axpy on as many vectors."""
    info = _PASSES[name]
    moved = info["reads"] + info["writes"]
    ours = pass_calls(table, name, n)
    axpy = axpy_bound(n, max(2, info["vectors"]), 4 * _window(n), _window(n))
    rounds = rounds or (30 if n <= 200_000 else 12 if n <= 2_000_000 else 6)
    times = interleave({"ours": ours.turn, "axpy": axpy.turn}, rounds)
    scale = moved / 3

    def bandwidth(vectors: int, who: str) -> str:
        return f"{8e-9 * n * vectors / times.best(who):.0f} GB/s"

    return row(
        f"{name} ({table}), {_core.threads()} threads",
        n,
        bandwidth(moved, "ours"),
        f"{bandwidth(3, 'axpy')} axpy",
        scale * times.ratio("axpy", "ours"),
        median=scale * times.median_ratio("axpy", "ours"),
    )


def run(
    quick: bool = False,
    *,
    sizes: Iterable[int] | None = None,
    tables: Iterable[str] = TABLES,
    passes: Iterable[str] = tuple(_PASSES),
) -> list[dict[str, Any]]:
    """All rows; quick: the table in use, one small size, few rounds."""
    if quick:
        return [against_axpy("auto", name, 10**5, rounds=3) for name in passes]
    return [
        against_axpy(table, name, n) for n in sizes or SIZES for table in tables for name in passes
    ]
