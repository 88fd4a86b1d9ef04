"""The measuring functions: turns, windows, bounds. What they measure is bench/'s business."""

from __future__ import annotations

import json
import math

import pytest

from krylov import _core
from krylov.bench import bits, iteration, kernels, solve
from krylov.bench.peers import krylov_cg, scipy_cg
from krylov.bench.poisson import poisson, right_hand_side
from krylov.bench.rows import at_least, at_most, duration
from krylov.bench.timing import Times, interleave, spans
from krylov.bench.vector_part import VectorPart


def test_spans_divide_the_stamps_into_windows():
    assert spans([0.0, 1.0, 3.0, 6.0, 10.0], 2) == [1.5, 3.5]
    assert spans([0.0, 1.0, 3.0, 6.0, 10.0], 1, skip=2) == [3.0, 4.0]


def test_ratios_are_of_bests_and_of_rounds():
    times = Times({"a": [2.0, 3.0, 8.0], "b": [1.0, 2.0, 2.0]})
    assert times.ratio("a", "b") == 2.0
    assert times.median_ratio("a", "b") == 2.0


def test_contestants_take_turns():
    order = []

    def turn(name):
        order.append(name)
        return [1.0, 2.0]

    times = interleave({"a": lambda: turn("a"), "b": lambda: turn("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert times.rounds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_a_lucky_turn_prolongs_the_measurement():
    seconds = iter([9.0, 1.0, 2.0, 2.0, 1.0, 1.0, 5.0])
    assert interleave({"a": lambda: [next(seconds)]}, rounds=3).rounds["a"] == [1, 2, 2, 1, 1]


def test_bars_and_units():
    assert at_most(1.2, 1.3) == ("<= 1.3", True)
    assert at_least(2.9, 3) == (">= 3x", False)
    assert [duration(t) for t in (2.5, 0.0125, 3.25e-6)] == ["2.5 s", "12.5 ms", "3.25 µs"]


@pytest.mark.parametrize(
    ("method", "preconditioned", "traffic", "held"),
    [
        ("cg", False, 10, 4),
        ("cg", True, 12, 5),
        ("flexible_cg", True, 13, 5),
        ("bicgstab", False, 16, 6),
        ("bicgstab", True, 18, 8),
    ],
)
def test_what_is_timed_is_one_iteration_at_minimal_traffic(method, preconditioned, traffic, held):
    part = VectorPart(method, 5000, preconditioned, iterations=12, window=3)
    assert (part.traffic, part.held) == (traffic, held)
    assert len(part.turn()) == 3


def check(rows):
    assert rows
    for row in rows:
        assert set(row) == set(solve.COLUMNS)
        assert row["ratio"] is None or math.isfinite(row["ratio"])  # its size is no test's business
    json.dumps(rows)


def test_rows_of_iterations():
    check([iteration.against_bound("cg", False, 3000, rounds=3)])
    check([*iteration.against_scipy("bicgstab", 3000, rounds=3), iteration.overhead(rounds=3)])


def test_rows_of_kernels():
    check([kernels.against_axpy(_core.tables()[-1], "cg_step", 3000, rounds=3)])


def test_rows_of_solves():
    check(solve.against_peers(20, 30, rounds=3))


def test_contestants_solve_the_same_system():
    a, b = poisson(12), right_hand_side(144)
    ours, theirs = (make(a, b)(500, 1e-8) for make in (krylov_cg, scipy_cg))
    assert ours.relative_residual < 1e-8
    assert theirs.relative_residual < 1e-8


@pytest.mark.parametrize("method", bits.METHODS)
def test_bits_are_equal(method):
    assert bits.equal_bits(method, side=150, iterations=10)["met"]
