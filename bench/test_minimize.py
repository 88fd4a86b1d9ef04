"""Products to the same gradient norm, against SciPy's methods; no stop at a saddle."""

from __future__ import annotations

from krylov.bench import minimize


def test_products_and_saddles(benchmark):
    rows = benchmark.pedantic(minimize.run, rounds=1)
    benchmark.extra_info["rows"] = rows
    missed = [row["what"] for row in rows if row["met"] is False]
    assert not missed
