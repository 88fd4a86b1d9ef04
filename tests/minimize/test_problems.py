"""Known minima: valleys, deep linear networks, regressions, fits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from minimize.problems import both_globalizations, both_solvers, hessian, newton_krylov, solve
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess, rosen_hess_prod

import krylov
from krylov.bench import objectives


@both_solvers
@both_globalizations
@pytest.mark.parametrize("n", [2, 100])
def test_rosenbrock(n, solver, globalization):
    problem = objectives.rosenbrock(n)
    result = solve(problem, np.full(n, -1.2), gtol=1e-8, solver=solver, globalization=globalization)
    assert result.success, result.message
    assert np.linalg.norm(result.jac) <= 1e-8
    # In more than 3 dimensions there is another minimum near (-1, 1, ..., 1).
    assert np.linalg.eigvalsh(hessian(problem, result.x))[0] > 0


@pytest.mark.parametrize("n", [2, 100])
def test_rosenbrock_from_the_usual_start(n):
    result = solve(objectives.rosenbrock(n), gtol=1e-8)
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-7)


def test_rosenbrock_in_10000_dimensions():
    n = 10_000
    x0 = np.random.default_rng(0).uniform(0.0, 1.5, n)
    result = minimize(
        rosen,
        x0,
        jac=rosen_der,
        hessp=rosen_hess_prod,
        method=newton_krylov,
        options={"maxiter": 9000},
    )
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)


@pytest.mark.slow
def test_rosenbrock_in_10000_dimensions_from_the_usual_start():
    result = solve(objectives.rosenbrock(10_000), gtol=1e-6)
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-5)


@both_solvers
@both_globalizations
def test_logistic_regression(solver, globalization):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((200, 12))
    y = np.where(a @ rng.standard_normal(12) + rng.standard_normal(200) > 0, 1.0, -1.0)
    a *= y[:, None]

    def weight(w):
        p = scipy.special.expit(a @ w)
        return p * (1 - p)

    result = minimize(
        lambda w: np.sum(np.logaddexp(0, -(a @ w))) + 0.5 * w @ w,
        np.zeros(12),
        jac=lambda w: -(a.T @ scipy.special.expit(-(a @ w))) + w,
        hessp=lambda w, p: a.T @ (weight(w) * (a @ p)) + p,
        method=newton_krylov,
        options={"gtol": 1e-9, "solver": solver, "globalization": globalization},
    )
    assert result.success
    # Newton's method with dense algebra arrives at the same point.
    w = np.zeros(12)
    for _ in range(20):
        g = -(a.T @ scipy.special.expit(-(a @ w))) + w
        w -= np.linalg.solve((a.T * weight(w)) @ a + np.eye(12), g)
    np.testing.assert_allclose(result.x, w, atol=1e-8)


@both_solvers
@both_globalizations
def test_nonconvex_least_squares(solver, globalization):
    problem = objectives.peaks(6, 200)
    result = solve(problem, gtol=1e-7, solver=solver, globalization=globalization)
    assert result.success
    assert np.linalg.norm(problem.jac(result.x)) <= 1e-7
    assert np.linalg.eigvalsh(hessian(problem, result.x))[0] > 0


@pytest.mark.parametrize(
    "problem",
    [objectives.deep_linear(4, 3), objectives.peaks(4, 60), objectives.saddle((0.3, 0.2))],
)
def test_derivatives_of_the_objectives_fit(problem):
    rng = np.random.default_rng(5)
    x = problem.x0 + 0.1 * rng.standard_normal(problem.x0.size)
    v = rng.standard_normal(x.size)
    h = 1e-6
    slope = (problem.fun(x + h * v) - problem.fun(x - h * v)) / (2 * h)
    change = (problem.jac(x + h * v) - problem.jac(x - h * v)) / (2 * h)
    np.testing.assert_allclose(problem.jac(x) @ v, slope, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(problem.hessp(x, v), change, rtol=1e-5, atol=1e-6)


def test_ill_scaled_quadratic_with_a_preconditioner():
    d = np.geomspace(1e-3, 1e4, 60)
    products = {}
    for name, m in {"none": None, "jacobi": krylov.JacobiPreconditioner(d)}.items():
        result = minimize(
            lambda x: 0.5 * x @ (d * x) - x.sum(),
            np.ones(60),
            jac=lambda x: d * x - 1.0,
            hess=lambda x: np.diag(d),
            method=newton_krylov,
            options={"gtol": 1e-8, "M": m, "initial_trust_radius": 1e6, "saddle_check": 0},
        )
        assert result.success
        np.testing.assert_allclose(result.x, 1 / d, rtol=1e-4)
        products[name] = result.nprod
    assert products["jacobi"] < products["none"] / 5


def test_a_preconditioner_that_learns_from_solve_to_solve():
    problem = objectives.peaks()
    learning = krylov.LBFGSPreconditioner(problem.x0.size, 32, harvest=True)
    plain, learnt = (solve(problem, gtol=1e-6, M=m) for m in (None, learning))
    assert plain.success
    assert learnt.success
    assert learnt.fun == pytest.approx(plain.fun)
    assert learnt.nprod < 0.7 * plain.nprod


def test_fewer_products_than_trust_ncg():
    for problem in (objectives.rosenbrock(50), objectives.deep_linear(8, 3, 1)):
        ours = solve(problem, gtol=1e-6, saddle_check=0)
        theirs = minimize(
            problem.fun,
            problem.x0,
            jac=problem.jac,
            hessp=problem.hessp,
            method="trust-ncg",
            tol=1e-6,
        )
        assert ours.success
        assert theirs.success
        assert ours.nhev < theirs.nhev


def test_products_by_differences_find_the_same_minimum():
    problem = objectives.deep_linear(4, 3, 1)
    for hess in (None, "2-point", "3-point"):
        result = minimize(
            problem.fun,
            problem.x0,
            jac=problem.jac,
            hess=hess,
            method=newton_krylov,
            options={"gtol": 1e-6},
        )
        assert result.success
        assert result.fun < 1e-10
        assert result.nhev == 0
        assert result.njev >= result.nit + result.nprod


def test_hess_and_hessp_take_the_same_way():
    by_matrix = minimize(
        rosen, np.full(5, -1.2), jac=rosen_der, hess=rosen_hess, method=newton_krylov
    )
    by_product = minimize(
        rosen, np.full(5, -1.2), jac=rosen_der, hessp=rosen_hess_prod, method=newton_krylov
    )
    np.testing.assert_allclose(by_matrix.x, by_product.x, atol=1e-6)
    assert by_matrix.nhev <= by_matrix.nit + 1  # matrices
    assert by_matrix.nprod > by_matrix.nhev
    assert by_product.nhev == by_product.nprod
