"""Objectives, gradients, products and options that make no sense, or none everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from minimize.problems import both_globalizations, both_solvers, newton_krylov, quadratic
from scipy.optimize import BFGS, LinearConstraint, minimize, rosen, rosen_der, rosen_hess_prod

import krylov


def rosenbrock(x0=(-1.2, 1.0, 0.5), **keywords):
    keywords = {"jac": rosen_der, "hessp": rosen_hess_prod} | keywords
    return minimize(rosen, np.array(x0), method=newton_krylov, **keywords)


# -------------------------------------------------------------------------------------------------
# NaN and infinity


@both_solvers
@both_globalizations
@pytest.mark.parametrize("outside", [np.nan, np.inf])
def test_log_barrier(outside, solver, globalization):
    """c.x - mu sum log x - mu log(1 - sum x): defined inside the simplex only."""
    c, mu = np.linspace(-10.0, 10.0, 5), 1e-2

    def inside(x):
        return x.min() > 0 and x.sum() < 1

    def fun(x):
        if not inside(x):
            return outside
        return c @ x - mu * np.log(x).sum() - mu * np.log(1 - x.sum())

    def jac(x):
        return c - mu / x + mu / (1 - x.sum()) if inside(x) else np.full(5, np.nan)

    result = minimize(
        fun,
        np.full(5, 0.15),
        jac=jac,
        hessp=lambda x, p: mu * p / x**2 + mu * p.sum() / (1 - x.sum()) ** 2,
        method=newton_krylov,
        options={"gtol": 1e-7, "solver": solver, "globalization": globalization},
    )
    assert result.success, result.message
    assert inside(result.x)
    np.testing.assert_allclose(jac(result.x), 0, atol=1e-7)


def test_gradient_by_differences_at_the_edge_of_the_domain():
    """x - log x from a start so near to the edge that a difference of the gradient steps over it."""
    result = minimize(
        lambda x: np.sum(x) - np.sum(np.log(x)) if x.min() > 0 else np.nan,
        np.array([1e-9, 2.0]),
        jac=lambda x: 1 - 1 / x if x.min() > 0 else np.full(2, np.nan),
        method=newton_krylov,
        options={"gtol": 1e-6},
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 1, atol=1e-5)


def test_gradient_that_is_not_finite_where_the_value_is():
    def jac(x):
        return rosen_der(x) if x[0] < 0.9 else np.full(3, np.nan)

    result = rosenbrock(jac=jac, options={"maxiter": 50})
    assert not result.success
    assert np.isfinite(result.jac).all()
    assert result.x[0] < 0.9
    assert result.fun < rosen([-1.2, 1.0, 0.5])


@both_globalizations
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_products_that_are_not_finite(value, globalization):
    """Always, or from the tenth on: the best iterate survives, and steps go on downhill."""
    for first in (0, 10):
        calls = []

        def hessp(x, p, first=first, calls=calls):
            calls.append(None)
            return rosen_hess_prod(x, p) if len(calls) <= first else np.full(3, value)

        result = rosenbrock(hessp=hessp, options={"maxiter": 30, "globalization": globalization})
        assert np.isfinite(result.x).all()
        assert result.fun < rosen([-1.2, 1.0, 0.5])
        assert result.fun == rosen(result.x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_start_outside_the_domain(value):
    with pytest.raises(ValueError, match=r"fun\(x0\) is not finite"):
        minimize(lambda x: value, [1.0], jac=lambda x: x, method=newton_krylov)
    with pytest.raises(ValueError, match=r"jac\(x0\) is not finite"):
        minimize(lambda x: 1.0, [1.0], jac=lambda x: x * value, method=newton_krylov)
    with pytest.raises(ValueError, match="x0"):
        minimize(lambda x: 1.0, [1.0, value], jac=lambda x: x, method=newton_krylov)


@both_globalizations
def test_unbounded_below(globalization):
    result = minimize(
        lambda x: -0.5 * x @ x,
        [1.0, 2.0],
        jac=lambda x: -x,
        method=newton_krylov,
        options={"globalization": globalization},
    )
    assert (result.success, result.status) == (False, 3)
    assert "unbounded" in result.message


@both_solvers
@both_globalizations
@pytest.mark.parametrize("exponent", [-200, -10, 100])
def test_any_scale_of_the_objective(exponent, solver, globalization):
    c = 10.0**exponent
    result = minimize(
        lambda x: c * rosen(x),
        np.array([-1.2, 1.0, 0.5]),
        jac=lambda x: c * rosen_der(x),
        hessp=lambda x, p: c * rosen_hess_prod(x, p),
        method=newton_krylov,
        options={"gtol": 1e-6 * c, "solver": solver, "globalization": globalization},
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 1.0, atol=1e-5)


@both_globalizations
@pytest.mark.parametrize("offset", [1e8, 1e12])
def test_values_whose_differences_are_rounding(offset, globalization):
    """Near the minimum the objective says nothing; the gradient does, and is not blamed."""
    result = minimize(
        lambda x: rosen(x) + offset,
        np.array([-1.2, 1.0, 0.5]),
        jac=rosen_der,
        hessp=rosen_hess_prod,
        method=newton_krylov,
        options={"globalization": globalization},
    )
    assert result.status in (0, 2)
    assert rosen(result.x) < 1e-14 * offset
    assert result.nfev < 500


# -------------------------------------------------------------------------------------------------
# Wrong derivatives


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    n=st.integers(1, 40),
    data=st.data(),
    seed=st.integers(0, 1000),
    mistake=st.sampled_from(["sign", "factor", "offset", "zero"]),
)
def test_a_wrong_gradient_is_named_by_its_coordinate(n, data, seed, mistake):
    index = data.draw(st.integers(0, n - 1))
    x0 = np.random.default_rng(seed).uniform(0.5, 2.0, n) * np.where(np.arange(n) % 2, 1, -1)

    def jac(x):
        g = x**3 + x
        g[index] = {"sign": -g[index], "factor": 2 * g[index], "offset": g[index] + 1, "zero": 0}[
            mistake
        ]
        return g

    with pytest.raises(ValueError, match=rf"coordinate {index} .*differences of fun give"):
        minimize(lambda x: np.sum(x**4 / 4 + x**2 / 2), x0, jac=jac, method=newton_krylov)


def test_what_the_message_says_is_right():
    def jac(x):
        g = rosen_der(x)
        g[1] *= 3
        return g

    x0 = np.array([-1.2, 1.0, 0.5])
    with pytest.raises(ValueError, match="coordinate 1") as caught:
        rosenbrock(jac=jac)
    numbers = [float(word) for word in str(caught.value).replace(",", "").split() if _number(word)]
    assert numbers[1:3] == pytest.approx([3 * rosen_der(x0)[1], rosen_der(x0)[1]], rel=1e-4)
    result = rosenbrock(jac=jac, options={"check_gradient": False, "maxiter": 5})
    assert result.nit <= 5


def _number(word):
    return word.lstrip("-").replace(".", "").replace("e", "").isdigit()


@settings(deadline=None, derandomize=True, max_examples=50)
@given(n=st.integers(1, 30), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_right_gradient_is_not_blamed(n, seed, scale):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    a, b = a @ a.T + 0.1 * np.eye(n), rng.standard_normal(n)
    result = minimize(
        lambda x: scale * (0.5 * x @ a @ x - b @ x),
        10 * rng.standard_normal(n),
        jac=lambda x: scale * (a @ x - b),
        hess=lambda x: scale * a,
        method=newton_krylov,
        tol=1e-6 * scale,
    )
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize("x0", [0.0, 1e-9, 1.0])
def test_kinks_and_noise_are_not_blamed(x0):
    rng = np.random.default_rng(0)
    for fun, jac in (
        (lambda x: np.abs(x).sum(), np.sign),
        (lambda x: np.maximum(x, 0).sum() + x @ x, lambda x: (x > 0) + 2 * x),
        (lambda x: float(np.float32(x @ x)), lambda x: 2 * x),
        (lambda x: x @ x + 1e-3 * rng.standard_normal(), lambda x: 2 * x),
    ):
        result = minimize(
            fun, np.full(3, x0), jac=jac, method=newton_krylov, options={"maxiter": 20}
        )
        assert np.isfinite(result.x).all()


@both_solvers
def test_products_that_are_not_symmetric(solver):
    a, _, fun, jac = quadratic()
    a = a + np.triu(np.ones((6, 6)), 1)
    options = {"solver": solver}
    for keywords in (
        {"hessp": lambda x, p: a @ p},
        {"hess": lambda x: sp.linalg.aslinearoperator(a)},
    ):
        with pytest.raises(ValueError, match=r"not those of a symmetric matrix"):
            minimize(fun, np.ones(6), jac=jac, method=newton_krylov, options=options, **keywords)
    allowed = minimize(
        fun,
        np.ones(6),
        jac=jac,
        hessp=lambda x, p: a @ p,
        method=newton_krylov,
        options=options | {"check_symmetry": False},
    )
    assert np.isfinite(allowed.x).all()


@pytest.mark.parametrize("form", [lambda a: a, sp.csr_array])
def test_a_matrix_that_is_not_symmetric_is_named_by_its_entry(form):
    a, _, fun, jac = quadratic()
    a = a + 0.5 * (np.arange(36).reshape(6, 6) == 10)
    with pytest.raises(ValueError, match=r"\((1, 4|4, 1)\) and \((4, 1|1, 4)\) differ by 0.5"):
        minimize(fun, np.ones(6), jac=jac, hess=lambda x: form(a), method=newton_krylov)


def test_a_symmetric_matrix_is_not_blamed():
    a, b, fun, jac = quadratic()
    a32 = a.astype(np.float32)  # products of single precision
    for hessp in (lambda x, p: a @ p, lambda x, p: a32 @ p.astype(np.float32)):
        result = minimize(fun, np.ones(6), jac=jac, hessp=hessp, method=newton_krylov)
        np.testing.assert_allclose(result.x, np.linalg.solve(a, b), atol=1e-4)


def test_a_preconditioner_that_is_not_positive_definite():
    with pytest.raises(ValueError, match="M: The preconditioner M is not positive definite"):
        rosenbrock(options={"M": krylov.JacobiPreconditioner(-np.ones(3))})


# -------------------------------------------------------------------------------------------------
# Refused, before any evaluation


def untouched(*_):
    pytest.fail("the objective was evaluated")


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"bounds": [(0, 1)] * 2}, ValueError, "does not support bounds.*L-BFGS-B"),
        (
            {"constraints": {"type": "eq", "fun": lambda x: x[0]}},
            ValueError,
            "does not support constraints.*trust-constr",
        ),
        ({"constraints": LinearConstraint(np.eye(2))}, ValueError, "constraints"),
        ({"jac": None}, ValueError, "give jac=.*jac=True"),
        ({"jac": "2-point"}, ValueError, "give jac="),
        ({"hess": "cs"}, ValueError, "2-point"),
        ({"hess": BFGS()}, TypeError, "BFGS"),
        ({"hessp": 3}, TypeError, "hessp must be callable"),
        ({"callback": 3}, TypeError, "callback must be callable"),
        ({"options": {"gtol": -1}}, ValueError, "gtol"),
        ({"options": {"gtol": np.nan}}, ValueError, "gtol"),
        ({"options": {"xtol": "a"}}, ValueError, "xtol"),
        ({"options": {"maxiter": 2.5}}, TypeError, "maxiter"),
        ({"options": {"inner_maxiter": 0}}, ValueError, "inner_maxiter"),
        ({"options": {"solver": "gmres"}}, ValueError, "'cg', 'flexible_cg', 'bicgstab'"),
        ({"options": {"globalization": "none"}}, ValueError, "'trust', 'armijo'"),
        ({"options": {"forcing": "tight"}}, ValueError, "eisenstat-walker"),
        ({"options": {"forcing": 1.5}}, ValueError, "between 0 and 1"),
        ({"options": {"initial_trust_radius": 0}}, ValueError, "initial_trust_radius"),
        ({"options": {"max_trust_radius": np.inf}}, ValueError, "max_trust_radius"),
        (
            {"options": {"initial_trust_radius": 2.0, "max_trust_radius": 1.0}},
            ValueError,
            "above max_trust_radius",
        ),
        ({"options": {"saddle_check": -1}}, ValueError, "saddle_check"),
        ({"options": {"seed": 0.5}}, TypeError, "seed"),
        ({"options": {"unheard_of": 1}}, TypeError, "unheard_of"),
    ],
)
def test_refused(keywords, error, words):
    keywords = {"jac": untouched} | keywords
    with pytest.raises(error, match=words):
        minimize(untouched, np.ones(2), method=newton_krylov, **keywords)


@pytest.mark.parametrize(
    ("functions", "error", "words"),
    [
        ({"fun": lambda x: x}, ValueError, "real scalar"),
        ({"fun": lambda x: 1j}, ValueError, "real scalar"),
        ({"fun": lambda x: None}, ValueError, "real scalar"),
        ({"jac": lambda x: np.ones(3)}, ValueError, "jac must return 2 numbers"),
        ({"jac": lambda x: 1j * x}, TypeError, "real"),
        ({"hessp": lambda x, p: np.ones(3)}, ValueError, "must have 2 numbers"),
        ({"hess": lambda x: np.eye(3)}, ValueError, "2 by 2"),
    ],
)
def test_functions_that_return_something_else(functions, error, words):
    functions = {"fun": lambda x: 0.5 * x @ x, "jac": lambda x: x} | functions
    with pytest.raises(error, match=words):
        minimize(functions.pop("fun"), np.ones(2), method=newton_krylov, **functions)


def test_complex_start():
    with pytest.raises(TypeError, match="x0 must be real"):
        minimize(lambda x: 1.0, np.ones(2) * 1j, jac=lambda x: x, method=newton_krylov)
