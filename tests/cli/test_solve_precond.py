"""``krylov solve`` with preconditioners that learn, and with several right-hand sides."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp


@pytest.fixture(scope="module")
def outliers(tmp_path_factory):
    """A positive definite matrix with a dozen large eigenvalues, in a file."""
    n = 300
    rng = np.random.default_rng(3)
    wide = sp.random_array((n, 12), density=0.3, rng=rng, format="csr")
    matrix = sp.eye_array(n) + wide @ sp.diags_array(10.0 ** np.arange(2, 5, 0.25)) @ wide.T
    path = tmp_path_factory.mktemp("matrix") / "outliers.mtx"
    scipy.io.mmwrite(path, sp.coo_array(matrix), symmetry="symmetric")
    return path


def solved(run, *arguments):
    result = run("solve", *arguments, "--json")
    record = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.exit_code == 0, result.output
    assert record["relative_true_residual"] <= 1.01e-8
    return record


def right_hand_sides(tmp_path, count, n=300):
    path = tmp_path / f"b{count}.npy"
    np.save(path, np.random.default_rng(5).standard_normal((n, count)))
    return path


@pytest.mark.parametrize(
    ("precond", "method", "size"),
    [("lbfgs", "flexible_cg", 32), ("ritz", "cg", 16), ("nystrom", "cg", 32)],
)
def test_defaults(run, outliers, precond, method, size):
    record = solved(run, outliers, "--precond", precond)
    assert record["method"] == method
    assert record["preconditioner"] == precond
    assert record["preconditioner_size"] == size
    assert record["preconditioner_products"] == (size if precond == "nystrom" else 0)
    made = sum(one["products"] for one in record["solves"])
    assert record["products"] == made + record["preconditioner_products"]
    text = run("solve", outliers, "--precond", precond).stdout
    assert f"{precond}, size {size}" in text
    assert ("(32 products)" in text) is (precond == "nystrom")


@pytest.mark.parametrize("precond", ["lbfgs", "ritz"])
@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
def test_later_right_hand_sides_are_cheaper(run, outliers, tmp_path, precond, method):
    rhs = right_hand_sides(tmp_path, 3)
    plain = solved(run, outliers, "--rhs", rhs, "--method", method)
    taught = solved(run, outliers, "--rhs", rhs, "--method", method, "--precond", precond)
    first, *later = (one["products"] for one in taught["solves"])
    assert max(later) < first
    assert max(later) < min(one["products"] for one in plain["solves"])
    assert taught["products"] == first + sum(later)


def test_a_first_lesson_makes_one_run_of_two(run, outliers, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "p.png"
    arguments = ("--precond", "ritz", "--precond-size", "4", "--plot", picture)
    record = solved(run, outliers, *arguments)
    assert record["iterations"] > 8
    assert record["products"] > record["iterations"]
    assert picture.stat().st_size > 1000
    short = run("solve", outliers, "--precond", "ritz", "--maxiter", 9, "--json")
    assert short.exit_code == 1
    assert json.loads(short.stdout)["iterations"] == 9


def test_bicgstab_takes_nystrom(run, outliers):
    plain = solved(run, outliers, "--method", "bicgstab")
    record = solved(run, outliers, "--method", "bicgstab", "--precond", "nystrom")
    assert record["iterations"] < plain["iterations"]


@pytest.mark.parametrize("precond", ["lbfgs", "ritz", "nystrom"])
def test_matrices_smaller_than_the_preconditioner(run, market, precond):
    record = solved(run, market(), "--precond", precond)
    assert record["preconditioner_products"] == (3 if precond == "nystrom" else 0)


@pytest.mark.parametrize("precond", ["lbfgs", "ritz", "nystrom"])
def test_complex_hermitian(run, market, precond):
    text = "%%MatrixMarket matrix coordinate complex hermitian\n2 2 3\n1 1 2 0\n2 1 0 1\n2 2 3 0\n"
    solved(run, market(text), "--precond", precond)


def test_too_large_a_preconditioner_is_refused(run, outliers):
    result = run("solve", outliers, "--precond", "lbfgs", "--precond-size", "200")
    assert result.exit_code == 2
    assert "columns" in result.stderr


@pytest.mark.parametrize("suffix", [".npy", ".mtx"])
def test_several_right_hand_sides(run, market, tmp_path, suffix):
    two = market("2 1\n0 1\n2 1\n", "b.txt")
    one = market("0\n0\n0\n", "c.txt")
    out = tmp_path / f"x{suffix}"
    result = run("solve", market(), "--rhs", two, "--rhs", one, "--out", out, "--rtol", "1e-12")
    assert result.exit_code == 0, result.output
    assert "right-hand sides" in result.stdout
    x = np.load(out) if suffix == ".npy" else scipy.io.mmread(out)
    np.testing.assert_allclose(x, [[2, 1.5, 0], [2, 2, 0], [2, 1.5, 0]], rtol=1e-12)


def test_the_worst_of_several_tells(run, market):
    good, bad = market("1 1\n0 0\n0 0\n", "good.txt"), market("1\n2\n3\n", "bad.txt")
    arguments = ("--rhs", good, "--rhs", bad, "--maxiter", "2", "--json")
    text = "%%MatrixMarket matrix coordinate real symmetric\n3 3 3\n1 1 1\n2 2 4\n3 3 9\n"
    result = run("solve", market(text, "d.mtx"), *arguments)
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert not record["ok"]
    assert record["outcome"] == "ITERATION_LIMIT"
    assert [one["ok"] for one in record["solves"]] == [True, True, False]
    assert record["right_hand_sides"] == 3


def test_plot_of_several(run, market, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "residuals.svg"
    rhs = market("2 1 0\n0 1 0\n2 1 0\n", "b.txt")
    assert run("solve", market(), "--rhs", rhs, "--plot", picture).exit_code == 0
    assert picture.stat().st_size > 1000
