"""What a preconditioner hears of a run, and what it makes of it: for the next run, or at once."""

from __future__ import annotations

import numpy as np
import pytest
from cases import epsilon, indefinite, vector
from preconditioners.common import (
    KINDS,
    assert_positive_definite,
    columns_are_accounted_for,
    matrix_of,
    operator,
)

import krylov
from krylov import LBFGSPreconditioner, Outcome, RitzPreconditioner

N = 40
CONJUGATE = [krylov.cg, krylov.flexible_cg]
LEARNERS = {
    "lbfgs": lambda **keywords: LBFGSPreconditioner(N, 6, harvest=True, **keywords),
    "refresh": lambda **keywords: LBFGSPreconditioner(
        N, 6, harvest=True, **{"refresh": True} | keywords
    ),
    "no refresh": lambda **keywords: LBFGSPreconditioner(
        N, 6, harvest=True, refresh=False, **keywords
    ),
    "two_loop": lambda **keywords: LBFGSPreconditioner(
        N, 6, harvest=True, apply="two_loop", **keywords
    ),
    "ritz": lambda **keywords: RitzPreconditioner(N, 6, window=3, harvest=True, **keywords),
}
learners = pytest.mark.parametrize("kind", LEARNERS)


def spd(dtype=np.float64, condition=1e3, seed=0):
    return operator(N, dtype, condition, seed).astype(dtype)


class Listener:
    """Anything with these attributes learns."""

    harvest = True

    def __init__(self, n=N, multiply=lambda r: r.copy()):
        self.shape, self.matvec = (n, n), multiply
        self.heard, self.pairs = [], []

    def begin_run(self, fixed):
        self.heard.append(("begin", fixed))

    def learn(self, p, Ap):
        self.pairs.append((p.copy(), Ap.copy()))

    def end_run(self, complete):
        self.heard.append(("end", complete))


# -------------------------------------------------------------------------------------------------
# The protocol


@pytest.mark.parametrize("solver", CONJUGATE)
def test_any_object_learns(solver, dtype):
    A, b, M = spd(dtype), vector(N, dtype), Listener()
    res = solver(A, b, M=M, rtol=0, maxiter=7)
    assert M.heard == [("begin", solver is krylov.cg), ("end", True)]
    assert len(M.pairs) == res.niter == 7
    for p, Ap in M.pairs:
        assert p.dtype == Ap.dtype == dtype
        np.testing.assert_allclose(Ap, A @ p, atol=1e4 * epsilon(dtype) * np.linalg.norm(p))
    # Consecutive directions are conjugate.
    for (p, _), (_, Aq) in zip(M.pairs, M.pairs[1:], strict=False):
        assert abs(np.vdot(p, Aq)) <= 1e4 * epsilon(dtype) * np.linalg.norm(p) * np.linalg.norm(Aq)


@pytest.mark.parametrize("solver", [krylov.bicgstab, krylov.neumann])
def test_other_solvers_teach_nothing(solver):
    M = Listener()
    solver(spd(condition=5.0), vector(N), M=M, rtol=1e-2, maxiter=100)
    assert M.heard == M.pairs == []
    M = LEARNERS["ritz"]()
    solver(spd(condition=5.0), vector(N), M=M, rtol=1e-2, maxiter=100)
    assert len(M) == 0


@pytest.mark.parametrize("attribute", ["harvest", "begin_run", "learn", "end_run"])
def test_without_one_of_them_nothing_is_heard(attribute):
    class Deaf(Listener):
        if attribute == "harvest":
            harvest = False

    if attribute != "harvest":
        # An object that has all the others, but not this one.
        parts = {k: v for k, v in vars(Listener).items() if k != attribute}
        Deaf = type("Deaf", (), parts)
    M = Deaf()
    assert krylov.cg(spd(), vector(N), M=M, rtol=1e-3).outcome.ok
    assert M.heard == M.pairs == []


def test_harvest_may_be_switched():
    M = LEARNERS["ritz"]()
    M.harvest = False
    krylov.cg(spd(), vector(N), M=M)
    assert len(M) == 0
    M.harvest = True
    krylov.cg(spd(), vector(N), M=M)
    assert len(M) > 0


@learners
@pytest.mark.parametrize("solver", CONJUGATE)
@pytest.mark.parametrize("maxiter", [0, 1, 2])
def test_runs_of_hardly_any_iterations(kind, solver, maxiter):
    M = LEARNERS[kind]()
    for b in (vector(N), np.zeros(N), vector(N)):
        solver(spd(), b, M=M, maxiter=maxiter)
        assert columns_are_accounted_for(M)
        assert_positive_definite(M)
    assert len(M) <= 2 * maxiter


@pytest.mark.parametrize("kept", ["LBFGS", "Ritz"])
@pytest.mark.parametrize("solver", CONJUGATE)
def test_every_dtype_and_storage_learns(kept, solver):
    for dtype, storage in KINDS:
        A, b = spd(dtype, 200.0), vector(N, dtype)
        M = getattr(krylov, f"{kept}Preconditioner")(
            N, 8, dtype=dtype, storage=storage, harvest=True
        )
        rtol = 1e-3
        first, second = (solver(A, b, M=M, rtol=rtol, maxiter=300) for _ in range(2))
        assert first.outcome.ok
        assert second.outcome.ok
        assert second.niter <= first.niter
        assert_positive_definite(M)
        assert columns_are_accounted_for(M)


# -------------------------------------------------------------------------------------------------
# For the next run, or at once


@pytest.mark.parametrize("kind", ["no refresh", "ritz"])
@pytest.mark.parametrize("solver", CONJUGATE)
def test_the_present_run_is_left_alone(kind, solver, dtype):
    """While it harvests, M stays what it was, by whatever way one looks at it."""
    A, b = spd(dtype), vector(N, dtype)
    M = LEARNERS[kind](dtype=dtype)
    solver(A, b, M=M, rtol=1e-2)
    before = matrix_of(M)
    M.harvest = False
    plain = solver(A, vector(N, dtype, 1), M=M, rtol=0, maxiter=9)
    M.harvest, seen = True, []
    learning = solver(
        A,
        vector(N, dtype, 1),
        M=M,
        rtol=0,
        maxiter=9,
        callback=lambda x: seen.append(M @ vector(N, dtype, 2)),
    )
    assert np.array_equal(plain.x, learning.x)
    assert all(np.array_equal(z, seen[0]) for z in seen)
    np.testing.assert_allclose(seen[0], before @ vector(N, dtype, 2), atol=1e4 * epsilon(dtype))
    assert not np.allclose(matrix_of(M), before, atol=1e-3)


def test_refresh_uses_pairs_at_once_in_flexible_cg_and_waits_in_cg():
    A, b = spd(), vector(N)
    for solver, changes in ((krylov.flexible_cg, True), (krylov.cg, False)):
        M, seen = LEARNERS["refresh"](), []
        solver(A, b, M=M, rtol=0, maxiter=5, callback=lambda x, M=M, s=seen: s.append(M @ b))
        assert (not np.array_equal(seen[0], seen[-1])) is changes
        assert len(M) == 5
        assert not np.array_equal(M @ b, b)


@pytest.mark.parametrize("apply", ["compact", "two_loop"])
def test_refresh_is_flexible_cg_with_a_changing_m(apply):
    """Fused or not, with M learning on the way: the iterates of the textbook's flexible CG."""
    A, b = spd(condition=100.0), vector(N)
    M = LBFGSPreconditioner(N, 20, harvest=True, apply=apply)
    res = krylov.flexible_cg(A, b, M=M, rtol=0, maxiter=8, candidates="all")
    shadow = LBFGSPreconditioner(N, 20)
    x, r = np.zeros(N), b.copy()
    z = p = shadow @ r
    for _, candidate, _, _ in res.candidates:
        v, rz = A @ p, r @ z
        alpha = rz / (p @ v)
        shadow.update(p, v)  # before M is applied to the new residual
        x, old, r = x + alpha * p, r, r - alpha * v
        z = shadow @ r
        p = z + z @ (r - old) / rz * p
        np.testing.assert_allclose(candidate, x, atol=1e-7 * np.linalg.norm(x))


def test_refresh_helps_within_a_run_that_met_the_outliers_before():
    """A second, slightly changed system: refreshing needs no more iterations than waiting."""
    A, B = spd(condition=1e4), spd(condition=1e4) + 0.01 * np.diag(np.linspace(0, 1, N))
    counts = {}
    for refresh in (True, False):
        M = LBFGSPreconditioner(N, 16, harvest=True, refresh=refresh)
        krylov.flexible_cg(A, vector(N), M=M, rtol=1e-6)
        counts[refresh] = krylov.flexible_cg(B, vector(N, seed=3), M=M, rtol=1e-6).niter
    assert counts[True] <= counts[False] + 2


def test_carry_half_and_half():
    A = spd()
    for carry in (True, False):
        M = LBFGSPreconditioner(N, 6, harvest=True, carry=carry, refresh=False)
        krylov.cg(A, vector(N), M=M, rtol=0, maxiter=6)
        old = [M._columns.read(c) for c in M._pairs.s]
        krylov.cg(A, vector(N, seed=1), M=M, rtol=0, maxiter=4)
        now = np.stack([M._columns.read(c) for c in M._pairs.s])
        survivors = int((abs(now @ np.stack(old).T) > 1 - 1e-12).any(axis=1).sum())
        assert (len(M), survivors) == ((6, 3) if carry else (4, 0))


def test_the_old_pairs_that_stay_have_the_largest_curvature():
    A = spd()
    M = LBFGSPreconditioner(N, 6, harvest=True, refresh=False)
    krylov.cg(A, vector(N), M=M, rtol=0, maxiter=6)
    old = np.stack([M._columns.read(c) for c in M._pairs.s])
    krylov.cg(A, vector(N, seed=1), M=M, rtol=0, maxiter=20)
    now = np.stack([M._columns.read(c) for c in M._pairs.s])
    stayed = (abs(old @ now.T) > 1 - 1e-12).any(axis=1)
    quotient = np.einsum("ij,jk,ik->i", old, A, old)
    assert 0 < stayed.sum() < 6
    assert quotient[stayed].min() >= quotient[~stayed].max()


# -------------------------------------------------------------------------------------------------
# Products


@pytest.mark.parametrize("kind", ["no refresh", "refresh", "ritz"])
def test_products_that_contain_the_shift_are_unshifted(kind):
    """A run on A + shift I teaches A: another shift afterwards is exact."""
    A, shift = spd(condition=50.0), 7.0
    M = LEARNERS[kind](shift=shift)
    solve = krylov.cg if kind == "no refresh" else krylov.flexible_cg
    solve(lambda v: A @ v + shift * v, vector(N), M=M, rtol=0, maxiter=5)
    if kind == "ritz":
        V = np.stack([M._columns.read(c) for c in M._kept], axis=1) @ M._root
        np.testing.assert_allclose(V.T @ A @ V, np.diag(M.ritz_values), atol=1e-9)
        return
    unshifted = LBFGSPreconditioner(N, 6)
    for s in M._pairs.s:
        s = M._columns.read(s)
        unshifted.update(s, A @ s)
    for other in (0.0, 3.0, shift):
        M.shift = unshifted.shift = other
        np.testing.assert_allclose(matrix_of(M), matrix_of(unshifted), atol=1e-10)


@learners
@pytest.mark.parametrize("solver", CONJUGATE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_products_that_are_not_finite_teach_nothing(kind, solver, value):
    A, M, count = spd(), LEARNERS[kind](), [0]
    solver(A, vector(N), M=M, rtol=1e-2)

    def multiply(v):
        count[0] += 1
        return A @ v * (value if count[0] == 4 else 1)

    res = solver(multiply, vector(N, seed=1), M=M)
    assert res.outcome is Outcome.NON_FINITE
    assert np.isfinite(matrix_of(M)).all()
    assert_positive_definite(M)
    assert columns_are_accounted_for(M)
    assert solver(A, vector(N), M=M).outcome.ok


@learners
@pytest.mark.parametrize("solver", CONJUGATE)
@pytest.mark.parametrize("curvature", ["ignore", "stop", "boundary"])
def test_directions_of_negative_curvature_teach_nothing(kind, solver, curvature):
    A, M = indefinite(float, N), LEARNERS[kind]()
    for seed in range(3):
        solver(A, vector(N, seed=seed), M=M, curvature=curvature, radius=10.0, maxiter=60)
        assert_positive_definite(M)
        assert columns_are_accounted_for(M)


@pytest.mark.parametrize("kind", ["LBFGS", "Ritz"])
@pytest.mark.parametrize("solver", CONJUGATE)
@pytest.mark.parametrize(
    ("of_m", "of_b"), [("f4", "f8"), ("f8", "f4"), ("c8", "c16"), ("c16", "c8")]
)
def test_an_m_of_another_precision_learns_too(kind, solver, of_m, of_b):
    A, b = spd(np.dtype(of_b), 100.0), vector(N, np.dtype(of_b))
    M = getattr(krylov, f"{kind}Preconditioner")(N, 8, dtype=of_m, harvest=True)
    first, second = (solver(A, b, M=M, rtol=1e-3, maxiter=300) for _ in range(2))
    assert first.outcome.ok
    assert second.outcome.ok
    assert len(M) > 0
    assert second.niter < first.niter
