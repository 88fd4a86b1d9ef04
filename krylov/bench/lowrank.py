"""Low-rank preconditioners: M r and the fused iteration against their traffic, against SciPy, and in fewer digits."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from scipy.optimize import LbfgsInvHessProduct

from krylov import _core
from krylov.bench.bits import equal_bits_of_form
from krylov.bench.rows import COLUMNS, at_least, at_most, duration, row
from krylov.bench.sequence import EXPERIMENTS, products
from krylov.bench.sequences import make_sequence
from krylov.bench.settings import SETTINGS
from krylov.bench.taught import ACTIVE, FORMS, lbfgs, pairs, ritz
from krylov.bench.timing import PAUSE, interleave, spans
from krylov.bench.vector_part import PassCalls, VectorPart, filled

__all__ = [
    "COLUMNS",
    "against_reading",
    "against_scipy",
    "against_two_loops",
    "fused_against_bound",
    "harvest",
    "ritz_against_lbfgs",
    "run",
    "storages",
]

READING_BAR = 1.2
SCIPY_BAR = 5.0
FUSED_BAR = 1.3
STORAGE_BAR = 0.6
# Vectors that a fused iteration moves beside the columns.
_VECTORS = 10


class Calls:
    """Something called again and again."""

    def __init__(self, call: Callable[[], Any], count: int = 2) -> None:
        self._call, self._count = call, count

    def turn(self) -> list[float]:
        """Seconds of each call."""
        stamps = [perf_counter()]
        for _ in range(self._count):
            self._call()
            stamps.append(perf_counter())
        return spans(stamps, 1)


def _applied(M: Any) -> Calls:
    """M r as a solver asks for it: into memory that it has."""
    r, z = filled(2, M.shape[0])
    r, z = r.astype(M.dtype), z.astype(M.dtype)
    native = M.native
    return Calls(lambda: native.apply(r, z))


def against_reading(n: int = 10**6, m: int = 32, rounds: int = 16) -> dict[str, Any]:
    """Measure M r over reading S and Y twice: dots of disjoint pairs of as many vectors."""
    M = lbfgs(n, m)
    columns = filled(2 * m, n)
    groups = [columns[2 * k : 2 * k + 2] for k in range(m)]
    reading = PassCalls("auto", "dot", groups, [], 4 * m, 2 * m)
    times = interleave({"apply": _applied(M).turn, "dot": reading.turn}, rounds)
    ratio = times.ratio("apply", "dot") / (2 * m)
    seconds = 2 * m * times.best("dot")
    return row(
        f"L-BFGS {m}: M r over reading S and Y twice, {_core.threads()} threads",
        n,
        duration(times.best("apply")),
        f"{duration(seconds)} at {32e-9 * m * n / seconds:.0f} GB/s",
        ratio,
        median=times.median_ratio("apply", "dot") / (2 * m),
        bar=at_most(ratio, READING_BAR),
    )


def against_scipy(n: int = 10**6, m: int = 32, rounds: int = 6) -> dict[str, Any]:
    """Measure M r of SciPy's operator, which has the textbook's two loops, over ours."""
    M = lbfgs(n, m)
    s, y = (np.array(side) for side in zip(*pairs(n, m), strict=True))
    theirs = LbfgsInvHessProduct(s, y)
    r = np.ones(n)
    contestants = {"ours": Calls(lambda: M @ r).turn, "scipy": Calls(lambda: theirs @ r).turn}
    times = interleave(contestants, rounds, pause=PAUSE)
    ratio = times.ratio("scipy", "ours")
    return row(
        f"L-BFGS {m}: M r, scipy.optimize.LbfgsInvHessProduct over krylov, {_core.threads()} threads",
        n,
        duration(times.best("ours")),
        f"{duration(times.best('scipy'))} SciPy",
        ratio,
        median=times.median_ratio("scipy", "ours"),
        bar=at_least(ratio, SCIPY_BAR),
    )


def against_two_loops(n: int = 10**6, m: int = 32, rounds: int = 6) -> dict[str, Any]:
    """Measure M r by the textbook's two loops, written in the same passes, over the compact form."""
    compact, loops = lbfgs(n, m), lbfgs(n, m, apply="two_loop")
    r = np.ones(n)
    contestants = {"ours": Calls(lambda: compact @ r).turn, "two": Calls(lambda: loops @ r).turn}
    times = interleave(contestants, rounds)
    return row(
        f"L-BFGS {m}: M r, two loops over the compact form, {_core.threads()} threads",
        n,
        duration(times.best("ours")),
        f"{duration(times.best('two'))} two loops",
        times.ratio("two", "ours"),
        median=times.median_ratio("two", "ours"),
    )


def fused_against_bound(
    kind: str = "L-BFGS", n: int = 10**6, m: int = 16, rounds: int = 12
) -> list[dict[str, Any]]:
    """Measure an iteration of flexible CG with M, but without its product, over the time that its traffic takes.

    Two bounds: all of it at the speed of axpy; and the columns, which are only read, at that of a dot, the rest at that
    of axpy. Where reads and writes have links of their own a dot is the slower of the two.
    """
    part = _fused(kind, n, m)
    vectors = filled(part.held, n)
    count = part.traffic - _VECTORS  # of columns, each of them read twice
    pairs_of = [[vectors[2 * k], vectors[2 * k + 1]] for k in range(part.held // 2)]
    axpy = PassCalls("auto", "axpy", pairs_of, [1e-9], part.held, part.held // 2)
    dot = PassCalls("auto", "dot", pairs_of, [], part.held, part.held // 2)
    times = interleave({"ours": part.turn, "axpy": axpy.turn, "dot": dot.turn}, rounds)
    gives = {"axpy": 3, "dot": 2}  # vectors moved by a call

    def line(what: str, moved: dict[str, int]) -> dict[str, Any]:
        def bound(seconds: Callable[[str], float]) -> float:
            return sum(moved[name] / gives[name] * seconds(name) for name in moved)

        best = bound(times.best)
        turns = zip(times.rounds["ours"], *(times.rounds[name] for name in moved), strict=True)
        medians = [
            ours / bound(dict(zip(moved, each, strict=True)).__getitem__) for ours, *each in turns
        ]
        ratio = times.best("ours") / best
        return row(
            f"flexible_cg with {kind} {m}: iteration without product over its {part.traffic} n of "
            f"traffic {what}, {_core.threads()} threads",
            n,
            duration(times.best("ours")),
            f"{duration(best)} at {8e-9 * n * part.traffic / best:.0f} GB/s",
            ratio,
            median=float(np.median(medians)),
            bar=at_most(ratio, FUSED_BAR),
        )

    return [
        line("at axpy's speed", {"axpy": part.traffic}),
        line("at that of dot and axpy", {"dot": count, "axpy": _VECTORS}),
    ]


def ritz_against_lbfgs(
    n: int = 10**6, rounds: int = 8, *, sequence_n: int = 20_000
) -> list[dict[str, Any]]:
    """Measure Ritz with 16 vectors beside L-BFGS with 64 pairs: an iteration, a sequence, and both together."""
    parts = {"ritz": _fused("Ritz", n, 16), "lbfgs": _fused("L-BFGS", n, 64)}
    times = interleave({name: part.turn for name, part in parts.items()}, rounds)
    faster, median = times.ratio("lbfgs", "ritz"), times.median_ratio("lbfgs", "ritz")
    lines = [
        row(
            f"iteration without product, L-BFGS 64 over Ritz 16, {_core.threads()} threads",
            n,
            duration(times.best("ritz")),
            f"{duration(times.best('lbfgs'))} L-BFGS 64",
            faster,
            median=median,
            bar=at_least(faster, 1),
        )
    ]
    experiment = EXPERIMENTS[0]
    systems = make_sequence(sequence_n, **experiment.sequence)
    ours, theirs = (
        sum(products(systems, SETTINGS[name], experiment.options))
        for name in ("Ritz 16", "L-BFGS 64")
    )
    lines.append(
        row(
            f"products on the sequence ({experiment.name}), L-BFGS 64 over Ritz 16",
            sequence_n,
            str(ours),
            f"{theirs} L-BFGS 64",
            theirs / ours,
            median=theirs / ours,
            bar=at_least(theirs / ours, 1),
        )
    )
    lines.append(
        row(
            "vector work of that sequence with these iterations, L-BFGS 64 over Ritz 16",
            n,
            duration(ours * times.best("ritz")),
            f"{duration(theirs * times.best('lbfgs'))} L-BFGS 64",
            faster * theirs / ours,
            median=median * theirs / ours,
        )
    )
    return lines


def storages(n: int = 10**6, m: int = 32, rounds: int = 12) -> list[dict[str, Any]]:
    """Measure M r with columns in fewer digits over columns in full."""
    kinds: tuple[tuple[str, Any], ...] = (
        ("float64", ("float32", "bfloat16")),
        ("float32", ("bfloat16",)),
    )
    lines = []
    for dtype, fewer in kinds:
        contestants = {
            storage: _applied(lbfgs(n, m, dtype=dtype, storage=storage)).turn
            for storage in (dtype, *fewer)
        }
        times = interleave(contestants, rounds)
        for storage in fewer:
            ratio = times.ratio(storage, dtype)
            lines.append(
                row(
                    f"L-BFGS {m}: M r for {dtype} vectors, columns in {storage}, {_core.threads()} threads",
                    n,
                    duration(times.best(storage)),
                    f"{duration(times.best(dtype))} {dtype}",
                    ratio,
                    median=times.median_ratio(storage, dtype),
                    bar=at_most(ratio, STORAGE_BAR),
                )
            )
    return lines


def harvest(kind: str, n: int = 10**6, m: int = 16, rounds: int = 3) -> dict[str, Any]:
    """Measure what learning from a run of 3 m iterations adds to each of them."""
    M: Any = (ritz if kind == "Ritz" else lbfgs)(n, m, active=ACTIVE)
    iteration = _fused(kind, n, m)
    lesson = list(pairs(n, 3 * m, active=ACTIVE))

    def learn() -> list[float]:
        began = perf_counter()
        M.begin_run(False)
        for s, y in lesson:
            M.learn(s, y)
        M.end_run(True)
        return [(perf_counter() - began) / len(lesson)]

    times = interleave({"learn": learn, "iteration": iteration.turn}, rounds)
    return row(
        f"{kind} {m}: learning over a fused iteration, in a run of {3 * m}, {_core.threads()} threads",
        n,
        duration(times.best("learn")),
        f"{duration(times.best('iteration'))} the iteration",
        times.ratio("learn", "iteration"),
        median=times.median_ratio("learn", "iteration"),
    )


def _fused(kind: str, n: int, m: int) -> VectorPart:
    M = (ritz if kind == "Ritz" else lbfgs)(n, m, active=ACTIVE)
    iterations = 4 if n > 200_000 else 12
    return VectorPart("flexible_cg", n, False, iterations + 3, 1, M.native)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """All rows; quick: small sizes and few rounds, for a trial."""
    if not quick:
        return [
            against_reading(),
            against_scipy(),
            against_two_loops(),
            *fused_against_bound("L-BFGS"),
            *fused_against_bound("Ritz"),
            *ritz_against_lbfgs(),
            *storages(),
            harvest("L-BFGS"),
            harvest("Ritz"),
            *(equal_bits_of_form(form) for form in FORMS),
        ]
    n = 10**5
    lines = [
        against_reading(n, 16, rounds=3),
        against_scipy(n, 16, rounds=3),
        against_two_loops(n, 16, rounds=3),
        *fused_against_bound("L-BFGS", n, 8, rounds=3),
        *fused_against_bound("Ritz", n, 8, rounds=3),
        *ritz_against_lbfgs(n, 3, sequence_n=2000),
        *storages(n, 16, rounds=3),
        harvest("L-BFGS", n, 8),
        harvest("Ritz", n, 8),
    ]
    bits = [equal_bits_of_form(form, 100, 10) for form in FORMS]
    return [{**line, "met": None} for line in lines] + bits
