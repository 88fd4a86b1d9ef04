"""``krylov solve`` when all is well."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import scipy.io

COORDINATE = "%%MatrixMarket matrix coordinate"


@pytest.mark.parametrize("name", ["a.mtx", "a.mtx.gz", "zipped-without-saying.mtx"])
def test_solves_and_says_how(run, market, tmp_path, name):
    path = market(name=name)
    if name.startswith("zipped"):
        path = market(name="b.mtx.gz").rename(tmp_path / name)
    result = run("solve", path)
    assert result.exit_code == 0
    assert result.stderr == ""
    for words in (
        "cg (the matrix is symmetric with a positive diagonal)",
        "converged",
        "iterations",
        "true residual",
        "preconditioner",
    ):
        assert words in result.stdout


def test_json_is_strict_and_complete(run, market):
    result = run("solve", market(), "--json")
    record = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.exit_code == 0
    assert record["matrix"] | {"path": ""} == {
        "path": "",
        "n": 3,
        "nnz": 7,
        "field": "real",
        "symmetry": "symmetric",
        "notes": [],
    }
    assert record["method"] == "cg"
    assert record["outcome"] == "CONVERGED"
    assert record["ok"] is True
    assert record["info"] == 0
    assert record["relative_true_residual"] <= 1e-8
    assert record["products"] >= record["iterations"] >= 1


def test_json_writes_non_finite_numbers_as_null():
    from krylov.cli.report import strict_json

    record = {"a": float("nan"), "b": [np.float32(np.inf), np.int64(3)], "c": 1 + 2j, "d": (True,)}
    assert json.loads(strict_json(record)) == {
        "a": None,
        "b": [None, 3],
        "c": {"re": 1.0, "im": 2.0},
        "d": [True],
    }


@pytest.mark.parametrize("suffix", [".npy", ".mtx"])
def test_writes_the_solution(run, market, tmp_path, suffix):
    out = tmp_path / f"x{suffix}"
    assert run("solve", market(), "--rtol", "1e-12", "--out", out).exit_code == 0
    x = np.load(out) if suffix == ".npy" else scipy.io.mmread(out)
    np.testing.assert_allclose(np.ravel(x), [1.5, 2.0, 1.5], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.txt", "2\n0\n2\n"),
        ("b.txt", "# a comment\n2 0 2\n"),
        ("b.mtx", "%%MatrixMarket matrix array real general\n3 1\n2\n0\n2\n"),
        ("b.mtx", f"{COORDINATE} integer general\n3 1 2\n1 1 2\n3 1 2\n"),
        ("row.mtx", "%%MatrixMarket matrix array real general\n1 3\n2\n0\n2\n"),
        ("b.mtx.gz", "%%MatrixMarket matrix array real general\n3 1\n2\n0\n2\n"),
        ("b.npy", None),
    ],
)
def test_right_hand_side_files(run, market, tmp_path, name, text):
    if text is None:
        rhs = tmp_path / name
        np.save(rhs, np.array([[2], [0], [2]]))
    else:
        rhs = market(text, name)
    out = tmp_path / "x.npy"
    result = run("solve", market(), "--rhs", rhs, "--out", out, "--rtol", "1e-12")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(out), [2, 2, 2], rtol=1e-12)


def test_zero_right_hand_side(run, market):
    result = run("solve", market(), "--rhs", market("0\n0\n0\n", "b.txt"), "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 0
    assert record["relative_true_residual"] is None


def test_complex_right_hand_side_of_a_real_matrix(run, market, tmp_path):
    out = tmp_path / "x.npy"
    rhs = market("2j\n0\n2j\n", "b.txt")
    assert run("solve", market(), "--rhs", rhs, "--out", out, "--rtol", "1e-12").exit_code == 0
    np.testing.assert_allclose(np.load(out), [2j, 2j, 2j], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "method", "words"),
    [
        (
            "complex hermitian\n2 2 3\n1 1 2 0\n2 1 0 1\n2 2 2 0\n",
            "cg",
            "the matrix is Hermitian with a positive diagonal",
        ),
        (
            "complex symmetric\n2 2 3\n1 1 2 0\n2 1 0 1\n2 2 2 0\n",
            "bicgstab",
            "the matrix is complex symmetric",
        ),
        ("real general\n2 2 3\n1 1 2\n2 1 1\n2 2 2\n", "bicgstab", "the matrix is nonsymmetric"),
        ("real general\n2 2 4\n1 1 2\n2 1 1\n1 2 1\n2 2 2\n", "cg", "the matrix is symmetric"),
        ("real symmetric\n2 2 2\n1 1 2\n2 2 -3\n", "bicgstab", "not positive definite"),
        ("pattern general\n2 2 3\n1 1\n2 1\n2 2\n", "bicgstab", "pattern only"),
        ("integer symmetric\n2 2 3\n1 1 2\n2 1 1\n2 2 2\n", "cg", "integer entries converted"),
        ("pattern symmetric\n2 2 1\n2 1\n", "bicgstab", "not positive definite"),  # zero diagonal
        ("real general\n2 2 4\n1 1 2\n2 1 0\n1 2 0\n2 2 2\n", "cg", "2 explicit zeros dropped"),
        ("real skew-symmetric\n2 2 1\n2 1 3\n", "bicgstab", "skew-symmetric"),
    ],
)
def test_method_follows_the_matrix(run, market, text, method, words):
    result = run("solve", market(f"{COORDINATE} {text}"), "--json")
    record = json.loads(result.stdout)
    assert record["method"] == method
    assert words in " ".join([record["method_reason"], *record["matrix"]["notes"]])
    assert result.exit_code == (0 if record["ok"] else 1)


def test_dense_matrix_market(run, market):
    path = market("%%MatrixMarket matrix array real general\n2 2\n2\n1\n1\n2\n")
    result = run("solve", path, "--json")
    assert json.loads(result.stdout)["method"] == "cg"


@pytest.mark.parametrize("method", ["cg", "flexible_cg", "bicgstab", "neumann"])
def test_given_method(run, market, method):
    result = run("solve", market(), "--method", method, "--maxiter", 1000, "--json")
    record = json.loads(result.stdout)
    assert (record["method"], record["method_reason"]) == (method, "given")
    assert record["ok"], record["outcome"]


@pytest.mark.parametrize("method", ["cg", "flexible_cg", "bicgstab"])
def test_jacobi(run, market, method):
    result = run("solve", market(), "--method", method, "--precond", "jacobi", "--json")
    record = json.loads(result.stdout)
    assert record["preconditioner"] == "jacobi"
    assert record["ok"]


def test_jacobi_of_a_complex_hermitian_matrix(run, market):
    text = f"{COORDINATE} complex hermitian\n2 2 3\n1 1 2 0\n2 1 0 1\n2 2 3 0\n"
    assert run("solve", market(text), "--precond", "jacobi").exit_code == 0


def test_exit_code_tells_that_it_was_not_solved(run, market):
    result = run("solve", market(), "--maxiter", "1", "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert record["outcome"] == "ITERATION_LIMIT"
    assert record["advice"]


def test_singular_with_inconsistent_rhs_is_not_called_solved(run, market):
    # Neumann problem in one dimension: rows sum to zero, so no x gives the first unit vector.
    text = f"{COORDINATE} real symmetric\n3 3 5\n1 1 1\n2 1 -1\n2 2 2\n3 2 -1\n3 3 1\n"
    result = run("solve", market(text), "--rhs", market("1 0 0", "b.txt"), "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout, parse_constant=pytest.fail)["ok"]


def test_plot(run, market, tmp_path):
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg", ".pdf"):
        picture = tmp_path / f"residuals{suffix}"
        result = run("solve", market(), "--plot", picture)
        assert result.exit_code == 0
        assert picture.stat().st_size > 1000


def test_plot_survives_odd_histories_and_names(tmp_path):
    pytest.importorskip("matplotlib")
    from krylov.cli.plots import plot_residuals

    for history in ([1.0], [0.0], [1.0, float("nan"), 0.0], [1.0, float("inf")]):
        plot_residuals(tmp_path / "p.png", [history], 0.0, title="$x_{$ [red]" * 20)


def test_works_without_matplotlib_except_for_plot(run, market, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("solve", market()).exit_code == 0
    result = run("solve", market(), "--plot", tmp_path / "p.png")
    assert result.exit_code == 2
    assert "pip install 'krylov[plot]'" in result.stderr
    assert not (tmp_path / "p.png").exists()


def test_file_names_are_not_markup(run, market):
    result = run("solve", market(name="[red]a.mtx"))
    assert "[red]a.mtx" in result.stdout
