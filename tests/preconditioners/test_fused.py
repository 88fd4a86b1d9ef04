"""A low-rank M inside the solvers: the iterates of the same M as a plain function, in every situation of a run."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from cases import epsilon, indefinite, nonsymmetric, residual_norm, vector, with_spectrum
from preconditioners.common import operator, pairs

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, Outcome, RitzPreconditioner

N = 40
CONJUGATE = [krylov.cg, krylov.flexible_cg]
SOLVERS = [*CONJUGATE, krylov.bicgstab, krylov.neumann]


def lbfgs(A, m=5, **keywords):
    M = LBFGSPreconditioner(len(A), m, dtype=A.dtype, **keywords)
    for s, y in pairs(A, m, A.dtype):
        M.update(s, y)
    return M


def ritz(A):
    M = RitzPreconditioner(len(A), 5, dtype=A.dtype)
    for s, y in pairs(A, 14, A.dtype):
        M.update(s, y)
    return M


KINDS = {
    "lbfgs": lbfgs,
    "two_loop": lambda A: lbfgs(A, apply="two_loop"),
    "ritz": ritz,
    "nystrom": lambda A: NystromPreconditioner(A, 5),
    "nothing yet": lambda A: RitzPreconditioner(len(A), 5, dtype=A.dtype),
}
all_kinds = pytest.mark.parametrize("kind", KINDS)


def spd(dtype, condition=50.0):
    return operator(N, dtype, condition).astype(dtype)


def keywords_of(solver, A, M):
    if solver is not krylov.neumann:
        return {}
    ma = M.matmat(A.astype(M.dtype)) if hasattr(M, "matmat") else A
    return {"scale": 1 / abs(np.linalg.eigvals(ma)).max()}


def assert_same_run(one, other, dtype, slack=1e3):
    assert one.niter == other.niter
    assert one.outcome is other.outcome
    for first, second in zip(one.candidates, other.candidates, strict=True):
        assert first[0] == second[0]
        size = max(np.linalg.norm(second[1]), 1e-3)
        assert np.linalg.norm(first[1] - second[1]) <= slack * epsilon(dtype) * size


@all_kinds
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("form", ["dense", "sparse", "callable"])
def test_iterates_are_those_of_m_as_a_function(solver, kind, form, dtype):
    A, b = spd(dtype), vector(N, dtype)
    M = KINDS[kind](A)
    given = {"dense": A, "sparse": sp.csr_array(A), "callable": lambda v: A @ v}[form]
    one, other = (
        solver(given, b, M=m, rtol=0, maxiter=8, candidates="all", **keywords_of(solver, A, M))
        for m in (M, M.matvec)
    )
    slack = 1e5 if solver is krylov.bicgstab else 1e4
    assert_same_run(one, other, dtype, slack)
    assert len(one.residual_norms) == 9


@all_kinds
@pytest.mark.parametrize("solver", SOLVERS)
def test_converges(solver, kind, dtype):
    A, b = spd(dtype), vector(N, dtype)
    rtol = 1e-4 if np.finfo(dtype).bits == 32 else 1e-9
    M = KINDS[kind](A)
    res = solver(A, b, M=M, rtol=rtol, maxiter=4000, **keywords_of(solver, A, M))
    assert res.outcome is Outcome.CONVERGED
    assert residual_norm(A, b, res.x) <= 1.05 * rtol * np.linalg.norm(b)


@pytest.mark.parametrize("solver", [krylov.bicgstab, krylov.neumann])
@pytest.mark.parametrize("kind", ["lbfgs", "ritz", "nystrom"])
def test_others_apply_it_without_python(solver, kind, monkeypatch):
    A = spd(float)
    M = KINDS[kind](A)

    def refuse(*args):
        raise AssertionError("applied in Python")

    keywords = keywords_of(solver, A, M)
    _ = M.native
    for name in ("matvec", "_matvec", "_apply"):
        monkeypatch.setattr(M, name, refuse)
    assert solver(A, vector(N), M=M, rtol=1e-3, maxiter=500, **keywords).outcome.ok


def test_bicgstab_on_a_nonsymmetric_system(dtype):
    A, b = nonsymmetric(dtype), vector(N, dtype)
    M = KINDS["lbfgs"](spd(dtype))
    assert krylov.bicgstab(A, b, M=M, rtol=1e-3).outcome.ok


def test_neumann_with_an_estimated_scale(dtype):
    A, b = spd(dtype, 5.0), vector(N, dtype)
    res = krylov.neumann(A, b, M=KINDS["lbfgs"](A), rtol=1e-3, maxiter=300)
    assert res.outcome is Outcome.CONVERGED


@all_kinds
def test_scipy_takes_it(kind):
    A, b = spd(float), vector(N)
    M = KINDS[kind](A)
    for solver in (spla.cg, spla.minres, spla.gmres):
        x, info = solver(A, b, M=M, rtol=1e-8)
        assert info == 0
        assert residual_norm(A, b, x) < 1e-5 * np.linalg.norm(b)
    dense = np.stack([M @ e for e in np.eye(N)], axis=1)
    np.testing.assert_allclose(M @ np.eye(N), dense, atol=1e-14)
    np.testing.assert_allclose(M.H @ b, M @ b)
    np.testing.assert_allclose(M.T @ b, M @ b)
    np.testing.assert_allclose(M.matmat(np.eye(N)[:, :3]), dense[:, :3], atol=1e-14)
    np.testing.assert_allclose((M + M) @ b, 2 * (M @ b))
    np.testing.assert_allclose((2 * M) @ b, 2 * (M @ b))
    np.testing.assert_allclose((M @ M) @ b, M @ (M @ b))
    np.testing.assert_allclose(M @ b[:, None], (M @ b)[:, None])
    np.testing.assert_allclose(M.rmatvec(b), M @ b)
    with pytest.raises(ValueError, match="Scalar"):
        M @ 2.0


# -------------------------------------------------------------------------------------------------
# Situations of a run


@all_kinds
@pytest.mark.parametrize("solver", CONJUGATE)
def test_verification_goes_on_from_the_true_residual(solver, kind):
    """Products that are wrong for a while: caught at apparent convergence, and recovered from."""
    A, b = spd(float), vector(N)
    M, results = KINDS[kind](A), []
    for m in (M, M.matvec):
        count = [0]

        def multiply(v, count=count):
            count[0] += 1
            return A @ v * (1.01 if 3 <= count[0] <= 6 else 1)

        res = solver(multiply, b, M=m, rtol=1e-8, maxiter=3000)
        assert res.outcome is Outcome.CONVERGED
        assert res.restarts >= 1
        assert residual_norm(A, b, res.x) < 1e-8 * np.linalg.norm(b)
        results.append(res)
    assert abs(results[0].niter - results[1].niter) <= 2


@pytest.mark.parametrize("solver", CONJUGATE)
def test_a_small_drift_keeps_the_direction(solver):
    A, b = spd(np.float32, 300.0), vector(N, np.float32)
    M = KINDS["lbfgs"](A)
    res = solver(A, b, M=M, rtol=2e-6, maxiter=3000)
    assert res.outcome in (Outcome.CONVERGED, Outcome.STAGNATION)
    assert residual_norm(A, b, res.x) < 1e-5 * np.linalg.norm(b)
    res = solver(A, b, M=M, rtol=1e-12, maxiter=3000)
    assert res.outcome is Outcome.STAGNATION


@all_kinds
@pytest.mark.parametrize("solver", SOLVERS)
def test_start_at_mb(solver, kind, dtype):
    A, b = spd(dtype), vector(N, dtype)
    M = KINDS[kind](A)
    keywords = keywords_of(solver, A, M)
    one, other = (
        solver(A, b, x0, M=M, rtol=0, maxiter=5, candidates="all", **keywords)
        for x0 in ("Mb", M @ b)
    )
    assert_same_run(one, other, dtype, 1.0)
    assert np.array_equal(one.x, other.x)


@all_kinds
@pytest.mark.parametrize("solver", CONJUGATE)
def test_start_from_somewhere(solver, kind, dtype):
    A, b, x0 = spd(dtype), vector(N, dtype), vector(N, dtype, 9)
    M = KINDS[kind](A)
    one, other = (solver(A, b, x0, M=m, rtol=0, maxiter=5, candidates="all") for m in (M, M.matvec))
    assert_same_run(one, other, dtype, 1e4)


@all_kinds
@pytest.mark.parametrize("solver", CONJUGATE)
def test_trust_radius(solver, kind, dtype):
    A, b = spd(dtype), vector(N, dtype)
    M = KINDS[kind](A)
    radius = 0.7 * np.linalg.norm(np.linalg.solve(A, b))
    one, other = (solver(A, b, M=m, radius=radius, candidates="all") for m in (M, M.matvec))
    assert one.outcome is Outcome.TRUST_RADIUS
    assert np.linalg.norm(one.x) == pytest.approx(radius, rel=20 * epsilon(dtype))
    assert_same_run(one, other, dtype, 1e4)


@all_kinds
@pytest.mark.parametrize("solver", CONJUGATE)
def test_negative_curvature(solver, kind, dtype):
    A, b = indefinite(dtype, N), vector(N, dtype)
    M = KINDS[kind](spd(dtype))
    one, other = (solver(A, b, M=m, curvature="stop") for m in (M, M.matvec))
    assert one.outcome is other.outcome is Outcome.NEGATIVE_CURVATURE
    assert one.niter == other.niter
    p = one.direction
    assert np.vdot(p, A @ p).real < 0
    np.testing.assert_allclose(p, other.direction, atol=1e5 * epsilon(dtype))
    res = solver(A, b, M=M, curvature="boundary", radius=2.0)
    assert res.outcome is Outcome.TRUST_RADIUS
    assert np.linalg.norm(res.x) == pytest.approx(2, rel=20 * epsilon(dtype))
    res = solver(A, b, M=M, rtol=1e-3, maxiter=400)
    assert res.outcome in (Outcome.CONVERGED_INDEFINITE, Outcome.NEGATIVE_CURVATURE)


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("solver", CONJUGATE)
def test_scale_of_the_right_hand_side(solver, size):
    A, b = spd(float), vector(N)
    M = KINDS["lbfgs"](A)
    res, plain = (solver(A, b * factor, M=M, rtol=1e-6) for factor in (size, 1.0))
    assert res.outcome is Outcome.CONVERGED
    assert res.niter == plain.niter
    np.testing.assert_allclose(res.x / size, plain.x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [1, 2, 4, 7])
def test_a_product_that_is_not_finite(solver, bad):
    A, count = spd(float), [0]
    M = KINDS["ritz"](A)

    def multiply(v):
        count[0] += 1
        return A @ v * (np.nan if count[0] == bad else 1)

    res = solver(multiply, vector(N), M=M, **keywords_of(solver, A, M))
    assert res.outcome is Outcome.NON_FINITE
    assert np.isfinite(res.x).all()


def test_ritz_values_of_a_preconditioned_run():
    A, b = spd(float), vector(N)
    M = KINDS["nystrom"](A)
    dense = np.stack([M @ e for e in np.eye(N)], axis=1)
    res = krylov.cg(A, b, M=M, rtol=1e-12)
    root = np.linalg.cholesky(dense)
    true = np.linalg.eigvalsh(root.T @ A @ root)
    np.testing.assert_allclose(res.ritz_values()[[0, -1]], true[[0, -1]], rtol=1e-5)


def test_one_unknown(dtype):
    A, b = np.full((1, 1), 3, dtype), np.full(1, 2, dtype)
    M = LBFGSPreconditioner(1, 3, dtype=dtype)
    assert M.update([1.0], [3.0])
    for solver in CONJUGATE:
        np.testing.assert_allclose(solver(A, b, M=M).x, 2 / 3, rtol=10 * epsilon(dtype))


def test_an_m_of_another_size_is_refused():
    for M in (LBFGSPreconditioner(N - 1, 3), RitzPreconditioner(N + 1, 3)):
        with pytest.raises(ValueError, match=r"shapes of M .* incompatible"):
            krylov.cg(spd(float), vector(N), M=M)


def test_a_workspace_is_reused_with_and_without_m(dtype):
    A, b = spd(dtype), vector(N, dtype)
    M, workspace = KINDS["lbfgs"](A), krylov.Workspace("flexible_cg", N, dtype)
    for memory in workspace.vectors.values():
        memory[:] = np.nan
    for m in (M, None, M):
        fresh, reused = (krylov.flexible_cg(A, b, M=m, workspace=w) for w in (None, workspace))
        assert np.array_equal(fresh.x, reused.x)


# -------------------------------------------------------------------------------------------------
# M of another dtype goes the general way


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["lbfgs", "two_loop", "ritz", "nystrom"])
def test_m_of_another_precision(solver, kind):
    for of_m, of_b in (("f4", "f8"), ("f8", "f4"), ("c8", "c16"), ("c16", "c8")):
        A, b = spd(np.dtype(of_b), 10.0), vector(N, np.dtype(of_b))
        M = KINDS[kind](spd(np.dtype(of_m), 10.0))
        res = solver(A, b, M=M, rtol=1e-4, maxiter=500, **keywords_of(solver, A, M))
        assert res.outcome is Outcome.CONVERGED
        assert res.x.dtype == of_b


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_complex_m_in_a_real_solve_is_refused(solver):
    with pytest.raises(TypeError, match=r"M .*complex128"):
        solver(spd(float), vector(N), M=KINDS["lbfgs"](spd(complex)))


def test_condition_improves():
    """Sanity of it all: a few large eigenvalues, known to M, cost nothing any more."""
    A = with_spectrum(np.r_[np.geomspace(100, 1e4, 5), np.linspace(1, 2, N - 5)])
    plain = krylov.cg(A, vector(N), rtol=1e-8).niter
    M = NystromPreconditioner(A, 8)
    assert krylov.cg(A, vector(N), M=M, rtol=1e-8).niter <= 0.8 * plain


def test_columns_that_a_callback_takes_away_are_not_used_again():
    """The residual is projected again, as after learning: then beta is that of the M that there is."""
    d = np.r_[np.geomspace(10, 1000, 8), np.linspace(1, 2, 92)]
    M = RitzPreconditioner(100, 8, harvest=True)
    krylov.flexible_cg(lambda v: d * v, vector(100), M=M, rtol=1e-8)
    M.harvest = False
    seen = []

    def forget(x):
        seen.append(x.copy())
        if len(seen) == 3:
            M.clear()
            assert M.native.count == 0

    def reference(r):
        return forgotten(r) if len(seen) < 3 else r

    b = vector(100, seed=2)
    forgotten = (M @ np.eye(100)).__matmul__
    result = krylov.flexible_cg(lambda v: d * v, b, M=M, rtol=1e-8, callback=forget)
    fused, seen = seen, []
    plain = krylov.flexible_cg(
        lambda v: d * v, b, M=reference, rtol=1e-8, callback=lambda x: seen.append(x.copy())
    )
    assert result.outcome.ok
    assert abs(result.niter - plain.niter) <= 3
    assert len(fused) == result.niter
