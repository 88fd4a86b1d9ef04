"""The Jacobian of the outputs as a matrix."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import itertools

from torch import nn

import krylov.torch as kt
from krylov.torch.jacobian import _by_samples, jacobian


def network(*widths, seed=0, dtype=torch.float64, bias=True):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def points(count, width=2, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, width, generator=generator, dtype=dtype)


def derivatives(u, x):
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def laplacian(model, x):
    x = x.clone().requires_grad_()
    slopes = derivatives(model(x), x)
    return sum(derivatives(slopes[:, i], x)[:, i] for i in range(2))


def poisson(model):
    return torch.cat([laplacian(model, points(7)) / 3, model(points(4, seed=2))[:, 0]])


def two_points(model):
    return model(points(6))[:, 0] - model(points(6, seed=3))[:, 0]


def convection(model):
    x = points(5).requires_grad_()
    slopes = derivatives(model(x), x)
    return slopes[:, 1] + 30 * slopes[:, 0]


def burgers(model):
    x = points(5).requires_grad_()
    u = model(x)[:, 0]
    slopes = derivatives(u, x)
    return slopes[:, 1] + u * slopes[:, 0] - 0.1 * derivatives(slopes[:, 0], x)[:, 0]


def quadrature(model):
    """Two samples to each output."""
    return model(points(8))[:, 0].reshape(4, 2).mean(1)


def reordered(model):
    return model(points(8))[:, 0].flip(0) * torch.arange(8)


def mixed(model):
    """Every output depends on every sample."""
    u = model(points(5))[:, 0]
    return u - u.mean()


def several_outputs(model):
    return model(points(3)) * torch.ones(1, 2, dtype=torch.float64)


def functional(model):
    """Weights as the first factor of a product: the samples are columns."""
    first, last = model[0], model[2]
    return (last.weight @ torch.tanh(first.weight @ points(6).T)).flatten()


QUICK = {
    "poisson": poisson,
    "two points": two_points,
    "convection": convection,
    "burgers": burgers,
    "quadrature": quadrature,
    "reordered": reordered,
    "functional": functional,
}
SLOW = {"mixed": mixed, "several outputs": several_outputs}


def graph_of(outputs_of, model):
    operator = kt.GaussNewtonOperator(
        lambda: outputs_of(model), lambda outputs: outputs.square().sum(), model.parameters()
    )
    ((_, graph),) = operator.graphs()
    return graph, operator.parameters


def naive(outputs_of, model):
    outputs = outputs_of(model).flatten()
    rows = []
    for output in outputs:
        parts = torch.autograd.grad(
            output, list(model.parameters()), retain_graph=True, allow_unused=True
        )
        parts = [
            torch.zeros_like(p) if g is None else g
            for g, p in zip(parts, model.parameters(), strict=True)
        ]
        rows.append(torch.cat([g.flatten() for g in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_that_of_autograd(name, bias):
    outputs_of, model = {**QUICK, **SLOW}[name], network(2, 5, 1, bias=bias)
    J, passes = jacobian(*graph_of(outputs_of, model))
    assert passes == 3 + (len(J) if name in SLOW else 0)
    torch.testing.assert_close(J, naive(outputs_of, model), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_outer_products_are_taken_where_they_are_right_and_nowhere_else(name):
    outputs_of, model = {**QUICK, **SLOW}[name], network(2, 5, 4, 1)
    if name == "functional":
        model = network(2, 5, 1)
    graph, parameters = graph_of(outputs_of, model)
    found = _by_samples(graph, parameters)
    assert (found is not None) == (name in QUICK)


def test_parameters_outside_affine_layers_are_not_forgotten():
    model = nn.Sequential(network(2, 5, 1), nn.PReLU(dtype=torch.float64))
    graph, parameters = graph_of(lambda m: m(points(6) - 0.5)[:, 0], model)
    assert _by_samples(graph, parameters) is None
    wanted = naive(lambda m: m(points(6) - 0.5)[:, 0], model)
    torch.testing.assert_close(jacobian(graph, parameters)[0], wanted)


def test_a_parameter_of_little_influence_is_not_forgotten():
    model = network(2, 5, 1)
    model.slight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def outputs_of(m):
        x = points(6)
        return m[:3](x)[:, 0] + 1e-20 * m.slight * x[:, 0]

    J, _ = jacobian(*graph_of(outputs_of, model))
    wanted = naive(outputs_of, model)
    assert wanted[:, -1].abs().max() > 0
    torch.testing.assert_close(J[:, -1], wanted[:, -1], rtol=1e-12, atol=0)


def test_float32():
    model = network(2, 5, 1, dtype=torch.float32)

    def outputs_of(model):
        return laplacian(model, points(40, dtype=torch.float32))

    graph, parameters = graph_of(outputs_of, model)
    assert _by_samples(graph, parameters) is not None
    J, _ = jacobian(graph, parameters)
    torch.testing.assert_close(J, naive(outputs_of, model), rtol=1e-4, atol=1e-5)
