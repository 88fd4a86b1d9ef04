"""One iteration without its product: against the memory bound, against SciPy, and where only overhead is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import scipy.sparse.linalg as scipy_linalg

import krylov
from krylov import _core
from krylov.bench.rows import COLUMNS, at_least, at_most, duration, row
from krylov.bench.timing import PAUSE, interleave
from krylov.bench.vector_part import Peer, VectorPart, axpy_bound

__all__ = ["COLUMNS", "METHODS", "SIZES", "against_bound", "against_scipy", "overhead", "run"]

# Solver, and whether a general preconditioner takes part.
METHODS = (
    ("cg", False),
    ("cg", True),
    ("flexible_cg", True),
    ("bicgstab", False),
    ("bicgstab", True),
)
SIZES = (10**5, 10**6, 10**7)
BOUND_BAR = 1.3
SCIPY_BARS = {"cg": 3.0, "bicgstab": 4.0}
OVERHEAD_BAR = 5e-6


def against_bound(method: str, preconditioned: bool, n: int, rounds: int = 0) -> dict[str, Any]:
    """Measure an iteration over the time that its traffic takes at the speed of axpy.

    Both see the same number of vectors, hence the same level of the caches, and a sample of each moves about the same
    number of bytes.
    """
    window = 4 if n <= 200_000 else 1
    iterations = max(4 * window, min(48, 24 * 10**6 // n)) + 3
    ours = VectorPart(method, n, preconditioned, iterations, window)
    calls = max(1, round(window * ours.traffic / 3))
    bound = axpy_bound(n, ours.held, calls * (iterations // window), calls)
    rounds = rounds or (60 if n <= 200_000 else 24 if n <= 2_000_000 else 10)
    times = interleave({"ours": ours.turn, "axpy": bound.turn}, rounds)
    scale = ours.traffic / 3
    ratio = times.ratio("ours", "axpy") / scale
    bandwidth = 24e-9 * n / times.best("axpy")
    name = f"{method}{' with M' if preconditioned else ''}"
    return row(
        f"{name}: iteration without product over its {ours.traffic} n of traffic, {_core.threads()} threads",
        n,
        duration(times.best("ours")),
        f"{duration(scale * times.best('axpy'))} at axpy's {bandwidth:.0f} GB/s",
        ratio,
        median=times.median_ratio("ours", "axpy") / scale,
        bar=at_most(ratio, BOUND_BAR),
    )


def against_scipy(method: str, n: int = 10**6, rounds: int = 12) -> list[dict[str, Any]]:
    """Measure an iteration without product of SciPy's solver over ours.

    Ours twice: where products are put to the place asked for, as those of matrices are, and with the LinearOperator
    that SciPy has, which returns memory of its own and keeps it, so that Bi-CG-STAB has to copy v.
    """
    iterations = max(8, min(20, 10**7 // n))
    contestants = {
        "in place": VectorPart(method, n, False, iterations, 1).turn,
        "kept": Peer(getattr(krylov, method), method, n, iterations, 1).turn,
        "scipy": Peer(getattr(scipy_linalg, method), method, n, iterations, 1).turn,
    }
    times = interleave(contestants, rounds, pause=PAUSE)
    whose = {"in place": "product put in place", "kept": "product in the operator's memory"}
    lines = []
    for name, text in whose.items():
        ratio = times.ratio("scipy", name)
        lines.append(
            row(
                f"{method}: iteration without product, {text}, SciPy over krylov, {_core.threads()} threads",
                n,
                duration(times.best(name)),
                f"{duration(times.best('scipy'))} SciPy",
                ratio,
                median=times.median_ratio("scipy", name),
                bar=at_least(ratio, SCIPY_BARS[method]),
            )
        )
    return lines


def overhead(method: str = "cg", n: int = 10, rounds: int = 60) -> dict[str, Any]:
    """Measure an iteration where the vectors weigh nothing, with its products in Python, which weigh little."""
    peers = {
        name: Peer(getattr(module, method), method, n, 40, 12)
        for name, module in (("ours", krylov), ("scipy", scipy_linalg))
    }
    times = interleave({name: peer.turn for name, peer in peers.items()}, rounds)
    within = min(peer.operator_seconds for peer in peers.values())
    best = times.best("ours")
    return row(
        f"{method}: overhead of an iteration with a Python operator ({duration(within)} of it the operator)",
        n,
        duration(best),
        f"{duration(times.best('scipy'))} SciPy",
        times.ratio("scipy", "ours"),
        median=times.median_ratio("scipy", "ours"),
        bar=at_most(1e6 * best, 1e6 * OVERHEAD_BAR, " µs"),
    )


def run(
    quick: bool = False,
    *,
    sizes: Iterable[int] | None = None,
    methods: Iterable[tuple[str, bool]] = METHODS,
) -> list[dict[str, Any]]:
    """All rows; quick: small sizes and few rounds, for a trial."""
    if quick:
        rows = [against_bound(*method, 10**5, rounds=3) for method in methods]
        rows += [line for method in SCIPY_BARS for line in against_scipy(method, 10**5, rounds=3)]
        rows += [overhead(method, rounds=3) for method in SCIPY_BARS]
        return [{**line, "met": None} for line in rows]
    rows = [against_bound(*method, n) for n in sizes or SIZES for method in methods]
    rows += [line for method in SCIPY_BARS for line in against_scipy(method)]
    return rows + [overhead(method) for method in SCIPY_BARS]
