"""Fixtures for the tests of the kernels and solvers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from krylov import _core

# Shells start background jobs with Ctrl-C ignored; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DTYPES = [np.dtype(name) for name in ("float32", "float64", "complex64", "complex128")]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request) -> np.dtype:
    return request.param


@pytest.fixture
def runs(monkeypatch) -> list[_core.Run]:
    """Every native run that is started, in order: what it launched can be counted."""
    started = []

    class Run:
        lanczos, calibrate = _core.Run.lanczos, _core.Run.calibrate

        def __new__(cls, *args, **keywords):
            started.append(original(*args, **keywords))
            return started[-1]

    original = _core.Run
    monkeypatch.setattr(_core, "Run", Run)
    return started


@pytest.fixture
def python() -> Callable[..., str]:
    """Run a program in a fresh interpreter that must end by itself; returns what it prints."""

    def run(program: str, timeout: float = 60, **environment: str) -> str:
        import os

        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
