"""What `scipy.optimize.minimize` promises of its methods."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from minimize.problems import both_globalizations, both_solvers, newton_krylov, quadratic
from scipy.optimize import OptimizeResult, minimize, rosen, rosen_der, rosen_hess, rosen_hess_prod
from scipy.sparse.linalg import LinearOperator, aslinearoperator

X0 = np.array([-1.2, 1.0, 0.7])


def run(x0=X0, **keywords):
    keywords = {"jac": rosen_der, "hessp": rosen_hess_prod} | keywords
    return minimize(rosen, x0, method=newton_krylov, **keywords)


def test_the_fields_of_the_result():
    counts = dict.fromkeys("fgh", 0)

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    result = minimize(
        counted("f", rosen),
        X0,
        jac=counted("g", rosen_der),
        hessp=counted("h", rosen_hess_prod),
        method=newton_krylov,
    )
    assert isinstance(result, OptimizeResult)
    assert result.success is True
    assert result.status == 0
    assert "terminated successfully" in result.message
    assert (result.nfev, result.njev, result.nhev) == tuple(counts.values())
    assert result.nprod == result.nhev
    assert 0 < result.nit < result.nfev
    assert result.x.shape == X0.shape
    assert result.fun == rosen(result.x)
    np.testing.assert_array_equal(result.jac, rosen_der(result.x))
    np.testing.assert_array_equal(X0, [-1.2, 1.0, 0.7])


def test_args_go_to_every_function():
    a, b = np.diag([1.0, 2.0, 5.0]), np.ones(3)
    expected = np.linalg.solve(a, 3 * b)
    shared = {
        "args": (a, 3.0),
        "jac": lambda x, a, c: a @ x - c * b,
        "method": newton_krylov,
        "options": {"gtol": 1e-9},
    }

    def fun(x, a, c):
        return 0.5 * x @ a @ x - c * b @ x

    for extra in (
        {"hessp": lambda x, p, a, c: a @ p},
        {"hess": lambda x, a, c: a},
        {},
    ):
        np.testing.assert_allclose(minimize(fun, X0, **shared, **extra).x, expected, atol=1e-6)
    single = minimize(
        lambda x, c: c * x @ x, X0, args=2.0, jac=lambda x, c: 2 * c * x, method=newton_krylov
    )
    assert single.success


def test_jac_true_takes_both_from_one_call():
    points = []

    def both(x):
        points.append(x.copy())
        return rosen(x), rosen_der(x)

    keywords = {"jac": True, "hessp": rosen_hess_prod}
    through_scipy = minimize(both, X0, method=newton_krylov, **keywords)
    calls = len(points)
    # One for each value; a gradient costs another only where a later trial was in vain.
    assert through_scipy.nfev <= calls < through_scipy.nfev + through_scipy.njev / 2
    direct = newton_krylov(both, X0, **keywords)
    assert len(points) == 2 * calls
    np.testing.assert_array_equal(direct.x, through_scipy.x)
    np.testing.assert_array_equal(direct.x, run().x)


@pytest.mark.parametrize("tol", [1e-2, 1e-9])
def test_tol_is_gtol(tol):
    result, same = run(tol=tol), run(options={"gtol": tol})
    assert result.success
    assert np.linalg.norm(result.jac) <= tol
    np.testing.assert_array_equal(result.x, same.x)


def test_xtol_ends_the_run():
    loose = run(options={"xtol": 1e-1, "gtol": 1e-12})
    assert loose.success
    assert "xtol" in loose.message
    assert loose.nit < run(options={"gtol": 1e-12}).nit


HESSIANS = {
    "array": rosen_hess,
    "matrix": lambda x: np.asmatrix(rosen_hess(x)),
    "list": lambda x: rosen_hess(x).tolist(),
    "sparse array": lambda x: sp.csr_array(rosen_hess(x)),
    "sparse matrix": lambda x: sp.coo_matrix(rosen_hess(x)),
    "operator": lambda x: aslinearoperator(rosen_hess(x)),
    "products only": lambda x: LinearOperator(
        (3, 3), matvec=lambda p: rosen_hess_prod(x, p.ravel())
    ),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", HESSIANS)
@both_solvers
def test_forms_of_hess(form, solver):
    result = run(hessp=None, hess=HESSIANS[form], options={"solver": solver})
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)


@pytest.mark.parametrize("form", [lambda a: a, sp.csr_array, aslinearoperator])
def test_a_constant_hessian(form):
    a, b, fun, jac = quadratic()
    result = minimize(fun, np.zeros(6), jac=jac, hess=form(a), method=newton_krylov, tol=1e-9)
    assert result.success
    assert result.nhev == 0
    np.testing.assert_allclose(result.x, np.linalg.solve(a, b), atol=1e-8)


def test_hess_goes_before_hessp():
    result = run(hess=rosen_hess, hessp=lambda x, p: pytest.fail("hessp was called"))
    assert result.success


# -------------------------------------------------------------------------------------------------
# Callback


def test_callback_with_x():
    seen = []
    result = run(callback=lambda xk: seen.append(xk))
    assert len(seen) == result.nit
    np.testing.assert_array_equal(seen[-1], result.x)
    assert len({tuple(x) for x in seen}) == result.nit  # copies


def test_callback_with_intermediate_result():
    seen = []

    def callback(*, intermediate_result):
        seen.append(intermediate_result)

    result = run(callback=callback)
    assert all(isinstance(state, OptimizeResult) for state in seen)
    assert [state.nit for state in seen] == list(range(1, result.nit + 1))
    assert all(state.fun == rosen(state.x) for state in seen)
    values = [state.fun for state in seen]
    assert values == sorted(values, reverse=True)


def test_stop_iteration_ends_the_run_with_the_current_iterate():
    seen = []

    def callback(xk):
        seen.append(xk)
        if len(seen) == 3:
            raise StopIteration

    result = run(callback=callback)
    assert (result.success, result.status, result.nit) == (False, 99, 3)
    assert result.message == "`callback` raised `StopIteration`."
    np.testing.assert_array_equal(result.x, seen[-1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_other_exceptions_pass(error):
    def fail(*_):
        raise error

    with pytest.raises(error):
        run(callback=fail)
    with pytest.raises(error):
        run(hessp=fail)
    with pytest.raises(error):
        run(jac=fail)


# -------------------------------------------------------------------------------------------------
# Limits and words


def test_iteration_limit():
    result = run(options={"maxiter": 3})
    assert (result.success, result.status, result.nit) == (False, 1, 3)
    assert "iterations" in result.message
    start = run(options={"maxiter": 0})
    assert (start.status, start.nit, start.nprod) == (1, 0, 0)
    np.testing.assert_array_equal(start.x, X0)


def test_disp_prints_or_warns(capsys):
    result = run(options={"disp": True})
    printed = capsys.readouterr().out
    assert result.message in printed
    assert f"Hessian evaluations: {result.nhev}" in printed
    with pytest.warns(RuntimeWarning, match="iterations"):
        run(options={"disp": True, "maxiter": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()
    assert capsys.readouterr().out.count("Current function value") == 1


@both_solvers
@both_globalizations
def test_return_all(solver, globalization):
    result = run(
        options={"return_all": True, "solver": solver, "globalization": globalization, "gtol": 1e-8}
    )
    assert len(result.allvecs) == result.nit + 1
    np.testing.assert_array_equal(result.allvecs[0], X0)
    np.testing.assert_array_equal(result.allvecs[-1], result.x)
    values = [rosen(x) for x in result.allvecs]
    assert values == sorted(values, reverse=True)


def test_functions_may_overwrite_what_they_get():
    def spoil(function):
        def call(x, *args):
            answer = function(x, *args)
            x[:] = np.nan
            return answer

        return call

    spoiled = minimize(
        spoil(rosen), X0, jac=spoil(rosen_der), hessp=spoil(rosen_hess_prod), method=newton_krylov
    )
    np.testing.assert_array_equal(spoiled.x, run().x)


def test_a_gradient_in_memory_that_is_used_again():
    memory = np.empty(3)

    def jac(x):
        memory[:] = rosen_der(x)
        return memory

    np.testing.assert_array_equal(run(jac=jac).x, run().x)


@pytest.mark.parametrize("x0", [[1, 2], 3, [[0.5]], np.float32([2, 1])])
def test_starts(x0):
    if np.ndim(x0) == 2:
        with pytest.raises(ValueError, match="one dimension"):
            minimize(lambda x: x @ x, x0, jac=lambda x: 2 * x, method=newton_krylov)
        return
    result = minimize(lambda x: x @ x, x0, jac=lambda x: 2 * x, method=newton_krylov)
    np.testing.assert_allclose(result.x, 0, atol=1e-5)
    assert result.x.dtype == np.float64


def test_import_krylov_leaves_scipy_optimize_alone(python):
    program = "import sys, krylov; print('scipy.optimize' in sys.modules, 'torch' in sys.modules)"
    assert python(program) == "False False"
    assert python("import krylov; print(krylov.minimize.newton_krylov.__name__)") == "newton_krylov"
