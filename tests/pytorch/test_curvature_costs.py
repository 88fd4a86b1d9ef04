"""What operators on parameters cost in operations, and that their memory goes with them."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import gc
import itertools
import weakref

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import (
    KINDS,
    X,
    draw,
    mlp,
    squared,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import krylov.torch as kt

torch.set_num_threads(1)


class Costs:
    """In gradients of the network of the papers' size."""

    def __init__(self):
        widths = itertools.pairwise([784, 512, 512, 512, 10])
        parts = [part for a, b in widths for part in (nn.Linear(a, b), nn.Sigmoid())]
        self.model = nn.Sequential(*parts[:-1])
        self.x, self.y = torch.randn(32, 784), torch.randint(10, (32,))
        self.parameters = list(self.model.parameters())
        self.gradient = self.count(
            lambda: torch.autograd.grad(self.loss(self.model(self.x)), self.parameters)
        )

    def loss(self, z):
        return F.cross_entropy(z, self.y)

    def hessian(self):
        return kt.HessianOperator(lambda: self.loss(self.model(self.x)), self.parameters)

    def gauss_newton(self):
        return kt.GaussNewtonOperator(lambda: self.model(self.x), self.loss, self.parameters)

    def count(self, work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    def __call__(self, work):
        return self.count(work) / self.gradient


@pytest.mark.parametrize(("kind", "limit"), [("hessian", 1.75), ("gauss_newton", 1.30)])
def test_floating_point_operations(kind, limit):
    costs = Costs()
    make = getattr(costs, kind)
    assert costs(make) <= 1.1
    A = make()
    v = torch.ones(A.shape[0])
    assert costs(lambda: A @ v) <= limit
    assert costs(lambda: A @ torch.stack([v, v, v], 1)) <= 3 * limit
    assert costs(lambda: A.gradient) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["graph", "none"])
def test_nothing_stays_alive(kind, cache):
    """Without the collector of cycles: memory of graphs must go at once."""
    model = mlp().double()
    seen = []

    def outputs(batch):
        z = model(batch)
        seen.append(weakref.ref(z))
        return z

    gc.disable()
    try:
        if kind == "hessian":
            A = kt.HessianOperator(
                lambda batch: squared(outputs(batch)), model.parameters(), data=[X], cache=cache
            )
        else:
            A = kt.GaussNewtonOperator(
                outputs, lambda z, _: squared(z), model.parameters(), data=[X], cache=cache
            )
        A @ draw(36)
        A @ draw(36, 3)
        refs = [*seen, weakref.ref(A), weakref.ref(A._batches)]
        del A
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
