"""``krylov demo`` in its quick form: the same path, small systems."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from krylov.cli import race, systems
from krylov.cli.plots import plot_demo

MAKERS = [*systems.GENERATED, *systems.BUNDLED]


def made(make, size):
    if make in [maker for maker, _, _ in systems.BUNDLED]:
        pytest.importorskip("sklearn")
        pytest.importorskip("PIL") if make is systems.photograph else None
    return make(size)


def test_table_and_picture(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("demo", "--quick", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    for name in ("krylov-demo.png", "krylov-sequence.png", "krylov-training.png"):
        picture = tmp_path / name
        assert f"picture: {picture}" in result.stdout
        assert picture.read_bytes().startswith(b"\x89PNG")
    for word in (
        "Poisson",
        "Ritz 16",
        "textbook",
        "SciPy",
        "krylov",
        "speed-up",
        "residual",
        "best of",
        "thread",
        "Adam, rate",
        "all-reduces",
    ):
        assert word in result.stdout


def test_no_plot(run, tmp_path):
    result = run("demo", "--quick", "--no-plot", "--out", tmp_path)
    assert result.exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_and_scikit_learn(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("demo", "--quick", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "krylov[plot]" in result.stderr
    assert "krylov[bench]" in result.stderr
    assert "Poisson" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_torch(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("demo", "--quick", "--no-plot", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "pip install 'krylov[torch]'" in result.stderr
    assert "Ritz 16" in result.stdout
    assert "Adam" not in result.stdout


def test_a_slow_machine_gets_fewer_systems(run, monkeypatch):
    monkeypatch.setattr("krylov.cli.demo._LIMIT", 0.0)
    result = run("demo", "--quick", "--no-plot")
    assert result.exit_code == 0
    assert "Poisson" in result.stdout
    assert "convection" not in result.stdout
    assert "textbook" not in result.stdout
    assert "slow or busy" in result.stderr


@pytest.mark.parametrize("load", [0.0, 1e4])
def test_says_when_the_machine_is_busy(run, monkeypatch, load):
    monkeypatch.setattr("krylov.cli.demo._LIMIT", 0.0)
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    result = run("demo", "--quick", "--no-plot")
    assert ("kept this machine busy" in result.stdout) is (load > 0)


def test_bad_folder_is_found_before_the_work(run, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    result = run("demo", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 2
    assert "no folder can be made" in result.stderr


def test_interrupt_is_clean(run, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("krylov.cli.demo.run_race", interrupted)
    result = run("demo", "--quick", "--no-plot", "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"


@pytest.mark.parametrize(
    ("make", "_", "size"), MAKERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_systems_are_what_they_say(make, _, size):
    system = made(make, size)
    dense = system.A.toarray() if hasattr(system.A, "toarray") else system.A
    assert dense.shape == (system.n, system.n)
    assert system.b.shape == (system.n,)
    if system.method == "cg":
        np.testing.assert_allclose(dense, dense.conj().T)
        assert np.linalg.eigvalsh(dense)[0] > 0
    else:
        assert not np.allclose(dense, dense.T)


@pytest.mark.parametrize(
    ("make", "_", "size"), MAKERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_both_solve_them(make, _, size):
    system = made(make, size)
    result = race.run_race(system, rtol=1e-6, budget=0.0, most=1)
    assert result.outcome.ok
    assert result.ours.residual <= 1.1e-6
    assert result.scipy.residual <= 1.1e-6
    assert result.rounds == 1
    assert 0 < result.speed_up < np.inf
    assert result.history[0] == pytest.approx(1.0)
    assert system.verdict is None or "%" in system.verdict(result.x)


def test_picture_of_one_race(tmp_path):
    pytest.importorskip("matplotlib")
    result = race.run_race(systems.poisson(10), rtol=1e-6, budget=0.0, most=1)
    plot_demo(tmp_path / "p.png", [result], 1e-6)
    assert (tmp_path / "p.png").stat().st_size > 1000
