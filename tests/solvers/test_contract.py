"""SciPy's contract of cg and bicgstab, corner by corner; the other solvers keep it too."""

from __future__ import annotations

import inspect
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
from cases import epsilon, poisson, spd, vector

import krylov
from krylov import Outcome

SCIPYS = ["cg", "bicgstab"]
METHODS = [*SCIPYS, "flexible_cg", "neumann"]


@pytest.fixture(params=METHODS)
def solver(request):
    return getattr(krylov, request.param)


@pytest.mark.parametrize("method", SCIPYS)
def test_signature_begins_as_scipys(method):
    ours, theirs = (inspect.signature(getattr(m, method)).parameters for m in (krylov, sla))
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind
        assert ours[name].default == parameter.default


def test_result_unpacks(solver):
    x, info = solver(np.eye(3), np.ones(3))
    assert info == 0
    assert type(x) is np.ndarray


@pytest.mark.parametrize("method", SCIPYS)
@pytest.mark.parametrize("maxiter", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("A", [np.eye(3), np.diag([1.0, 2.0, 3.0])], ids=["identity", "diagonal"])
def test_info_is_scipys(method, maxiter, A):
    b, x0 = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.0, 1.0])
    for start in (None, x0):
        ours, theirs = (
            getattr(m, method)(A, b, start, rtol=1e-10, maxiter=maxiter) for m in (krylov, sla)
        )
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)
        assert ours[1] == theirs[1]


@pytest.mark.parametrize("method", SCIPYS)
@pytest.mark.parametrize(
    ("A", "b"), [(spd, 40), (lambda _: np.roll(np.eye(6), 1, 0), 6), (lambda _: -np.eye(4), 4)]
)
def test_info_is_scipys_on_failure(method, A, b):
    A, b = A(float), np.eye(b)[0]
    with np.errstate(all="ignore"):
        ours, theirs = (getattr(m, method)(A, b, rtol=1e-12, maxiter=6) for m in (krylov, sla))
    assert (ours[1] == 0) == (theirs[1] == 0)
    assert np.sign(ours[1]) == np.sign(theirs[1])


def test_exhausted_maxiter_is_info_even_when_the_last_step_converged(solver):
    keywords = {"scale": 1.0} if solver is krylov.neumann else {}
    res = solver(np.eye(3), np.ones(3), maxiter=1, **keywords)
    assert res.outcome is Outcome.CONVERGED
    assert res.info == (0 if solver is krylov.bicgstab else 1)  # a half step is not a full one


def test_maxiter_zero(solver):
    x0 = np.array([1.0, 2.0, 3.0])
    x, info = res = solver(np.diag([2.0, 3.0, 4.0]), np.ones(3), x0, maxiter=0)
    assert np.array_equal(x, x0)
    assert x is not x0
    assert (info, res.outcome, res.niter) == (0, Outcome.ITERATION_LIMIT, 0)


def test_default_maxiter_is_ten_n():
    A = np.diag(np.geomspace(1e-12, 1, 6))
    assert krylov.cg(A, np.ones(6), rtol=0, atol=0).niter <= 60
    assert krylov.neumann(A, np.ones(6)).niter == 60


def test_zero_right_hand_side(solver, dtype):
    b, x0 = np.zeros(4, dtype), np.ones(4, dtype)
    res = solver(np.eye(4, dtype=dtype), b, x0)
    assert (res.info, res.outcome, res.niter) == (0, Outcome.CONVERGED, 0)
    assert not res.x.any()
    assert not np.may_share_memory(res.x, b)
    assert res.x.dtype == dtype
    assert x0.all()


def test_exact_start_needs_no_iteration(solver, dtype):
    A, x0 = np.diag(np.arange(1, 6)).astype(dtype), np.ones(5, dtype)
    for rtol in (0.0, 1e-5):
        res = solver(A, A @ x0, x0, rtol=rtol)
        assert (res.info, res.outcome, res.niter) == (0, Outcome.CONVERGED, 0)
        assert np.array_equal(res.x, x0)
        assert res.true_residual_norm == 0


@pytest.mark.parametrize("b_shape", [(5,), (5, 1)])
@pytest.mark.parametrize("x0_shape", [(5,), (5, 1)])
def test_shapes(solver, b_shape, x0_shape):
    b, x0 = np.arange(1.0, 6).reshape(b_shape), np.ones(x0_shape)
    kept = b.copy(), x0.copy()
    x, info = solver(2 * np.eye(5), b, x0)
    assert (x.shape, info) == ((5,), 0)
    np.testing.assert_allclose(x, b.ravel() / 2, rtol=1e-4)
    assert np.array_equal(b, kept[0])
    assert np.array_equal(x0, kept[1])


@pytest.mark.parametrize("a", ["i4", "u1", "?", "f2", "f4", "f8", "g", "c8", "c16"])
@pytest.mark.parametrize("b", ["i8", "f2", "f4", "f8", "g", "c8", "c16"])
def test_dtype_of_the_solution(a, b):
    wide = np.result_type(a, b)
    expected = wide if wide.char in "fdFD" else np.dtype("D" if wide.kind == "c" else "d")
    res = krylov.cg(np.eye(3).astype(a), np.ones(3, b))
    assert res.x.dtype == expected
    np.testing.assert_allclose(res.x, 1)


@pytest.mark.parametrize("value", [None, "legacy", -1.0, "1e-3", float("nan")])
@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_impossible_tolerance_is_refused(solver, name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        solver(np.eye(3), np.ones(3), **{name: value})


def test_either_tolerance_is_enough(solver):
    A, b = np.diag([1.0, 2, 3, 4]), vector(4)
    keywords = {"scale": 0.2} if solver is krylov.neumann else {}
    for rtol, atol, bound in (
        (1e-3, 0, 1e-3 * np.linalg.norm(b)),
        (0, 1e-3, 1e-3),
        (1e-9, 1e-2, 1e-2),
    ):
        res = solver(A, b, rtol=rtol, atol=atol, maxiter=200, **keywords)
        assert res.outcome is Outcome.CONVERGED
        assert np.linalg.norm(b - A @ res.x) < bound
        assert (res.residual_norms[:-1] >= bound).all()


def test_callback_sees_every_iterate(solver):
    seen = []
    res = solver(
        spd(float),
        vector(40),
        maxiter=7,
        rtol=0,
        callback=lambda x: seen.append(x.copy()) or "ignored",
    )
    assert len(seen) == res.niter == 7
    assert all(not np.array_equal(a, b) for a, b in pairwise(seen))
    assert any(np.array_equal(x, res.x) for x in seen)


def test_list_is_no_operator(solver):
    with pytest.raises(TypeError, match="list"):
        solver([[1.0, 0.0], [0.0, 1.0]], np.ones(2))


def test_psolve_of_the_operator_is_used(solver):
    class Operator:
        shape, dtype, solves = (10, 10), np.dtype(float), 0

        def matvec(self, v):
            return np.arange(1, 11) * v

        def psolve(self, r):
            self.solves += 1
            return r / np.arange(1, 11)

    A = Operator()
    keywords = {"scale": 1.0} if solver is krylov.neumann else {}
    assert solver(A, np.ones(10), **keywords).niter == 1
    assert A.solves > 0


FORMS = {
    "ndarray": lambda a: a.toarray(),
    "fortran": lambda a: np.asfortranarray(a.toarray()),
    "csr": lambda a: a,
    "matrix": lambda a: sp.csr_matrix(a),
    "csc": lambda a: a.tocsc(),
    "coo": lambda a: a.tocoo(),
    "dia": lambda a: a.todia(),
    "lil": lambda a: a.tolil(),
    "int64": lambda a: sp.csr_array(
        (a.data, a.indices.astype(np.int64), a.indptr.astype(np.int64)), shape=a.shape
    ),
    "aslinearoperator": lambda a: sla.aslinearoperator(a),
    "LinearOperator": lambda a: sla.LinearOperator(a.shape, matvec=lambda v: a @ v, dtype=a.dtype),
    "callable": lambda a: lambda v: a @ v,
    "column": lambda a: lambda v: (a @ v)[:, None],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_operator(solver, form, dtype):
    A, b = poisson(5, dtype), vector(25, dtype)
    res = solver(FORMS[form](A), b, rtol=1e-3, maxiter=300)
    expected = solver(A.toarray(), b, rtol=1e-3, maxiter=300)
    assert (res.outcome, res.niter) == (Outcome.CONVERGED, expected.niter)
    np.testing.assert_allclose(res.x, expected.x, rtol=0, atol=1e4 * epsilon(dtype))


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_preconditioner(solver, form):
    A, b = poisson(5), vector(25)
    M = sp.csr_array(sp.linalg.inv(A.tocsc() + 2 * sp.eye_array(25, format="csc")))
    res, expected = (solver(A, b, M=m, rtol=1e-4, maxiter=300) for m in (FORMS[form](M), M))
    assert (res.outcome, res.niter) == (Outcome.CONVERGED, expected.niter)
    np.testing.assert_allclose(res.x, expected.x, atol=1e-10)


def test_our_preconditioner_in_scipys_solvers(dtype):
    A, b = poisson(6, dtype), vector(36, dtype)
    x, info = sla.cg(A, b, M=krylov.JacobiPreconditioner(A.diagonal()), rtol=1e-4)
    assert info == 0
    np.testing.assert_allclose(A @ x, b, atol=1e-3)


def test_out_receives_the_solution(solver, dtype):
    A, b, out = spd(dtype, 8, 4.0), vector(8, dtype), np.full(8, np.nan, dtype)
    res = solver(A, b, out=out, rtol=1e-3)
    assert res.x is out
    assert np.array_equal(out, solver(A, b, rtol=1e-3).x)
    start = vector(8, dtype, 1)
    assert np.array_equal(
        solver(A, b, start, out=out, rtol=1e-3).x, solver(A, b, start, rtol=1e-3).x
    )


def test_out_may_be_the_start(solver):
    A, b, x = spd(float, 8, 4.0), vector(8), vector(8, seed=1)
    expected = solver(A, b, x.copy(), rtol=1e-3).x
    assert np.array_equal(solver(A, b, x, out=x, rtol=1e-3).x, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_smallest_systems(solver, n, dtype):
    res = solver(2 * np.eye(n, dtype=dtype), np.ones(n, dtype))
    assert (res.info, res.outcome) == (0, Outcome.CONVERGED)
    np.testing.assert_allclose(res.x, np.full(n, 0.5))
