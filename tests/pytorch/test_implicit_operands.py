"""What A and M may be in a differentiable solve."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import krylov

torch = pytest.importorskip("torch")
from implicit_cases import (  # noqa: E402
    B2,
    EYE,
    INDICES,
    MATRIX,
    THETA,
    TIGHT,
    VALUES,
    B,
    Duck,
    N,
    ReversibleDuck,
    by_product,
    definite,
    record_solves,
    sparse,
    square,
)
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from krylov.torch.implicit import solve  # noqa: E402


@pytest.fixture
def counted(monkeypatch):
    return record_solves(monkeypatch)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("b", [B, B2], ids=["one", "columns"])
@pytest.mark.parametrize("method", ["cg", "bicgstab"])
def test_sparse(layout, b, method):
    def symmetric(values):
        return torch.cat([values[:6], values[6:7], values[6:7], values[8:9], values[8:9]])

    def function(values, b):
        values = symmetric(values) if method == "cg" else values
        return solve(sparse(values, layout), b, method, **TIGHT)

    assert gradcheck(function, (VALUES, b))


def test_sparse_with_repeated_entries():
    indices = torch.cat([INDICES, torch.tensor([[0], [4]])], 1)
    assert gradcheck(
        lambda v, b: solve(sparse(torch.cat([v, v[:1]]), indices=indices), b, "bicgstab", **TIGHT),
        (VALUES, B),
    )


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradient_of_a_sparse_tensor_has_its_pattern(layout, dtype):
    values = VALUES.detach().to(dtype)
    if dtype.is_complex:
        values = values * torch.exp(0.1j * torch.arange(10))
    A = sparse(values, layout).requires_grad_()
    b = B.detach().to(dtype)
    solve(A, b, "bicgstab", **TIGHT).abs().sum().backward()
    assert A.grad.layout == A.layout
    dense = A.detach().to_dense().requires_grad_()
    torch.linalg.solve(dense, b).abs().sum().backward()
    torch.testing.assert_close(A.grad.to_dense(), dense.grad * (dense.detach() != 0))


def test_second_derivatives_in_a_sparse_tensor_are_refused():
    x = solve(sparse(VALUES), B, "bicgstab")
    with pytest.raises(RuntimeError, match=r"second derivatives in a sparse.*index_add"):
        x.sum().backward(create_graph=True)


CONSTANTS = {
    "ndarray": MATRIX.toarray(),
    "csr_array": MATRIX,
    "csr_matrix": sp.csr_matrix(MATRIX),
    "coo_array": sp.coo_array(MATRIX),
    "aslinearoperator": aslinearoperator(MATRIX),
    "LinearOperator": LinearOperator(
        (N, N), matvec=lambda x: MATRIX @ x, rmatvec=lambda x: MATRIX.T @ x, dtype=np.float64
    ),
    "integers": MATRIX.toarray().astype(int),
    "tensor": torch.from_numpy(MATRIX.toarray()),
    **{
        layout: sparse(
            torch.from_numpy(MATRIX.tocoo().data),
            layout,
            torch.from_numpy(np.stack(MATRIX.tocoo().coords)),
        )
        for layout in ("to_sparse", "to_sparse_csr", "to_sparse_csc")
    },
}


@pytest.mark.parametrize("A", CONSTANTS.values(), ids=CONSTANTS)
def test_constant_matrix(A):
    truth = torch.from_numpy(MATRIX.toarray())
    x = solve(A, B2, "bicgstab", **TIGHT)
    torch.testing.assert_close(x, torch.linalg.solve(truth, B2))
    assert gradcheck(lambda b: solve(A, b, "bicgstab", **TIGHT), (B2,))
    assert gradgradcheck(lambda b: solve(A, b, "bicgstab", **TIGHT).square(), (B,))


def preconditioners():
    inverse = torch.linalg.inv(square(THETA.detach())) + 0.01 * EYE
    matrix = inverse.numpy()
    return {
        "tensor": inverse,
        "sparse tensor": sparse(1 / VALUES.detach()[:6], indices=INDICES[:, :6]),
        "ndarray": matrix,
        "LinearOperator": aslinearoperator(matrix),
        "without rmatvec": LinearOperator((N, N), matvec=lambda x: matrix @ x, dtype=np.float64),
        "callable": lambda r: inverse @ r,
        "opaque callable": lambda r: torch.from_numpy(matrix @ r.detach().numpy()),
        "object": Duck(inverse),
        "object with rmatvec": ReversibleDuck(inverse),
        "jacobi": krylov.JacobiPreconditioner(np.full(N, 7.0)),
        "lbfgs": krylov.LBFGSPreconditioner(N, 2),
    }


@pytest.mark.parametrize("M", preconditioners().values(), ids=preconditioners())
def test_preconditioner(M):
    assert gradcheck(lambda t, b: solve(square(t), b, "bicgstab", M=M, **TIGHT), (THETA, B))


@pytest.mark.parametrize("name", ["tensor", "callable", "LinearOperator", "object with rmatvec"])
def test_the_adjoint_solve_has_the_adjoint_preconditioner(name, counted):
    """With M = A^-1 both solves take one iteration; with M for M^H the backward one would take more."""
    theta = THETA.detach()
    inverse = torch.linalg.inv(square(theta))
    M = {
        "tensor": inverse,
        "callable": lambda r: inverse @ r,
        "LinearOperator": aslinearoperator(inverse.numpy()),
        "object with rmatvec": ReversibleDuck(inverse),
    }[name]
    solve(square(theta), B, "bicgstab", M=M, rtol=1e-10).sum().backward(inputs=[B])
    assert [result.niter for result in counted] == [1, 1]


def test_preconditioner_that_learns():
    M = krylov.RitzPreconditioner(N, 3)
    M.harvest = True
    assert gradcheck(
        lambda t, b: solve(definite(t), b, "flexible_cg", M=M, **TIGHT), (THETA, B), nondet_tol=1e-9
    )


def test_explicit_adjoint():
    calls = []

    def reverse(v):
        calls.append(1)
        return square(THETA).mT @ v

    def function(theta, b):
        return solve(by_product(square(theta)), b, "bicgstab", adjoint=reverse, **TIGHT)

    function(THETA, B).sum().backward(inputs=[B])
    assert calls
    truth = torch.linalg.solve(square(THETA), B)
    for name in (B, THETA):
        ours = torch.autograd.grad(function(THETA, B).sum(), name)
        torch.testing.assert_close(ours, torch.autograd.grad(truth.sum(), name, retain_graph=True))
    assert gradgradcheck(
        lambda t, b: solve(square(t), b, "bicgstab", adjoint=square(t).mT, **TIGHT), (THETA, B)
    )


def test_adjoint_of_a_scipy_operator():
    opaque = LinearOperator((N, N), matvec=lambda x: MATRIX @ x, dtype=np.float64)
    assert gradcheck(lambda b: solve(opaque, b, "bicgstab", adjoint=MATRIX.T, **TIGHT), (B,))
