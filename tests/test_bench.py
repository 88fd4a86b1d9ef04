"""The measuring functions: turns, windows, bounds. What they measure is bench/'s business."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from krylov import _core
from krylov.bench import bits, iteration, kernels, lowrank, sequence, solve
from krylov.bench.peers import krylov_cg, scipy_cg
from krylov.bench.poisson import poisson, right_hand_side
from krylov.bench.rows import at_least, at_most, duration
from krylov.bench.sequences import make_sequence
from krylov.bench.taught import ACTIVE, FORMS, lbfgs, ritz
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


@pytest.mark.parametrize(("make", "traffic", "held"), [(lbfgs, 4 * 5 + 10, 14), (ritz, 20, 9)])
def test_a_fused_iteration_at_minimal_traffic(make, traffic, held):
    M = make(5000, 5, active=ACTIVE)
    part = VectorPart("flexible_cg", 5000, False, iterations=12, window=3, low_rank=M.native)
    assert (part.traffic, part.held) == (traffic, held)
    assert len(part.turn()) == 3


def check(rows, columns=solve.COLUMNS):
    assert rows
    for row in rows:
        assert set(row) == set(columns)
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


def test_rows_of_low_rank_preconditioners():
    n = 3000
    check([lowrank.against_reading(n, 4, rounds=3), lowrank.against_two_loops(n, 4, rounds=3)])
    check([lowrank.against_scipy(n, 4, rounds=3), *lowrank.fused_against_bound("Ritz", n, 4, 3)])
    check([lowrank.harvest(kind, n, 4) for kind in ("L-BFGS", "Ritz")])
    check(lowrank.storages(n, 4, rounds=3))


@pytest.mark.parametrize("form", FORMS)
def test_bits_of_low_rank_preconditioners_are_equal(form):
    assert bits.equal_bits_of_form(form, side=150, iterations=8)["met"]


@pytest.mark.parametrize("angle", [0.0, 0.1])
def test_sequences_are_what_they_say(angle):
    first, last = make_sequence(120, count=3, angle=angle)[::2]
    a, b = (system.A @ np.eye(120) for system in (first, last))
    assert first.products == 120
    for system, matrix in ((first, a), (last, b)):
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(matrix), np.sort(system.eigenvalues), atol=1e-12
        )
        x = np.linalg.solve(matrix + system.shift * np.eye(120), system.b)
        assert system.minimum == pytest.approx(-0.5 * x @ system.b)
    np.testing.assert_allclose(np.diag(a), first.diagonal)
    if angle:
        with pytest.raises(ValueError, match="cosines"):
            _ = last.diagonal


def test_rows_of_sequences():
    names = ("Jacobi", "L-BFGS 16", "Ritz 16, renewed for each system", "Nystroem 32, once for all")
    names += ("Ritz 16", "Ritz 16 in bfloat16")
    rows = sequence.table(sequence.EXPERIMENTS[0], 1000, 3, names)
    check(rows, sequence.COLUMNS)
    assert rows == sequence.table(sequence.EXPERIMENTS[0], 1000, 3, names)  # to the last product
    check(sequence.table(sequence.EXPERIMENTS[-1], 1000, 2), sequence.COLUMNS)
