"""Convergence is verified on the true residual: a solver never says "converged" of an x that is not."""

from __future__ import annotations

import numpy as np
import pytest
from cases import epsilon, nonsymmetric, residual_norm, spd, vector, with_spectrum

import krylov
from krylov import Outcome

CONJUGATE = [krylov.cg, krylov.flexible_cg]
SOLVERS = [*CONJUGATE, krylov.bicgstab, krylov.neumann]


def assert_honest(A, b, res, rtol):
    truth = residual_norm(A, b, res.x)
    rounding = (
        10 * epsilon(res.x.dtype) * (np.linalg.norm(A) * np.linalg.norm(res.x) + np.linalg.norm(b))
    )
    if res.true_residual_norm is not None:
        assert abs(res.true_residual_norm - truth) <= rounding
    if res.outcome in (Outcome.CONVERGED, Outcome.CONVERGED_INDEFINITE):
        assert truth <= rtol * np.linalg.norm(b) + rounding
    else:
        assert res.info != 0
    assert np.isfinite(res.x).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8, 1e13])
@pytest.mark.parametrize("rtol", [1e-3, 1e-7, 1e-14])
def test_is_honest_whatever_the_precision(solver, condition, rtol, dtype):
    A, b = spd(dtype, 30, condition), vector(30, dtype)
    assert_honest(A, b, solver(A, b, rtol=rtol, maxiter=150), rtol)


@pytest.mark.parametrize("solver", CONJUGATE)
@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_a_tolerance_below_the_precision_is_stagnation(solver, M):
    A, b = spd(np.float32, condition=1e3), vector(40, np.float32)
    d = np.linspace(1, 2, 40).astype("f4")
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": lambda r: r / d}.get(M)
    res = solver(A, b, M=M, rtol=1e-12, maxiter=5000)
    assert res.outcome is Outcome.STAGNATION
    assert res.info > 0
    assert res.niter < 1000
    assert res.true_residual_norm < 1e-3 * np.linalg.norm(b)
    assert_honest(A, b, res, 1e-12)


def test_bicgstab_below_the_precision_is_no_convergence():
    A, b = nonsymmetric(np.float32), vector(40, np.float32)
    res = krylov.bicgstab(A, b, rtol=1e-12, maxiter=5000)
    assert res.outcome in (Outcome.STAGNATION, Outcome.BREAKDOWN)
    assert res.true_residual_norm < 1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_drifted_residual_is_replaced_and_the_run_goes_on(solver):
    """Products that are wrong for a while: the recurrence converges to a lie, is caught, and recovers."""
    A, b, count = spd(float, condition=20.0), vector(40), [0]

    def multiply(v):
        count[0] += 1
        return A @ v * (1.01 if 3 <= count[0] <= 6 else 1)

    keywords = {"scale": 0.9} if solver is krylov.neumann else {}
    res = solver(multiply, b, rtol=1e-8, maxiter=3000, **keywords)
    assert res.outcome is Outcome.CONVERGED
    assert res.restarts >= 1
    assert res.nmatvec == count[0]
    assert residual_norm(A, b, res.x) < 1e-8 * np.linalg.norm(b)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_operator_that_never_repeats_itself_never_converges(solver):
    rng, A, b = np.random.default_rng(0), spd(float), vector(40)
    keywords = {"scale": 0.9} if solver is krylov.neumann else {}
    res = solver(
        lambda v: A @ v * (1 + 1e-3 * rng.standard_normal(40)),
        b,
        rtol=1e-10,
        maxiter=2000,
        **keywords,
    )
    assert not res.outcome.ok
    assert res.info != 0


def assert_no_worse_than_zero(solver, A, b, x):
    """In what the solver minimises: conjugate gradients the quadratic, the others the residual."""
    if solver in CONJUGATE:
        assert (0.5 * np.vdot(x, A @ x) - np.vdot(b, x)).real <= 0
    else:
        assert residual_norm(A, b, x) <= 1.0001 * np.linalg.norm(b)
    assert np.isfinite(x).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [1, 2, 4, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_product_that_is_not_finite(solver, bad, value, dtype):
    A, b, count = spd(dtype), vector(40, dtype), [0]

    def multiply(v):
        count[0] += 1
        y = A @ v
        if count[0] >= bad:
            y[3] = value
        return y

    keywords = {"scale": 0.9} if solver is krylov.neumann else {}
    res = solver(multiply, b, rtol=1e-5, **keywords)
    assert res.outcome is Outcome.NON_FINITE
    assert res.info > 0
    assert_no_worse_than_zero(solver, A, b, res.x)
    assert len(res.residual_norms) == res.niter + 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_preconditioner_that_is_not_finite(solver):
    A, b, count = spd(float), vector(40), iter(range(1000))
    keywords = {"scale": 0.9} if solver is krylov.neumann else {}
    res = solver(A, b, M=lambda r: r * (np.nan if next(count) > 3 else 1), **keywords)
    assert res.outcome is Outcome.NON_FINITE
    assert_no_worse_than_zero(solver, A, b, res.x)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_inconsistent_system(solver):
    A = with_spectrum([0.0, *np.linspace(1, 2, 20)])
    b = vector(21)
    res = solver(A, b, rtol=1e-8, maxiter=500)
    assert_honest(A, b, res, 1e-8)
    assert res.outcome is not Outcome.CONVERGED


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("size", "kind"),
    [(1e-300, "f8"), (1e-17, "f8"), (1e300, "f8"), (1e-30, "f4"), (1e30, "f4"), (1e-300, "c16")],
)
def test_scale_of_the_right_hand_side(solver, size, kind):
    A, b = spd(kind, condition=10), vector(40, kind)
    scaled = (b * size).astype(kind)
    res, plain = solver(A, scaled, rtol=1e-4), solver(A, b, rtol=1e-4)
    assert res.outcome is Outcome.CONVERGED
    assert abs(res.niter - plain.niter) <= 1
    np.testing.assert_allclose(
        res.x / np.array(size, kind), plain.x, atol=1e-2 if kind == "f4" else 2e-3
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [1e-150, 1e-30, 1e30, 1e150])
def test_scale_of_the_operator(solver, size):
    A, b = spd(float, condition=10), vector(40)
    res, plain = solver(A * size, b, rtol=1e-4), solver(A, b, rtol=1e-4)
    assert res.outcome is Outcome.CONVERGED
    assert abs(res.niter - plain.niter) <= 1
    np.testing.assert_allclose(res.x * size, plain.x, atol=2e-3)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [1e-190, 1e-300])
def test_a_start_far_larger_than_the_solution(solver, size):
    """The square of the final residual is below the range of float64: that is not a residual of zero."""
    A, b = np.diag([0.7, 2.1]), np.full(2, size)
    res = solver(A, b, np.array([1.0, 0.3]), rtol=1e-11, maxiter=2000)
    if res.outcome is Outcome.CONVERGED:
        np.testing.assert_allclose(res.x, b / np.diag(A), rtol=1e-10)
