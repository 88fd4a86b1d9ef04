"""What users of SciPy's operators expect of an operator on parameters: transpose, adjoint, products from both sides."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

from curvature_cases import CASES, draw

import krylov.torch as kt

CASE = CASES[0]
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


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_from_both_sides(kind, product):
    A, truth = getattr(CASE, f"{kind}_operator")(shift=0.5), getattr(CASE, f"dense_{kind}")()
    apply, expected, count = PRODUCTS[product]
    v, V = draw(36), draw(36, 3)
    dense = truth + 0.5 * torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(apply(A, v, V), expected(dense, v, V), rtol=1e-10, atol=1e-11)
    assert A.count == count


def test_refusals_name_the_shape():
    A = CASE.hessian_operator()
    for wrong in (lambda: draw(35) @ A, lambda: draw(3, 35) @ A, lambda: A.rmatvec(draw(36, 2))):
        with pytest.raises(ValueError, match=r"must have shape \(36,"):
            wrong()


def test_gradients_of_a_solve_that_needs_the_adjoint():
    A, b = CASE.hessian_operator(shift=5.0), draw(36).requires_grad_()
    w = draw(36, seed=5)
    x = kt.solve(A, b, method="bicgstab", rtol=1e-12)
    (found,) = torch.autograd.grad(x @ w, b)
    dense = CASE.dense_hessian() + 5 * torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(found, torch.linalg.solve(dense, w), rtol=1e-8, atol=1e-9)
