from __future__ import annotations

import numpy as np
import pytest
from cases import DEFINITE, epsilon, indefinite, residual_norm, spd, vector

import krylov
from krylov import Outcome, neumann


def series(A, b, eta, M=None):
    """Partial sums of the Neumann series, in NumPy."""
    x = np.zeros_like(b)
    while True:
        r = b - A @ x
        x = x + eta * (r if M is None else M @ r)
        yield x


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_is_the_series(M, dtype):
    wide = np.result_type(dtype, np.float64)
    A, b, d = spd(dtype), vector(40, dtype), np.linspace(1, 2, 40).astype(dtype)
    ours = {"jacobi": krylov.JacobiPreconditioner(d), "general": np.diag(1 / d)}.get(M)
    res = neumann(A, b, scale=0.9, M=ours, rtol=0, maxiter=15, candidates="all")
    truth = series(A.astype(wide), b.astype(wide), 0.9, None if M is None else np.diag(1 / d))
    for _, x, value, curvature in res.candidates:
        expected = next(truth)
        np.testing.assert_allclose(x, expected, rtol=0, atol=200 * epsilon(dtype))
        eps = 1e4 * epsilon(dtype)
        assert curvature == pytest.approx(np.vdot(x, A @ x).real, rel=eps)
        assert value == pytest.approx((0.5 * np.vdot(x, A @ x) - np.vdot(b, x)).real, rel=eps)


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("case", ["spd", "poisson", "diagonal", "one"])
def test_automatic_scale_converges(case, M, dtype):
    A = DEFINITE[case](dtype)
    b = vector(A.shape[0], dtype)
    M = M and krylov.JacobiPreconditioner(np.asarray(A.diagonal()))
    res = neumann(A, b, M=M, rtol=1e-3, maxiter=5000)
    assert (res.outcome, res.info) == (Outcome.CONVERGED, 0)
    assert residual_norm(A, b, res.x) < 1.05e-3 * np.linalg.norm(b)
    assert (np.diff(res.residual_norms) <= 1e-3 * res.residual_norms[0]).all()


def test_products_of_the_automatic_scale_are_counted():
    A, b, count = spd(float), vector(40), [0]

    def multiply(v):
        count[0] += 1
        return A @ v

    res = neumann(multiply, b, rtol=1e-2, maxiter=3000)
    assert res.nmatvec == count[0]


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_divergence_returns_the_best_iterate(M, dtype):
    A, b, d = spd(dtype), vector(40, dtype), np.linspace(1, 1.1, 40).astype(dtype)
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": lambda r: r / d}.get(M)
    norms = [np.linalg.norm(b)]
    res = neumann(
        A, b, M=M, scale=2.5, rtol=1e-6, callback=lambda x: norms.append(residual_norm(A, b, x))
    )
    assert res.outcome is Outcome.DIVERGENCE
    assert res.info > 0
    assert max(norms) > 500 * min(norms)
    assert residual_norm(A, b, res.x) == pytest.approx(min(norms), rel=1e-4)
    assert res.true_residual_norm == pytest.approx(min(norms), rel=1e-4)


def test_divergence_of_an_operator_that_returns_its_input():
    b = vector(20)
    for M in (None, lambda r: r):
        res = neumann(lambda v: v, b, x0=0.5 * b, M=M, scale=2.5)
        assert res.outcome is Outcome.DIVERGENCE
        np.testing.assert_allclose(res.x, 0.5 * b, rtol=1e-12)


def test_negative_eigenvalue_is_named():
    res = neumann(indefinite(float), vector(30), scale=0.1, maxiter=10_000)
    assert res.outcome is Outcome.DIVERGENCE
    assert res.direction_curvature < 0


def test_iteration_limit(dtype):
    res = neumann(spd(dtype), vector(40, dtype), rtol=1e-6, maxiter=5)
    assert (res.outcome, res.info, res.niter) == (Outcome.ITERATION_LIMIT, 5, 5)
    assert (np.diff(res.quadratic_values) < 0).all()


@pytest.mark.parametrize("scale", [0, np.nan, np.inf])
def test_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be"):
        neumann(np.eye(3), np.ones(3), scale=scale)
