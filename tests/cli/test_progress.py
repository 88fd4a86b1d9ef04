"""The bar is a rule that never stops a run, and counts digits."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from krylov.cli.progress import ResidualBar, log_fraction


def test_half_of_the_digits_is_half_of_the_bar():
    assert log_fraction(1.0, 1e-4, 1e-8) == pytest.approx(0.5)
    assert log_fraction(1.0, 1e-9, 1e-8) == 1.0
    assert log_fraction(1.0, 10.0, 1e-8) == 0.0


@pytest.mark.parametrize(
    ("first", "now", "target"),
    [(1.0, 0.5, 0.0), (0.0, 0.0, 1e-8), (math.inf, 1.0, 1e-8), (1e-9, 1e-9, 1e-8)],
)
def test_no_scale_no_bar(first, now, target):
    assert log_fraction(first, now, target) == 0.0


def test_draws_on_a_terminal_only_and_never_goes_back():
    for terminal in (True, False):
        stream = io.StringIO()
        bar = ResidualBar(Console(file=stream, force_terminal=terminal, width=100), "a.mtx", 1e-8)
        assert bar.enabled is terminal
        with bar:
            for k, residual in enumerate((1.0, 1e-6, 1e-2, math.nan)):
                bar._next_look = 0.0
                assert bar(SimpleNamespace(niter=k, residual_norm=residual)) is False
        assert bar.fraction() == pytest.approx(0.75)
        assert ("a.mtx" in stream.getvalue()) is terminal
