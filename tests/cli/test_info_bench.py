"""``krylov info``, ``krylov bench`` and the group itself."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest

import krylov

ROW = {"what": "cg", "n": 1000000, "ours": 1.5, "reference": 4.5, "ratio": 3.0, "bar": 3.0}


def test_info(run):
    result = run("info")
    assert result.exit_code == 0
    assert krylov.build_config()["version"] in result.stdout
    assert "instruction set" in result.stdout


def test_info_json(run):
    config = json.loads(run("info", "--json").stdout)
    assert set(config) == set(krylov.build_config())


@pytest.fixture
def suite(monkeypatch):
    """Put a suite of one row in place of the real one."""

    def put(columns, met=True):
        module = ModuleType("krylov.bench.solve")
        module.COLUMNS = columns
        module.run = lambda quick: [ROW | {"met": met, "what": f"cg [quick={quick}]"}]
        monkeypatch.setitem(sys.modules, "krylov.bench.solve", module)

    return put


def test_bench_table(run, suite):
    for columns in (("what", "n", "ratio", "bar", "met"), {"what": "what", "n": "size"}):
        suite(columns)
        result = run("bench", "solve", "--quick")
        assert result.exit_code == 0
        assert "cg [quick=True]" in result.stdout
        assert "1,000,000" in result.stdout


def test_bench_json_and_check(run, suite):
    suite(tuple(ROW), met=False)
    result = run("bench", "solve", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["met"] is False
    assert run("bench", "solve", "--check").exit_code == 1
    suite(tuple(ROW), met=True)
    assert run("bench", "solve", "--check").exit_code == 0


def test_bench_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "krylov.bench.kernels", None)
    result = run("bench", "kernels")
    assert result.exit_code == 2
    assert "krylov[bench]" in result.stderr


def test_help_lists_the_commands(run):
    result = run("--help")
    for name in ("solve", "train", "plot", "demo", "info", "bench"):
        assert name in result.stdout
    for name in ("solve", "train", "plot"):
        assert run(name, "--help").exit_code == 0


def test_starts_without_matplotlib_sklearn_and_torch():
    heavy = "{'matplotlib', 'sklearn', 'torch'}"
    code = f"import sys, krylov.cli; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
