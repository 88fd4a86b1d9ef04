from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse.linalg as sla
from cases import (
    GENERAL,
    convection,
    dense,
    epsilon,
    exact,
    indefinite,
    nonsymmetric,
    residual_norm,
    tolerance,
    vector,
)

import krylov
from krylov import Outcome, bicgstab

SKEW = np.array([[0.0, 1.0], [-1.0, 0.0]])


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
@pytest.mark.parametrize("case", GENERAL)
def test_solves(case, M, dtype):
    A = GENERAL[case](dtype)
    b, rtol = vector(A.shape[0], dtype), tolerance(dtype)
    d = np.asarray(A.diagonal())
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": lambda r: r / d}.get(M)
    res = bicgstab(A, b, M=M, rtol=rtol, maxiter=2000, max_restarts=5)
    assert (res.outcome, res.info) == (Outcome.CONVERGED, 0)
    assert residual_norm(A, b, res.x) < 1.05 * rtol * np.linalg.norm(b)
    assert abs(res.x - exact(A, b)).max() < 100 * np.linalg.cond(dense(A)) * rtol * abs(res.x).max()


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_follows_the_textbook(M, dtype):
    A, iterates, truth = nonsymmetric(dtype), [], []
    b, x0 = vector(40, dtype), vector(40, dtype, 1)
    d = np.linspace(2, 4, 40).astype(dtype)
    ours = {"jacobi": krylov.JacobiPreconditioner(d), "general": np.diag(1 / d)}.get(M)
    bicgstab(A, b, x0, M=ours, rtol=0, maxiter=6, callback=lambda x: iterates.append(x.copy()))
    wide = np.result_type(dtype, np.float64)
    theirs = None if M is None else np.diag(1 / d).astype(wide)
    sla.bicgstab(
        A.astype(wide),
        b,
        x0,
        M=theirs,
        rtol=0,
        maxiter=6,
        callback=lambda x: truth.append(x.copy()),
    )
    np.testing.assert_allclose(iterates, truth, rtol=0, atol=1e3 * epsilon(dtype))


def test_operator_and_preconditioner_may_share_their_buffer(dtype):
    A, b = nonsymmetric(dtype), vector(40, dtype)
    d, buffer = np.linspace(0.2, 0.4, 40).astype(dtype), np.empty(40, dtype)
    shared = bicgstab(
        lambda v: np.matmul(A, v, out=buffer),
        b,
        M=lambda r: np.multiply(r, d, out=buffer),
        rtol=1e-4,
    )
    alone = bicgstab(lambda v: A @ v, b, M=lambda r: r * d, rtol=1e-4)
    assert shared.niter == alone.niter
    assert np.array_equal(shared.x, alone.x)


def test_identity_that_returns_its_input(dtype):
    A, b = nonsymmetric(dtype), vector(40, dtype)
    first, second = bicgstab(A, b, M=lambda r: r, rtol=1e-4), bicgstab(A, b, rtol=1e-4)
    np.testing.assert_allclose(first.x, second.x, rtol=0, atol=1e3 * epsilon(dtype))
    np.testing.assert_allclose(bicgstab(lambda v: v, b).x, b, rtol=1e-5)
    np.testing.assert_allclose(bicgstab(lambda v: v, b, M=lambda r: 0.9 * r).x, b, rtol=1e-5)


def test_an_exact_half_step_ends_the_run(dtype):
    res = bicgstab(2 * np.eye(5, dtype=dtype), vector(5, dtype))
    assert (res.outcome, res.niter) == (Outcome.CONVERGED, 1)
    np.testing.assert_allclose(res.x, vector(5, dtype) / 2, rtol=1e-5)


# -------------------------------------------------------------------------------------------------
# Breakdowns


def test_zero_rho_is_a_breakdown():
    res = bicgstab(SKEW, [1.0, 0.0] @ np.eye(2))
    assert (res.outcome, res.info, res.restarts) == (Outcome.BREAKDOWN, -10, 0)
    assert not res.x.any()
    assert res.true_residual_norm == 1


# r = e1, v = (1, -1), s = e2, t = e1: omega = 0
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_zero_omega_is_a_breakdown(scale):
    A = np.array([[1.0, 1.0], [-1.0, 0.0]]) * scale
    res = bicgstab(A, np.array([1.0, 0.0]))
    assert res.outcome is Outcome.BREAKDOWN
    assert res.info in (-10, -11)
    assert res.true_residual_norm == pytest.approx(residual_norm(A, np.array([1.0, 0.0]), res.x))


@pytest.mark.parametrize(
    ("A", "b"),
    [
        (np.array([[1.0, 1.0], [-1.0, 0.0]]), [1.0, 0.0]),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), [1.0, 0.0]),
        (np.roll(np.eye(5), 1, 0), [1.0, 0, 0, 0, 0]),
        (np.diag([1.0, -1.0]), [1.0, 1.0]),
    ],
)
def test_restarts_survive_breakdowns(A, b, dtype):
    A, b = A.astype(dtype), np.array(b, dtype)
    broken = bicgstab(A, b)
    assert (broken.outcome, broken.restarts) == (Outcome.BREAKDOWN, 0)
    res = bicgstab(A, b, max_restarts=10)
    assert res.restarts > 0
    assert res.outcome is Outcome.CONVERGED
    assert residual_norm(A, b, res.x) < 1e-5 * np.linalg.norm(b)


def test_restarts_are_given_up():
    res = bicgstab(SKEW, np.array([1.0, 0.0]), max_restarts=3)
    assert res.restarts <= 3
    assert res.outcome in (Outcome.BREAKDOWN, Outcome.CONVERGED)
    assert residual_norm(SKEW, np.array([1.0, 0.0]), res.x) == pytest.approx(
        res.true_residual_norm, abs=1e-15
    )


def test_restarts_are_deterministic():
    A, b = np.roll(np.eye(7), 1, 0), np.eye(7)[0]
    assert np.array_equal(bicgstab(A, b, max_restarts=8).x, bicgstab(A, b, max_restarts=8).x)


@pytest.mark.parametrize("scale", [1e-17, 1e-150, 1e150])
def test_breakdown_tests_are_relative(scale):
    A, b = nonsymmetric(float), vector(40)
    res = bicgstab(A, b * scale, rtol=1e-8)
    assert res.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(res.x / scale, bicgstab(A, b, rtol=1e-8).x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-17, 1e-150, 1e150])
def test_any_scale_of_the_operator(scale):
    A, b = nonsymmetric(float), vector(40)
    res = bicgstab(A * scale, b, rtol=1e-8)
    assert res.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(res.x * scale, bicgstab(A, b, rtol=1e-8).x, rtol=1e-6, atol=1e-9)


def test_the_best_iterate_is_returned(dtype):
    A, b, norms = convection(dtype), vector(60, dtype), []
    for maxiter in (1, 2, 3, 5, 8, 13):
        norms.clear()
        res = bicgstab(
            A, b, rtol=0, maxiter=maxiter, callback=lambda x: norms.append(residual_norm(A, b, x))
        )
        best = min([*norms, np.linalg.norm(b)])
        assert res.true_residual_norm == pytest.approx(best, rel=1e3 * epsilon(dtype))
        assert residual_norm(A, b, res.x) == pytest.approx(best, rel=1e3 * epsilon(dtype))


@pytest.mark.parametrize("scale", [1e-81, 1.0, 1e81])
def test_never_worse_than_the_start(scale):
    for seed, maxiter in product(range(10), (1, 2, 3, 5, 50)):
        rng = np.random.default_rng(seed)
        for A in (np.linalg.qr(rng.standard_normal((8, 8)))[0], SKEW * rng.standard_normal()):
            b, x0 = rng.standard_normal((2, len(A))) * scale
            res = bicgstab(A, b, x0, rtol=1e-12, maxiter=maxiter, max_restarts=seed % 3)
            assert np.linalg.norm(b - A @ res.x) <= 1.001 * np.linalg.norm(b - A @ x0)


# -------------------------------------------------------------------------------------------------
# Tracking


@pytest.mark.parametrize("M", [None, "general"])
@pytest.mark.parametrize("make", [nonsymmetric, indefinite])
def test_tracked_candidates_are_descent_directions(make, M, dtype):
    A = make(dtype)
    b = vector(A.shape[0], dtype)
    M = None if M is None else np.diag(np.linspace(1, 2, b.size)).astype(dtype)
    res = bicgstab(A, b, M=M, curvature="track", candidates="all", rtol=1e-3, maxiter=100)
    assert len(res.candidates) == res.niter
    eps = 1e4 * epsilon(dtype)
    for k, d, value, curvature in res.candidates:
        size = float(np.linalg.norm(d)) ** 2 + 1
        true_curvature = np.vdot(d, A @ d).real
        assert np.vdot(b, d).real >= 0
        assert curvature == pytest.approx(true_curvature, rel=eps, abs=eps * size)
        assert value == pytest.approx(
            0.5 * true_curvature - np.vdot(b, d).real, rel=eps, abs=eps * size
        )
        assert value == res.quadratic_values[k]


def test_track_meets_negative_curvature():
    A, b = indefinite(float), vector(30)
    res = bicgstab(A, b, curvature="track", candidates="all", maxiter=60)
    assert any(c[3] < 0 for c in res.candidates)
    assert all((d @ A @ d < 0) == (c < 0) for _, d, _, c in res.candidates)


def test_tracking_changes_no_iterate(dtype):
    A, b = nonsymmetric(dtype), vector(40, dtype)
    plain, tracked = (
        bicgstab(A, b, curvature=c, max_restarts=0, rtol=1e-4) for c in ("ignore", "track")
    )
    assert np.array_equal(plain.x, tracked.x)
    assert plain.quadratic_values.size == 0
    assert tracked.quadratic_values.size == tracked.niter + 1


@pytest.mark.parametrize("bad", [3, 4])
def test_candidates_of_a_run_that_fails(bad):
    A, b, count = nonsymmetric(float), vector(40), iter(range(1, 1000))
    multiply = lambda v: A @ v if next(count) < bad else np.full(40, np.nan)  # noqa: E731
    res = bicgstab(multiply, b, curvature="track", candidates="all")
    assert res.outcome is Outcome.NON_FINITE
    assert len(res.residual_norms) == res.niter + 1
    for _, x, value, curvature in res.candidates:
        assert curvature == pytest.approx(x @ A @ x)
        assert value == pytest.approx(0.5 * x @ A @ x - b @ x)


def test_history_of_a_run_with_restarts_counts_iterations():
    A, b = np.roll(np.eye(5), 1, 0), np.eye(5)[0]
    res = bicgstab(A, b, curvature="track", candidates="all", max_restarts=10)
    assert res.restarts > 0
    assert len(res.residual_norms) == len(res.quadratic_values) == res.niter + 1
    for k, x, value, _ in res.candidates:
        norms = np.linalg.norm(b - A @ x), np.linalg.norm(b + A @ x)  # of either sign
        assert abs(np.subtract(norms, res.residual_norms[k])).min() < 1e-8
        assert value == pytest.approx(0.5 * x @ A @ x - b @ x, abs=1e-8)


def test_a_breakdown_in_mid_iteration_restarts_with_another_shadow():
    A, b = np.array([[1e-18, 1, 0], [-1, 1e-18, 0.3], [0, 0.2, 1]]), np.array([1.0, 0, 0])
    res = bicgstab(A, b, max_restarts=5, candidates="all")
    assert res.outcome is Outcome.CONVERGED
    assert len(res.residual_norms) == res.niter + 1


def test_no_ritz_values():
    with pytest.raises(ValueError, match="only runs of cg"):
        bicgstab(nonsymmetric(float), vector(40)).ritz_values()
