"""A run never ends at a saddle that a few Lanczos steps can see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimize.problems import both_globalizations, both_solvers, hessian, newton_krylov, solve
from scipy.optimize import minimize

from krylov.bench import objectives

STARTS = [(1.0, 0.0), (0.0, 0.0), (-3.0, 0.0), (1e-9, 0.0), (0.0, 1e-12)]


@both_solvers
@both_globalizations
@pytest.mark.parametrize("x0", STARTS)
def test_the_saddle_in_two_dimensions(x0, solver, globalization):
    result = solve(objectives.saddle(x0), solver=solver, globalization=globalization)
    assert result.success
    np.testing.assert_allclose(np.abs(result.x), [0.0, 1.0], atol=1e-5)
    assert result.fun == pytest.approx(-0.25)


@pytest.mark.parametrize("x0", STARTS[:2])
def test_without_the_check_it_ends_there(x0):
    """The gradient has no part in the way out: what the check is for."""
    result = solve(objectives.saddle(x0), saddle_check=0)
    assert result.success
    assert "not checked" in result.message
    assert result.fun == 0.0


@both_solvers
def test_equal_seeds_equal_runs(solver):
    runs = {}
    for seed in range(6):
        first, second = (
            solve(objectives.saddle((0.0, 0.0)), seed=seed, solver=solver, return_all=True)
            for _ in range(2)
        )
        assert all(np.array_equal(a, b) for a, b in zip(first.allvecs, second.allvecs, strict=True))
        assert first.nfev == second.nfev
        runs[seed] = first.x[1]
    assert min(runs.values()) == pytest.approx(
        -1, abs=1e-5
    )  # seeds do matter: both ways out are taken
    assert max(runs.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("layers", [2, 3, 4])
@both_solvers
@both_globalizations
def test_deep_linear_network_from_the_origin(layers, solver, globalization):
    """With three layers or more even the Hessian vanishes at the origin."""
    problem = objectives.deep_linear(4, layers, scale=0)
    result = solve(problem, solver=solver, globalization=globalization, gtol=1e-6)
    assert result.success
    assert result.fun < 1e-10  # every minimum is global


def test_deep_linear_network_from_near_the_origin():
    result = solve(objectives.deep_linear(6, 3, scale=1e-3), gtol=1e-6)
    assert result.fun < 1e-10


def test_monkey_saddle():
    """x³ - 3 x y² + x⁴ + y⁴ has neither slope nor curvature at the origin."""
    result = minimize(
        lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2 + x[0] ** 4 + x[1] ** 4,
        np.zeros(2),
        jac=lambda x: np.array(
            [3 * x[0] ** 2 - 3 * x[1] ** 2 + 4 * x[0] ** 3, -6 * x[0] * x[1] + 4 * x[1] ** 3]
        ),
        method=newton_krylov,
    )
    assert result.success
    assert result.fun < -0.1


def test_differences_of_the_gradient_see_a_saddle():
    problem = objectives.saddle((1.0, 0.0))
    result = minimize(problem.fun, problem.x0, jac=problem.jac, method=newton_krylov)
    np.testing.assert_allclose(np.abs(result.x), [0.0, 1.0], atol=1e-5)


def test_one_negative_eigenvalue_among_two_hundred():
    """½ x.Dx + ¼ sum x⁴ with one weak negative entry of D, from a start that hides it."""
    d = np.linspace(1.0, 4.0, 200)
    d[117] = -0.5
    x0 = np.ones(200)
    x0[117] = 0.0
    result = minimize(
        lambda x: 0.5 * x @ (d * x) + 0.25 * np.sum(x**4),
        x0,
        jac=lambda x: d * x + x**3,
        hessp=lambda x, p: (d + 3 * x * x) * p,
        method=newton_krylov,
    )
    assert result.success
    assert abs(result.x[117]) == pytest.approx(np.sqrt(0.5), abs=1e-4)


def test_a_saddle_is_no_success_when_the_iterations_are_used_up():
    result = solve(objectives.saddle((0.0, 0.0)), maxiter=0)
    assert (result.success, result.status, result.nit) == (False, 1, 0)
    at_minimum = solve(objectives.saddle((0.0, 1.0)), maxiter=0)
    assert (at_minimum.success, at_minimum.status) == (True, 0)


def test_products_of_the_check_are_counted():
    problem = objectives.peaks(4, 60)
    calls = []

    def hessp(x, p):
        calls.append(None)
        return problem.hessp(x, p)

    results = {
        steps: minimize(
            problem.fun,
            problem.x0,
            jac=problem.jac,
            hessp=hessp,
            method=newton_krylov,
            options={"saddle_check": steps},
        )
        for steps in (0, 5)
    }
    assert results[0].nhev < results[5].nhev <= results[0].nhev + 15
    assert results[0].nhev + results[5].nhev == len(calls)


def test_a_minimum_is_left_alone():
    """From the minimum itself: no step, whatever the check does."""
    for x0 in ([0.0, 1.0], [0.0, -1.0]):
        result = solve(objectives.saddle(), x0)
        assert result.success
        assert result.nit == 0
        np.testing.assert_array_equal(result.x, x0)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    n=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    negative=st.integers(0, 8),
    solver=st.sampled_from(["cg", "bicgstab"]),
    globalization=st.sampled_from(["trust", "armijo"]),
    at_saddle=st.booleans(),
)
def test_random_quartics_end_at_minima(n, seed, negative, solver, globalization, at_saddle):
    """½ x.Ax + ¼ sum x⁴, A with some negative eigenvalues: the origin is a saddle or a maximum."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    eigenvalues = rng.uniform(0.3, 2.0, n) * np.where(np.arange(n) < negative, -1, 1)
    a = (q * eigenvalues) @ q.T
    a = (a + a.T) / 2
    problem = objectives.Problem(
        "quartic",
        lambda x: 0.5 * x @ a @ x + 0.25 * np.sum(x**4),
        lambda x: a @ x + x**3,
        lambda x, p: a @ p + 3 * x * x * p,
        np.zeros(n) if at_saddle else q @ (eigenvalues > 0),
        1e-6,
    )
    result = solve(problem, gtol=1e-6, solver=solver, globalization=globalization)
    assert result.success, result.message
    assert np.linalg.norm(problem.jac(result.x)) <= 1e-6
    assert np.linalg.eigvalsh(hessian(problem, result.x))[0] > -1e-4
