"""The sweep over real matrices (`bench/matrices`): on made-up files always, on real ones where there is a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import krylov

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ROOT / "bench" / "matrices"
DATA = ROOT.parent / "shared" / "data"
REAL = ["1138_bus", "sherman1", "e05r0000", "steam2", "young1c", "cavity14", "well1850", "nos7"]


def sweep(*arguments, cwd):
    # Elsewhere than in the checkout, whose krylov/ holds no compiled module.
    command = [sys.executable, str(SWEEP), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def contest(monkeypatch):
    """The module that solves and checks."""
    names = ("systems", "contest")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(SWEEP))
    import contest

    yield contest
    for name in names:
        sys.modules.pop(name, None)


def test_no_folder_is_said_and_is_no_failure(tmp_path):
    run = sweep("--data", tmp_path / "nowhere", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "nothing to do" in run.stdout
    assert "--data" in run.stdout


def test_made_up_matrices(tmp_path):
    folder = tmp_path / "matrices"
    folder.mkdir()
    rng = np.random.default_rng(0)
    laplacian = sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(30, 30))
    files = {
        "spd": laplacian,
        "negative": -laplacian,
        "indefinite": laplacian - 2.5 * sp.eye_array(30) + sp.diags_array(np.arange(30) - 3.5),
        "nonsymmetric": laplacian + sp.diags_array([0.5], offsets=[1], shape=(30, 30)),
        "nonsymmetric_b": rng.standard_normal((30, 1)),
        "complex": sp.csr_array(laplacian) + 1j * sp.eye_array(30).tocsr(),
        "singular": sp.csr_array(np.outer(np.arange(30.0), np.ones(30))),
        "graph": sp.csr_array(np.ones((8, 8)) - np.eye(8)),
        "tall": sp.csr_array(rng.standard_normal((20, 5))),
    }
    for name, matrix in files.items():
        scipy.io.mmwrite(folder / f"{name}.mtx", matrix)
    for name in ("table.md", "table.csv"):
        run = sweep("--data", tmp_path, "--output", tmp_path / name, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
        text = (tmp_path / name).read_text(encoding="utf-8")
        for system in set(files) - {"nonsymmetric_b"}:
            assert system in text
        assert "NEGATIVE_CURVATURE" in text
        assert "augmented system" in text


def test_false_claims_are_found(contest):
    A = sp.csr_array(2 * np.eye(4))
    b = np.ones(4)
    truth = contest.Truth(A, b)

    def found(x, **changes):
        x = np.asarray(x)
        claim = {"x": x, "info": 0, "true_residual_norm": 0.0, "direction": None} | changes
        row = contest.Row("m", 4, 4, "positive definite", "bicgstab", "none")
        row.ok, row.residual = changes.get("ok", True), truth.residual(x)
        return list(contest.faults(SimpleNamespace(**claim), row, truth, 1e-8))

    assert found(b / 2) == []
    assert "wrong: converged" in found(b / 2 + 1e-6)
    assert "wrong: true residual" in found(b / 2 + 1e-6)
    assert "x is not finite" in found([np.nan, 0, 0, 0])
    assert "wrong: info is 0" in found(b / 2, ok=False)
    assert "worse than the start" in found(5 * b, ok=False, info=3)
    assert "wrong: direction" in found(b / 2, direction=np.array([1.0, 0, 0, 0]))


def test_real_matrices(tmp_path):
    if not (DATA / "matrices").is_dir():
        pytest.skip("no ../shared/data/matrices beside the checkout (Matrix Market files)")
    run = sweep("--data", DATA, "--maxiter", 2000, "--only", *REAL, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Wrong claims, exceptions or NaN: 0." in run.stdout


def test_convergence_that_is_claimed_is_true_beside_scipy(tmp_path):
    """On nos7 SciPy's cg says 0 with 40 times the tolerance; ours says that it stagnates."""
    path = DATA / "matrices" / "nos7.mtx.gz"
    if not path.is_file():
        pytest.skip("no ../shared/data/matrices/nos7.mtx.gz beside the checkout")
    A = sp.csr_array(scipy.io.mmread(path))
    b = A @ np.ones(A.shape[0])
    result = krylov.cg(A, b, rtol=1e-8)
    true = np.linalg.norm(b - A @ result.x) / np.linalg.norm(b)
    assert result.outcome.ok == (true < 1e-8)
