"""The forms of L-BFGS against the dense BFGS inverse of the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from cases import epsilon, vector
from preconditioners.common import (
    KINDS,
    as_kept,
    bfgs_inverse,
    largest_scale,
    matrix_of,
    operator,
    pairs,
    wide,
)

import krylov
from krylov import LBFGSPreconditioner

N = 25
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
forms = pytest.mark.parametrize("form", ["compact", "two_loop"])


def taught(kind, m=6, count=6, form="compact", condition=100.0, **keywords):
    """An L-BFGS preconditioner, and the pairs as it keeps them."""
    dtype, storage = kind
    A = operator(N, dtype, condition)
    M = LBFGSPreconditioner(N, m, dtype=dtype, storage=storage, apply=form, **keywords)
    kept = []
    for s, y in pairs(A, count, dtype):
        assert M.update(s, y)
        kept.append(as_kept(s, y, storage))
    return M, kept


def assert_is(M, dense, slack=1.0):
    error = np.linalg.norm(matrix_of(M) - dense, 2)
    assert error <= slack * 1e3 * epsilon(M.dtype) * np.linalg.norm(dense, 2)


@kinds
@forms
@pytest.mark.parametrize("count", [1, 2, 6])
def test_is_the_textbook_inverse(kind, form, count):
    M, kept = taught(kind, count=count, form=form)
    assert len(M) == count
    assert_is(M, bfgs_inverse(kept, largest_scale(kept)))


@kinds
@forms
@pytest.mark.parametrize("scale", ["newest", "largest", "shift", 0.37])
def test_scale_of_the_start(kind, form, scale):
    M, kept = taught(kind, form=form, scale=scale, shift=2.0)
    moved = [(s, y + 2.0 * s) for s, y in kept]
    gamma = {
        "newest": largest_scale(moved[-1:]),
        "largest": largest_scale(moved),
        "shift": 0.5,
    }.get(scale, scale)
    assert_is(M, bfgs_inverse(moved, gamma))


@forms
def test_without_pairs_it_is_a_multiple_of_the_identity(dtype, form):
    r = vector(N, dtype)
    for scale, gamma in (("largest", 1.0), ("newest", 1.0), (0.25, 0.25), ("shift", 0.125)):
        M = LBFGSPreconditioner(N, 3, dtype=dtype, apply=form, scale=scale, shift=8.0)
        np.testing.assert_allclose(M @ r, gamma * r, rtol=epsilon(dtype))


def test_scale_shift_needs_a_shift():
    M = LBFGSPreconditioner(N, 3, scale="shift")
    with pytest.raises(ValueError, match="positive shift"):
        M @ np.ones(N)
    M.shift = 0.5
    assert np.array_equal(M @ np.ones(N), np.full(N, 2.0))


@kinds
@forms
def test_shift_changed_later_is_the_shifted_operator(kind, form):
    """The pairs of A precondition A + shift I as the pairs of A + shift I would."""
    M, kept = taught(kind, form=form)
    for shift in (0.0, 0.7, 30.0, 0.01, 0.0):
        M.shift = shift
        moved = [(s, y + shift * s) for s, y in kept]
        assert_is(M, bfgs_inverse(moved, largest_scale(moved)))


@kinds
@forms
def test_fused_is_the_same_operator(kind, form):
    """The iterates of flexible CG with M, and with the dense matrix as a function."""
    M, kept = taught(kind, form=form)
    dtype = M.dtype
    H = bfgs_inverse(kept, largest_scale(kept)).astype(dtype)
    A, b = operator(N, dtype, 30.0, seed=1).astype(dtype), vector(N, dtype)
    for solver in (krylov.flexible_cg, krylov.cg):
        fused, plain = (
            solver(A, b, M=m, rtol=0, maxiter=6, candidates="all") for m in (M, lambda r: H @ r)
        )
        for one, other in zip(fused.candidates, plain.candidates, strict=True):
            scale = np.linalg.norm(other[1])
            assert np.linalg.norm(one[1] - other[1]) <= 3e3 * epsilon(dtype) * scale


@forms
def test_more_pairs_than_rows(dtype, form):
    """Dependent directions: M stays the textbook's matrix, here the inverse on everything seen last."""
    n, A = 5, operator(5, dtype, 10.0)
    M = LBFGSPreconditioner(n, 9, dtype=dtype, apply=form)
    kept = []
    for s, y in pairs(A, 9, dtype):
        assert M.update(s, y)
        kept.append(as_kept(s, y, M.storage))
    assert_is(M, bfgs_inverse(kept, largest_scale(kept)), slack=100.0)


@forms
def test_secant_equation_of_the_newest_pair(dtype, form):
    A = operator(N, dtype)
    M = LBFGSPreconditioner(N, 4, dtype=dtype, apply=form, select="last")
    for s, y in pairs(A, 7, dtype):
        M.update(s, y)
        np.testing.assert_allclose(M @ y, s, atol=300 * epsilon(dtype) * np.linalg.norm(s))


@forms
def test_one_pair(dtype, form):
    M = LBFGSPreconditioner(3, 1, dtype=dtype, apply=form)
    s, y = np.array([1, 0, 0], dtype), np.array([4, 0, 0], dtype)
    assert M.update(s, y)
    np.testing.assert_allclose(M @ np.ones(3, dtype), [0.25] * 3, rtol=4 * epsilon(dtype))


def test_conjugate_pairs_of_a_whole_run_give_the_inverse(dtype):
    """n conjugate directions: BFGS ends with the inverse of A (Nocedal and Wright 2006, theorem 6.4)."""
    n = 8
    A = operator(n, dtype, 10.0)
    values, vectors = np.linalg.eigh(A)
    M = LBFGSPreconditioner(n, n, dtype=dtype)
    for value, s in zip(values, vectors.T, strict=True):
        assert M.update(s.astype(dtype), (value * s).astype(dtype))
    assert_is(M, np.linalg.inv(wide(A)), slack=10.0)


def test_scale_of_a_pair_cancels(dtype):
    A = operator(N, dtype)
    tiny, huge = (
        (1e-25, 1e25) if dtype.itemsize // (1 + (dtype.kind == "c")) == 4 else (1e-200, 1e200)
    )
    results = []
    for factor in (1.0, tiny, huge, 1e-3):
        M = LBFGSPreconditioner(N, 4, dtype=dtype)
        for s, y in pairs(A, 4, dtype):
            assert M.update((s * factor).astype(dtype), (y * factor).astype(dtype)), factor
        results.append(matrix_of(M))
    for other in results[1:]:
        np.testing.assert_allclose(
            other, results[0], atol=100 * epsilon(dtype) * abs(results[0]).max()
        )


@pytest.mark.parametrize("size", [1e-250, 1e-100, 1e100, 1e250])
@forms
def test_scale_of_the_operator(size, form):
    """M scales as the inverse of A, in every storage that can hold A's numbers."""
    A, r = operator(N, np.float64), vector(N)
    first, second = (LBFGSPreconditioner(N, 4, apply=form) for _ in range(2))
    for s, y in pairs(A, 4, np.float64):
        assert first.update(s, y)
        assert second.update(s, y * size) or size in (1e-250, 1e250)
    if len(second) == 4:
        np.testing.assert_allclose((second @ r) * size, first @ r, rtol=1e-10)
    else:  # y.y leaves the range of float64
        assert len(second) == 0


def test_numbers_beyond_the_storage_are_refused():
    """float32 holds no 1e50: such a pair is not kept, rather than kept as infinity."""
    for storage in ("float32", "bfloat16"):
        M = LBFGSPreconditioner(N, 4, storage=storage)
        for factor in (1e50, 1e-60):
            assert not M.update(vector(N), vector(N) * factor)
        assert len(M) == 0
        assert np.array_equal(M @ vector(N), vector(N))


def test_clear(dtype):
    M = LBFGSPreconditioner(N, 3, dtype=dtype)
    A = operator(N, dtype)
    first = [M.update(s, y) for s, y in pairs(A, 5, dtype)]
    before = matrix_of(M)
    M.clear()
    assert len(M) == 0
    assert np.array_equal(M @ vector(N, dtype), vector(N, dtype))
    assert [M.update(s, y) for s, y in pairs(A, 5, dtype)] == first
    assert np.array_equal(matrix_of(M), before)


def test_the_largest_scale_is_that_of_all_directions_of_the_last_runs():
    """Eight pairs of a run know little of the bulk at 1; all its directions together do."""
    d = np.r_[np.geomspace(10, 1000, 12), np.ones(88)]
    seen = []

    def product(v):
        Av = d * v
        seen.append((v @ Av) / (Av @ Av))
        return Av

    M = krylov.LBFGSPreconditioner(100, 4, harvest=True, refresh=False)
    krylov.flexible_cg(product, vector(100), M=M, rtol=1e-6)
    assert M.native is not None
    # Orthogonal to all pairs: M is gamma there.
    pairs = np.array([M._columns.read(c) for c in (*M._pairs.s, *M._pairs.y)]).T
    q = np.linalg.qr(pairs)[0]
    r = vector(100, seed=3)
    r -= q @ (q.T @ r)
    gamma = (r @ (M @ r)) / (r @ r)
    # The last product verifies x; it is no direction.
    np.testing.assert_allclose(gamma, max(seen[:-1]), rtol=1e-10)
    M.shift = 2.0
    assert (r @ (M @ r)) / (r @ r) < gamma
    M.clear()
    np.testing.assert_allclose(M @ r, r)
