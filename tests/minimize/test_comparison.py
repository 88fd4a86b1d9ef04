"""The measuring functions of the comparison: what they count, and what they call a saddle."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from minimize.problems import hessian

from krylov.bench import minimize, objectives


@pytest.mark.parametrize("method", minimize.METHODS)
def test_every_method_ends_at_the_same_gradient_norm(method):
    norms = []
    problem = objectives.rosenbrock(4)

    def jac(x):
        g = problem.jac(x)
        norms.append(np.linalg.norm(g))
        return g

    count = minimize.to_target(replace(problem, jac=jac), method, minimize.METHODS[method][0])
    assert count.reached
    assert count.njev == len(norms)
    assert norms[-1] <= problem.target < min(norms[:-1])
    assert (count.products > 0) == (method != "L-BFGS-B")


def test_rows_of_a_comparison():
    rows = minimize.compare(objectives.deep_linear(3, 2), ("newton_krylov", "trust-ncg"), rounds=1)
    assert [row["method"] for row in rows] == ["newton_krylov", "trust-ncg"]
    for row in rows:
        assert set(row) == set(minimize.COLUMNS)
        assert row["ends"] == "target"
    assert rows[1]["ratio"] == 1.0
    json.dumps(rows)


def test_rows_near_saddles():
    rows = minimize.near_saddles(("newton_krylov", "trust-ncg"))
    ours = {row["ends"] for row in rows if row["method"] == "newton_krylov"}
    theirs = [row["ends"] for row in rows if row["method"] == "trust-ncg"]
    assert ours == {"minimum"}
    assert theirs[:2] == ["saddle", "saddle"]


def test_regressions_are_left_out_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("KRYLOV_DATA", str(tmp_path))
    assert minimize.data_folder() is None
    (tmp_path / "libsvm").mkdir()
    assert minimize.data_folder() == tmp_path
    rows = [row["what"] for row in minimize.run(quick=False, data=tmp_path, rounds=1, kinds={})]
    assert sum("left out" in text and "KRYLOV_DATA" in text for text in rows) == 2


def test_logistic_regression_reads_svmlight(tmp_path):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    path = tmp_path / "small.gz"
    with gzip.open(path, "wt") as file:
        for label in [0, 1] * 10:
            entries = " ".join(
                f"{k + 1}:{v:.3f}" for k, v in enumerate(rng.standard_normal(3) + label)
            )
            file.write(f"{label} {entries}\n")
    problem = objectives.logistic("small", path)
    w, h = rng.standard_normal(4), 1e-6  # three features and the intercept
    slopes = [(problem.fun(w + h * e) - problem.fun(w - h * e)) / (2 * h) for e in np.eye(4)]
    changes = [(problem.jac(w + h * e) - problem.jac(w - h * e)) / (2 * h) for e in np.eye(4)]
    np.testing.assert_allclose(problem.jac(w), slopes, atol=1e-8)
    np.testing.assert_allclose(hessian(problem, w), changes, atol=1e-8)
