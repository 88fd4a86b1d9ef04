"""The differentiable solve: values, first and second derivatives."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from implicit_cases import (  # noqa: E402
    B2,
    EYE,
    THETA,
    TIGHT,
    WEIGHTS,
    B,
    Duck,
    N,
    ReversibleDuck,
    by_product,
    complexify,
    definite,
    square,
)
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from krylov.torch.implicit import solve  # noqa: E402


def curvature(theta):
    """A Hessian product by two backward passes, as users write it."""
    at = torch.linspace(-1, 1, N, dtype=theta.dtype, requires_grad=True)
    loss = torch.cosh(theta @ at).sum() + at.square().sum()
    (gradient,) = torch.autograd.grad(loss, at, create_graph=True)

    def multiply(v):
        return torch.autograd.grad(gradient, at, v, create_graph=True)[0]

    return multiply


def rebuilt_curvature(theta):
    """The same, with the graph built in every product: it needs gradient mode."""
    return lambda v: curvature(theta)(v)


def dense_curvature(theta):
    at = torch.linspace(-1, 1, N, dtype=theta.dtype)
    return theta.mT @ torch.diag(torch.cosh(theta @ at)) @ theta + 2 * EYE


# Name: (A of theta, the same as a dense matrix, method, options).
CASES = {
    "dense": (definite, definite, "cg", {}),
    "dense, flexible": (definite, definite, "flexible_cg", {}),
    "dense, bicgstab": (square, square, "bicgstab", {}),
    "dense, neumann": (square, square, "neumann", {"scale": 0.1, "maxiter": 500}),
    "product": (lambda t: by_product(definite(t)), definite, "cg", {}),
    "two products": (lambda t: lambda v: t @ (t.mH @ v) + v, definite, "cg", {}),
    "product, bicgstab": (lambda t: by_product(square(t)), square, "bicgstab", {}),
    "product, neumann": (
        lambda t: by_product(square(t)),
        square,
        "neumann",
        {"scale": 0.1, "maxiter": 500},
    ),
    "object": (lambda t: Duck(definite(t)), definite, "cg", {}),
    "object, bicgstab": (lambda t: Duck(square(t)), square, "bicgstab", {}),
    "object with rmatvec": (lambda t: ReversibleDuck(square(t)), square, "bicgstab", {}),
    "curvature": (curvature, dense_curvature, "cg", {}),
    "curvature, bicgstab": (curvature, dense_curvature, "bicgstab", {}),
    "rebuilt curvature": (rebuilt_curvature, dense_curvature, "cg", {}),
    "rebuilt curvature, bicgstab": (rebuilt_curvature, dense_curvature, "bicgstab", {}),
}


@pytest.fixture(params=CASES)
def case(request):
    make, dense, method, options = CASES[request.param]

    def ours(theta, b):
        return solve(make(theta), b, method, **TIGHT, **options)

    def truth(theta, b):
        return torch.linalg.solve(dense(theta), b)

    return ours, truth


@pytest.mark.parametrize("b", [B, B2], ids=["one", "columns"])
def test_values_and_gradients_are_those_of_a_direct_solve(case, b):
    results = []
    for function in case:
        x = function(THETA, b)
        results.append(
            [x, *torch.autograd.grad((x.sin() * WEIGHTS[: x.shape[-1]]).sum(), (THETA, b))]
        )
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("b", [B, B2], ids=["one", "columns"])
def test_second_derivatives_are_those_of_a_direct_solve(case, b):
    results = []
    for function in case:
        first = torch.autograd.grad(function(THETA, b).sin().sum(), (THETA, b), create_graph=True)
        both = sum((g * g.detach().cos()).sum() for g in first)
        results.append(torch.autograd.grad(both, (THETA, b)))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-10)


def test_gradcheck(case):
    assert gradcheck(case[0], (THETA, B))


@pytest.mark.parametrize("case", ["dense", "dense, bicgstab", "product, bicgstab"], indirect=True)
@pytest.mark.parametrize("b", [B, B2], ids=["one", "columns"])
def test_gradgradcheck(case, b):
    assert gradgradcheck(case[0], (THETA, b))


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize(
    ("shape", "method"),
    [(definite, "cg"), (lambda t: t + 9 * EYE, "bicgstab")],
    ids=["cg", "bicgstab"],
)
@pytest.mark.parametrize("form", [lambda a: a, by_product], ids=["dense", "product"])
def test_complex(check, shape, method, form):
    def function(theta, b):
        return solve(form(shape(complexify(theta))), torch.complex(b, b.square()), method, **TIGHT)

    assert check(function, (THETA, B))


def test_value_and_gradient_in_one_loss():
    """First and second derivatives meet in the same backward pass."""

    def total(function):
        f = function(THETA, B).sin().sum()
        gradients = torch.autograd.grad(f, (THETA, B), create_graph=True)
        return f + sum(g.square().sum() for g in gradients)

    truth = torch.autograd.grad(total(lambda t, b: torch.linalg.solve(square(t), b)), (THETA, B))
    ours = torch.autograd.grad(
        total(lambda t, b: solve(by_product(square(t)), b, "bicgstab", **TIGHT)), (THETA, B)
    )
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


def test_second_derivatives_of_a_product_with_cancellation():
    """What comes back to x by several ways must cancel to the bit, not to the rounding of each way."""

    def ours(theta, b):
        large = 1e6 * theta

        def multiply(v):
            return (large / 3) @ v + definite(theta) @ v - (large / 7) @ v - (large * (4 / 21)) @ v

        return solve(multiply, b, rtol=1e-6)

    def truth(theta, b):
        return torch.linalg.solve(definite(theta), b)

    results = []
    for function in (ours, truth):
        (first,) = torch.autograd.grad(function(THETA, B).sin().sum(), THETA, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), THETA))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_hessian_of_a_parameter_in_a_product():
    width = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    points = torch.linspace(0, 1, 20, dtype=torch.float64)

    def covariance(width):
        squares = ((points[:, None] - points) / width) ** 2
        return torch.exp(-squares) + 0.1 * torch.eye(20, dtype=torch.float64)

    def likelihood(width):
        return torch.sin(6 * points) @ solve(lambda v: covariance(width) @ v, points.cos(), **TIGHT)

    def truth(width):
        return torch.sin(6 * points) @ torch.linalg.solve(covariance(width), points.cos())

    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(hessian(likelihood, width), hessian(truth, width), rtol=1e-8, atol=0)


def test_third_derivatives_are_refused():
    x = solve(definite(THETA), B, **TIGHT)
    (first,) = torch.autograd.grad(x.sin().sum(), THETA, create_graph=True)
    (second,) = torch.autograd.grad(first.sin().sum(), THETA, create_graph=True)
    with pytest.raises(RuntimeError, match="this is a third"):
        torch.autograd.grad(second.sum(), THETA)


def test_any_derivative_while_the_matrix_is_constant():
    A = definite(THETA).detach()
    cube = torch.autograd.grad(solve(A, B, **TIGHT).pow(3).sum(), B, create_graph=True)[0]
    for _ in range(2):
        (cube,) = torch.autograd.grad(cube.sum(), B, create_graph=True)
    inverse = torch.linalg.inv(A)
    torch.testing.assert_close(cube, 6 * (inverse.T @ inverse.sum(1).pow(2)))


def test_gradient_reaches_a_tensor_in_between_and_beyond():
    kernel = definite(THETA)
    kernel.retain_grad()
    x = solve(lambda v: kernel @ v, B, **TIGHT)
    theta_gradient, kernel_gradient = torch.autograd.grad(
        x.sum(), (THETA, kernel), retain_graph=True
    )
    u = torch.linalg.solve(kernel, torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(kernel_gradient, -torch.outer(u, x))
    torch.testing.assert_close(
        theta_gradient, torch.autograd.grad(kernel, THETA, -torch.outer(u, x))[0]
    )
