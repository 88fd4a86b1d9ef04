"""Operators on parameters in solvers, transposed and from both sides, and with whatever is given to them."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg

torch = pytest.importorskip("torch", minversion="2.6")

from curvature_cases import FIRST, KINDS, Case, X, close, cross_entropy, dense, draw, mlp, operator
from hypothesis import given, settings
from hypothesis import strategies as st

import krylov
import krylov.torch as kt

torch.set_num_threads(1)

PRODUCTS = {
    "rmatvec": (lambda A, v, V: A.rmatvec(v), lambda D, v, V: D.T @ v, 1),
    "rmatmat": (lambda A, v, V: A.rmatmat(V), lambda D, v, V: D.T @ V, 3),
    "dot, vector": (lambda A, v, V: A.dot(v), lambda D, v, V: D @ v, 1),
    "dot, matrix": (lambda A, v, V: A.dot(V), lambda D, v, V: D @ V, 3),
    "vector @": (lambda A, v, V: v @ A, lambda D, v, V: v @ D, 1),
    "matrix @": (lambda A, v, V: V.T @ A, lambda D, v, V: V.T @ D, 3),
    "T": (lambda A, v, V: A.T @ v, lambda D, v, V: D.T @ v, 1),
    "H": (lambda A, v, V: A.H @ v, lambda D, v, V: D.T @ v, 1),
    "transpose": (lambda A, v, V: A.transpose() @ V, lambda D, v, V: D.T @ V, 3),
    "adjoint": (lambda A, v, V: A.adjoint() @ V, lambda D, v, V: D.T @ V, 3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_from_both_sides(kind, product):
    A, truth = operator(FIRST, kind, shift=0.5), dense(FIRST, kind)
    apply, expected, count = PRODUCTS[product]
    v, V = draw(36), draw(36, 3)
    shifted = truth + 0.5 * torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(apply(A, v, V), expected(shifted, v, V), rtol=1e-10, atol=1e-11)
    assert A.count == count


def test_refusals_name_the_shape():
    A = FIRST.hessian_operator()
    for wrong in (lambda: draw(35) @ A, lambda: draw(3, 35) @ A, lambda: A.rmatvec(draw(36, 2))):
        with pytest.raises(ValueError, match=r"must have shape \(36,"):
            wrong()


def test_gradients_of_a_solve_that_needs_the_adjoint():
    A, b = FIRST.hessian_operator(shift=5.0), draw(36).requires_grad_()
    w = draw(36, seed=5)
    x = kt.solve(A, b, method="bicgstab", rtol=1e-12)
    (found,) = torch.autograd.grad(x @ w, b)
    shifted = FIRST.dense_hessian() + 5 * torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(found, torch.linalg.solve(shifted, w), rtol=1e-8, atol=1e-9)


# In solvers.


@pytest.mark.parametrize("kind", KINDS)
def test_krylov_solves_with_the_operator_itself(kind):
    A = operator(FIRST, kind, shift=3.0)
    result = krylov.cg(A, -A.gradient, rtol=1e-10)
    assert result.outcome is krylov.Outcome.CONVERGED
    truth = dense(FIRST, kind) + 3 * torch.eye(36, dtype=torch.float64)
    close(result.x, torch.linalg.solve(truth, -A.gradient), 1e-8)
    assert A.count == result.nmatvec
    x = kt.solve(A, -A.gradient, rtol=1e-10)
    close(x, result.x, 1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_scipy_solves_with_it(kind, precision):
    case = Case("", mlp, X, cross_entropy)
    truth = dense(case, kind).numpy()
    case.model, case.x = case.model.to(precision), X.to(precision)
    A = operator(case, kind)
    L = A.to_scipy()
    assert L.shape == (36, 36)
    assert L.dtype == np.dtype(str(precision).removeprefix("torch."))
    tolerance = 1e-5 if precision == torch.float32 else 1e-10
    b = np.ones(36, L.dtype)
    b.flags.writeable = False
    np.testing.assert_allclose(L @ b, truth @ b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(L @ np.eye(36, dtype=L.dtype), truth, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(L.T @ b[:, None], truth @ b[:, None], rtol=tolerance, atol=tolerance)
    A.shift = 2.0
    x, info = scipy.sparse.linalg.cg(L, b, rtol=tolerance)
    assert info == 0
    expected = np.linalg.solve(truth + 2 * np.eye(36), b)
    np.testing.assert_allclose(x, expected, rtol=20 * tolerance, atol=20 * tolerance)


# Bad vectors.


@pytest.mark.parametrize(
    ("v", "error", "words"),
    [
        (np.ones(36), TypeError, "to_scipy"),
        ([1.0] * 36, TypeError, "torch tensor, not list"),
        (torch.ones(35).double(), ValueError, r"\(36,\) or \(36, k\)"),
        (torch.ones(36, 2, 2).double(), ValueError, r"\(36,\) or \(36, k\)"),
        (torch.ones(36), TypeError, "float32"),
        (torch.ones(36, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(36, dtype=torch.complex128), TypeError, "complex128"),
        (torch.ones(36, dtype=torch.float64, device="meta"), TypeError, "meta"),
        (torch.ones(()).double(), ValueError, r"\(36,\)"),
    ],
)
def test_wrong_vectors(v, error, words):
    for A in (FIRST.hessian_operator(), FIRST.gauss_newton_operator()):
        with pytest.raises(error, match=words):
            A @ v
        assert A.count == 0


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0, 1, 2, 35, 36]), max_size=3),
    st.sampled_from(DTYPES),
    st.sampled_from(["tensor", "array", "list"]),
    st.sampled_from(["@", "matvec", "matmat"]),
)
def test_whatever_is_given_is_multiplied_or_refused_by_name(shape, dtype, kind, way):
    value = torch.ones(shape, dtype=dtype)
    if kind == "array":
        value = value.real.float().numpy()
    elif kind == "list":
        value = value.tolist()
    A = FIRST.gauss_newton_operator()
    multiply = A.__matmul__ if way == "@" else getattr(A, way)
    wanted = {"@": (1, 2), "matvec": (1,), "matmat": (2,)}[way]
    if kind == "tensor" and dtype == torch.float64 and len(shape) in wanted and shape[0] == 36:
        assert list(multiply(value).shape) == shape
    else:
        with pytest.raises((TypeError, ValueError), match=r"^[vV] (must|is)"):
            multiply(value)


def test_vectors_where_matrices_belong():
    A = FIRST.hessian_operator()
    with pytest.raises(ValueError, match=r"v must have shape \(36,\)"):
        A.matvec(draw(36, 1))
    with pytest.raises(ValueError, match=r"V must have shape \(36, k\)"):
        A.matmat(draw(36))


def test_vectors_in_any_memory():
    A = FIRST.hessian_operator()
    V = draw(36, 4)
    close(A @ V[:, 1], A @ V[:, 1].clone())
    close(A @ V.T.contiguous().T, A @ V)
    before = V.clone()
    A.shift = 1.0
    A @ V
    assert torch.equal(V, before)
