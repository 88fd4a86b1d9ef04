"""An iteration without its product: the time of ten, and the rows that `krylov bench iteration` prints."""

from __future__ import annotations

import pytest

from krylov.bench import iteration
from krylov.bench.vector_part import VectorPart


@pytest.mark.parametrize("n", iteration.SIZES, ids="{:.0e}".format)
@pytest.mark.parametrize(
    ("method", "preconditioned"),
    iteration.METHODS,
    ids=[
        f"{method}_M" if preconditioned else method for method, preconditioned in iteration.METHODS
    ],
)
def test_against_bound(benchmark, judge, method, preconditioned, n):
    part = VectorPart(method, n, preconditioned, iterations=10, window=1)
    benchmark.pedantic(part.turn, rounds=5, warmup_rounds=1)
    judge(iteration.against_bound(method, preconditioned, n))


@pytest.mark.parametrize("method", iteration.SCIPY_BARS)
def test_against_scipy(benchmark, judge, method):
    part = VectorPart(method, 10**6, False, iterations=10, window=1)
    benchmark.pedantic(part.turn, rounds=5, warmup_rounds=1)
    for row in iteration.against_scipy(method):
        judge(row)


@pytest.mark.parametrize("method", iteration.SCIPY_BARS)
def test_overhead(benchmark, judge, method):
    part = VectorPart(method, 10, False, iterations=40, window=12)
    benchmark.pedantic(part.turn, rounds=50, warmup_rounds=1)
    judge(iteration.overhead(method))
