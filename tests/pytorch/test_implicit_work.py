"""What a differentiable solve computes and what it leaves alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from implicit_cases import (  # noqa: E402
    EYE,
    THETA,
    TIGHT,
    VALUES,
    B,
    Counting,
    N,
    by_product,
    definite,
    record_solves,
    sparse,
)

from krylov.torch import HessianOperator  # noqa: E402
from krylov.torch.implicit import solve  # noqa: E402


@pytest.fixture
def counted(monkeypatch):
    return record_solves(monkeypatch)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_adjoint_solve(counted, create_graph):
    A = Counting(definite(THETA))
    x = solve(A, B)
    assert A.count == counted[0].nmatvec + 2
    x.sum().backward(inputs=[THETA, B], create_graph=create_graph)
    assert len(counted) == 2
    assert A.count == counted[0].nmatvec + counted[1].nmatvec + 2 + 2 * create_graph
    THETA.grad = B.grad = None  # a gradient with a graph would keep it alive


def test_constant_products_are_not_repeated(counted):
    A = Counting(definite(THETA).detach())
    solve(A, B).sum().backward(inputs=[B])
    assert A.count == sum(result.nmatvec for result in counted)
    A.count = 0
    counted.clear()
    x = solve(A, B.detach())
    assert not x.requires_grad
    assert A.count == counted[0].nmatvec


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(context, counted):
    A = Counting(definite(THETA))
    with context():
        x = solve(A, B)
    assert not x.requires_grad
    assert A.count == counted[0].nmatvec


def test_curvature_operator_is_constant(counted):
    w = torch.linspace(-1, 1, N, dtype=torch.float64, requires_grad=True)
    H = HessianOperator(lambda: torch.cosh(THETA.detach() @ w).sum() + w @ w, [w])
    (u,) = torch.autograd.grad(solve(H, B, **TIGHT).sum(), B)
    assert H.count == sum(result.nmatvec for result in counted)
    torch.testing.assert_close(H @ u, torch.ones_like(u))


def test_only_b_or_only_a():
    x = solve(definite(THETA).detach(), B, **TIGHT)
    (u,) = torch.autograd.grad(x.sum(), B)
    torch.testing.assert_close(u, torch.linalg.solve(definite(THETA), torch.ones_like(B)).detach())
    x = solve(definite(THETA), B.detach(), **TIGHT)
    truth = torch.linalg.solve(definite(THETA), B.detach())
    torch.testing.assert_close(
        torch.autograd.grad(x.sum(), THETA), torch.autograd.grad(truth.sum(), THETA)
    )


def test_zero_right_hand_side():
    b = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    x = solve(by_product(definite(THETA)), b)
    assert x.eq(0).all()
    theta_gradient, u = torch.autograd.grad(x.sum(), (THETA, b))
    assert theta_gradient.eq(0).all()
    assert u.norm() > 0


@pytest.mark.parametrize("shape", [(0,), (N, 0), (N, 1)])
def test_shape_is_that_of_b(shape):
    b = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    x = solve(torch.eye(shape[0], dtype=torch.float64, requires_grad=True), b)
    assert x.shape == shape
    x.sum().backward()
    torch.testing.assert_close(b.grad, torch.ones_like(b))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str
)
def test_dtypes(dtype):
    A, b = (
        definite(THETA.detach()).to(dtype).requires_grad_(),
        B.detach().to(dtype).requires_grad_(),
    )
    x = solve(A, b, rtol=1e-6)
    assert x.dtype == dtype
    x.abs().sum().backward()
    assert (A.grad.dtype, b.grad.dtype) == (dtype, dtype)
    torch.testing.assert_close(A @ x, b, rtol=1e-4, atol=1e-4)


def test_start():
    A, truth = definite(THETA), torch.linalg.solve(definite(THETA), B).detach()
    x0 = truth.clone().requires_grad_()
    x = solve(A, B, x0=x0, rtol=1e-8, maxiter=0)
    torch.testing.assert_close(x, truth)
    assert x0.grad_fn is None
    assert torch.autograd.grad(x.sum(), x0, allow_unused=True, retain_graph=True) == (None,)
    assert torch.equal(x0.detach(), truth)
    start = torch.stack([truth, truth], 1)
    x = solve(A, torch.stack([B, B], 1), x0=start, rtol=1e-8, maxiter=0)
    torch.testing.assert_close(x.detach(), start)
    x = solve(A, B, x0="Mb", M=torch.linalg.inv(A), rtol=1e-8, maxiter=0)
    torch.testing.assert_close(x, truth)


@pytest.mark.parametrize("A", [definite(THETA), definite(THETA).detach()], ids=["A", "b"])
def test_solution_may_be_changed_in_place(A):
    x = solve(A, B, **TIGHT)
    x[0] = 3.0
    truth = torch.linalg.solve(A, B).clone()
    truth[0] = 3.0
    torch.testing.assert_close(
        torch.autograd.grad(x.sum(), B), torch.autograd.grad(truth.sum(), B, retain_graph=True)
    )


@pytest.mark.parametrize("layout", [None, "to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_matrix_changed_before_the_backward_pass_is_noticed(layout, needs_gradient):
    A = 3 * EYE if layout is None else sparse(VALUES.detach(), layout)
    A = A.coalesce() if layout == "to_sparse" else A
    x = solve(A.requires_grad_(needs_gradient), B, "bicgstab")
    with torch.no_grad():
        A.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_right_hand_side_may_change_before_the_backward_pass():
    b = B.detach().clone().requires_grad_()
    x = solve(3 * EYE, b)
    with torch.no_grad():
        b.zero_()
    x.sum().backward()
    torch.testing.assert_close(b.grad, torch.full_like(b, 1 / 3))


def test_options_reach_both_solves(counted):
    calls = []
    x = solve(definite(THETA), B, callback=lambda x: calls.append(x.shape), atol=1e-12)
    forward = len(calls)
    x.sum().backward(inputs=[B])
    assert forward == counted[0].niter
    assert len(calls) - forward == counted[1].niter > 0


# -------------------------------------------------------------------------------------------------
# Solves that fail


def test_unconverged_forward_solve():
    with pytest.raises(
        RuntimeError, match=r"forward solve ended with ITERATION_LIMIT.*raise maxiter"
    ):
        solve(definite(THETA), B, maxiter=1)
    with pytest.raises(RuntimeError, match=r"forward solve for column 1 ended with"):
        solve(definite(THETA), torch.stack([torch.zeros_like(B), B], 1), maxiter=1)


def test_unconverged_backward_solve():
    x = solve(definite(THETA), torch.zeros_like(B, requires_grad=True), maxiter=1)
    with pytest.raises(RuntimeError, match=r"backward solve ended with ITERATION_LIMIT"):
        x.sum().backward()


def test_unchecked_solve_gives_what_there_is(counted):
    A, b = definite(THETA).detach(), B.detach().clone().requires_grad_()
    x = solve(A, b, maxiter=2, check=False)
    assert torch.equal(x, counted[0].x)
    x.sum().backward()
    assert torch.equal(b.grad, counted[1].x)
    assert not counted[1].outcome.ok


def test_unchecked_second_derivatives_of_rough_solves(counted):
    """What an unconverged adjoint solve leaves is no second derivative: it must not be taken for one."""
    x = solve(definite(THETA), B, rtol=1e-1, maxiter=3, check=False)
    (first,) = torch.autograd.grad(x.sin().sum(), THETA, create_graph=True)
    assert len(counted) == 2
    (second,) = torch.autograd.grad(first.square().sum(), THETA)
    assert second.isfinite().all()


def test_gradient_that_is_not_finite():
    def backward(check):
        b = B.detach().clone().requires_grad_()
        x = solve(definite(THETA.detach()), b, check=check)
        (x * torch.tensor(float("inf"))).sum().backward()
        return b.grad

    with pytest.raises(RuntimeError, match=r"gradient that comes back to kt\.solve is not finite"):
        backward(True)
    assert backward(False).isnan().all()


def test_indefinite_matrix():
    A = torch.diag(torch.tensor([1.0, 2, -1, 3, 4, 5], dtype=torch.float64))
    with pytest.raises(RuntimeError, match="NEGATIVE_CURVATURE"):
        solve(A, torch.ones(N, dtype=torch.float64), curvature="stop")
