"""Which pairs are kept, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest
from cases import vector, with_spectrum
from preconditioners.common import assert_positive_definite, columns_are_accounted_for, operator

import krylov
from krylov import LBFGSPreconditioner, RitzPreconditioner

N = 40


def offer(M, index):
    """A pair that can be told from all others: along unit vector `index`, with the product index + 1."""
    s = np.zeros(N)
    s[index] = 1
    return M.update(s, (index + 1.0) * s)


def positions(M):
    """Which of these are kept, oldest first."""
    shifted = M._columns.read
    return [int(np.argmax(abs(shifted(c)))) for c in M._pairs.s]


def after(select, m, length):
    M = LBFGSPreconditioner(N, m, select=select)
    for index in range(length):
        offer(M, index)
    return positions(M)


@pytest.mark.parametrize(
    ("m", "length", "expected"),
    [
        (4, 3, [0, 1, 2]),
        (4, 4, [0, 1, 2, 3]),
        (4, 5, [0, 2, 4]),
        (4, 6, [0, 2, 4]),
        (4, 7, [0, 2, 4, 6]),
        (4, 8, [0, 2, 4, 6]),
        (4, 9, [0, 4, 8]),
        (4, 16, [0, 4, 8, 12]),
        (4, 17, [0, 8, 16]),
        (4, 32, [0, 8, 16, 24]),
        (4, 40, [0, 16, 32]),
        (5, 6, [0, 1, 2, 3, 4]),
        (5, 7, [0, 2, 4, 6]),
        (5, 9, [0, 2, 4, 6, 8]),
        (5, 12, [0, 2, 4, 6, 8]),
        (5, 13, [0, 4, 8, 12]),
        (5, 40, [0, 8, 16, 24, 32]),
        (3, 5, [0, 2, 4]),
        (3, 40, [0, 16, 32]),
        (2, 40, [0, 32]),
        (1, 40, [0]),
        (40, 40, list(range(40))),
    ],
)
def test_uniform_is_evenly_spread_over_a_run_of_unknown_length(m, length, expected):
    assert after("uniform", m, length) == expected


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7, 8, 11, 16])
def test_uniform_at_every_length(m):
    """Multiples of one stride, from the start to the end, at least half full."""
    M = LBFGSPreconditioner(N, m)
    for index in range(N):
        offer(M, index)
        kept = positions(M)
        strides = set(np.diff(kept).tolist())
        assert kept[0] == 0
        assert len(strides) <= 1
        assert min(index + 1, m) >= len(kept) >= min(index + 1, (m + 1) // 2)
        assert index - kept[-1] < 2 * max(strides, default=1)


@pytest.mark.parametrize(("length", "expected"), [(2, [0, 1]), (3, [0, 1, 2]), (9, [6, 7, 8])])
def test_last(length, expected):
    assert after("last", 3, length) == expected


@pytest.mark.parametrize(("length", "expected"), [(2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_first(length, expected):
    assert after("first", 3, length) == expected


def test_update_tells_whether_the_pair_was_kept():
    M = LBFGSPreconditioner(N, 2, select="first")
    assert [offer(M, k) for k in range(4)] == [True, True, False, False]
    M = LBFGSPreconditioner(N, 4)
    assert [offer(M, k) for k in range(10)] == [1, 1, 1, 1, 1, 0, 1, 0, 1, 0]
    M = LBFGSPreconditioner(N, 1)
    assert [offer(M, k) for k in range(4)] == [True, False, False, False]


@pytest.mark.parametrize("select", ["uniform", "last", "first"])
def test_a_refused_pair_costs_none_of_those_kept(select):
    for m in (3, 4):
        M = LBFGSPreconditioner(N, m, select=select)
        for index in range(m):
            offer(M, index)
        before = positions(M)
        for _ in range(3):
            assert not M.update(vector(N), -vector(N))
        assert positions(M) == before
        for index in range(m + 3, 30):
            offer(M, index)
        kept = positions(M)
        assert (m + 1) // 2 <= len(kept) <= m
        if select == "uniform":  # refused ones were counted: still multiples of one stride
            assert len(set(np.diff(kept).tolist())) == 1


def uniform(length, room):
    kept, stride = [], 1
    for index in range(length):
        if index % stride == 0:
            kept.append(index)
        if len(kept) > room:
            kept, stride = kept[::2], 2 * stride
    return kept


@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
@pytest.mark.parametrize("m", [4, 6])
@pytest.mark.parametrize("select", ["uniform", "last", "first"])
def test_pairs_of_a_run(select, m, solver):
    """Those harvested are the directions of the run at the expected positions."""
    A, b, directions = operator(N, float, 1e3), vector(N), []

    class Listener:
        harvest = True
        shape = (N, N)

        def matvec(self, r):
            return r.copy()

        def begin_run(self, fixed):
            assert fixed is (solver is krylov.cg)

        def learn(self, p, Ap):
            np.testing.assert_allclose(Ap, A @ p, atol=1e-10)
            directions.append(p / np.linalg.norm(p))

        def end_run(self, complete):
            assert complete

    M = LBFGSPreconditioner(N, m, select=select, harvest=True, refresh=False)
    for preconditioner in (Listener(), M):
        assert solver(A, b, M=preconditioner, rtol=0, maxiter=21).niter == 21
    expected = {"uniform": uniform(21, m), "last": range(21 - m, 21), "first": range(m)}[select]
    assert len(M) == len(expected)
    overlaps = abs(np.array(directions) @ np.stack([M._columns.read(c) for c in M._pairs.s], 1))
    assert overlaps.argmax(axis=0).tolist() == list(expected)


# -------------------------------------------------------------------------------------------------
# The curvature guard

S = vector(N)


@pytest.mark.parametrize(
    ("s", "y"),
    [
        (S, -S),
        (S, 0 * S),
        (0 * S, S),
        (0 * S, 0 * S),
        (S, np.full(N, np.nan)),
        (np.full(N, np.nan), S),
        (S, np.where(np.arange(N) == 17, np.nan, S)),
        (S, np.where(np.arange(N) == 17, np.inf, S)),
        (np.where(np.arange(N) == 17, -np.inf, S), S),
        (np.eye(N)[0], np.eye(N)[1]),
        (np.eye(N)[0], 1e-17 * np.eye(N)[0] + np.eye(N)[1]),  # tiny against |s| |y|
        (np.eye(N)[0], -1e-17 * np.eye(N)[0] + np.eye(N)[1]),
    ],
)
@pytest.mark.parametrize("storage", [None, "float32", "bfloat16"])
def test_pair_without_curvature_is_refused(storage, s, y):
    for M in (
        LBFGSPreconditioner(N, 4, storage=storage),
        RitzPreconditioner(N, 4, storage=storage),
    ):
        if isinstance(M, RitzPreconditioner) and np.vdot(s, y) > 0 and np.isfinite(s @ y):
            continue  # s.y > 0 is enough for a Ritz vector
        assert not M.update(s, y)
        assert len(M) == 0
        assert columns_are_accounted_for(M)
        assert np.array_equal(M @ S, S)


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.inf), complex(np.nan, 1)])
def test_complex_pairs_that_are_not_finite_are_refused(value):
    for kind in ("c8", "c16"):
        s = vector(N, np.dtype(kind))
        bad = s.copy()
        bad[3] = value
        for Preconditioner in (LBFGSPreconditioner, RitzPreconditioner):
            M = Preconditioner(N, 4, dtype=kind)
            assert not M.update(s, bad)
            assert not M.update(bad, s)
            assert columns_are_accounted_for(M)


def test_the_guard_is_relative(dtype):
    for size in (1e-10, 1.0, 1e10):
        M = LBFGSPreconditioner(N, 4, dtype=dtype)
        assert M.update(vector(N, dtype), (size * vector(N, dtype)).astype(dtype))
        np.testing.assert_allclose(M @ vector(N, dtype) * size, vector(N, dtype), rtol=1e-5)


def test_a_shift_makes_pairs_of_an_indefinite_operator_usable_and_useless_again():
    """A pair came with curvature; it counts only while it has some with the present shift."""
    A = with_spectrum([-3.0, *np.linspace(0.5, 2, N - 1)])
    worst = np.linalg.eigh(A)[1][:, 0]
    M = LBFGSPreconditioner(N, 4, shift=5.0, harvest=True, refresh=False)
    krylov.cg(lambda v: A @ v + 5.0 * v, worst + 0.1 * vector(N), M=M, rtol=1e-8)
    assert len(M) > 0
    assert_positive_definite(M)
    for shift in (3.5, 1.0, 0.0, 5.0):
        M.shift = shift
        assert_positive_definite(M)


def test_after_a_run_updates_go_on():
    A = operator(N, float)
    for select, count in (("last", 8), ("first", 8)):
        M = LBFGSPreconditioner(N, 8, select=select, harvest=True, refresh=False)
        for _ in range(2):
            krylov.cg(A, vector(N), M=M, rtol=0, maxiter=3)
        assert len(M) == 6
        for k in range(4):
            M.update(vector(N, seed=k), A @ vector(N, seed=k))
        assert len(M) == count
        assert columns_are_accounted_for(M)
