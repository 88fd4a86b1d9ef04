"""What changes between the construction of an operator and a product is noticed."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

from curvature_cases import KINDS, X, draw, mlp, model_operator, squared
from torch import nn

import krylov.torch as kt

torch.set_num_threads(1)


CHANGES = {
    "optimizer": lambda p: torch.optim.SGD(p, lr=0.1).step(),
    "foreach": lambda p: torch._foreach_add_([q.detach() for q in p], 0.1),
    "last bias": lambda p: p[-1].detach().add_(1.0),
    "first weight": lambda p: p[0].detach().mul_(1.1),
    "data": lambda p: [q.data.add_(0.1) for q in p],
    "new data": lambda p: setattr(p[0], "data", p[0].data * 1.1),
    "vector": lambda p: nn.utils.vector_to_parameters(torch.zeros(36).double(), p),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["graph", "none"])
@pytest.mark.parametrize("name", CHANGES)
def test_parameters_changed_after_the_construction(name, kind, cache):
    model = mlp().double()
    A = model_operator(kind, model, cache=cache)
    parameters = list(model.parameters())
    squared(model(X)).backward()
    A @ draw(36)  # a backward pass in between changes nothing
    CHANGES[name](parameters)
    with pytest.raises(RuntimeError, match="Build a new operator after each step"):
        A @ draw(36)
    with pytest.raises(RuntimeError, match="Build a new operator"):
        A @ draw(36, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_evaluated_elsewhere_in_between(kind):
    model = mlp().double()
    A = model_operator(kind, model)
    product = A @ draw(36)
    space = kt.Parameters(model.parameters())
    with space.at(space.read() + 1):
        model(X)
    assert torch.equal(A @ draw(36), product)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_overwritten_after_the_construction(kind):
    x = X.clone()
    A = model_operator(kind, mlp().double(), x=x)
    x.zero_()
    with pytest.raises(RuntimeError, match="was overwritten"):
        A @ draw(36)
    B = model_operator(kind, mlp().double(), x=x, cache="none")
    x.add_(1)
    with pytest.raises(RuntimeError, match="cache='graph'"):
        B @ draw(36)
