"""What learning rates do to a step and to what is learnt from it."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from networks import classifier

import krylov.torch as kt
from krylov.torch.optim.local_model import LocalModel

LM = kt.LevenbergMarquardt(0.3)
OPTIMIZERS = {
    "hf": (kt.HessianFree, {"damping": 0.3}),
    "hf-dense": (
        kt.HessianFree,
        {
            "damping": kt.LevenbergMarquardt(0.3, judge="length"),
            "solver": "dense",
            "line_search": kt.GridSearch(),
        },
    ),
    "hf-subspace": (kt.HessianFree, {"damping": 0.3, "solver": "subspace"}),
    "hf-hessian": (kt.HessianFree, {"damping": 0.3, "curvature": "hessian", "solver": "cg"}),
    "newton": (kt.NewtonCG, {"damping": 0.3, "warm_start": 0.9}),
    "newton-lm": (kt.NewtonCG, {"damping": LM, "warm_start": 0.9}),
    "newton-armijo": (
        kt.NewtonCG,
        {"damping": LM, "line_search": kt.Armijo(), "curvature": "ggn", "warm_start": 0.9},
    ),
}


def built(name, groups=1, **more):
    problem = classifier()
    kind, options = OPTIMIZERS[name]
    given = problem.parameters
    if groups > 1:
        given = [{"params": [p]} for p in given]
    return problem, kind(given, **{**options, **more})


def key(optimizer):
    return {k: v for k, v in optimizer.state_dict().items() if isinstance(v, dict) and v}


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_changes_nothing(name, groups, judged):
    problem, optimizer = built(name, groups, lr=0.0)
    before = problem.read()
    for _ in range(3):
        if judged:
            loss = optimizer.step_batches(
                problem.closure, gradient=problem.batches(12), evaluation=problem.batches(4)[:1]
            )
        else:
            loss = optimizer.step(problem)
        record = optimizer.last_step
        assert torch.equal(problem.read(), before)
        assert optimizer.damping == record.damping == 0.3
        assert not record.accepted
        assert record.alpha == 0
        assert record.loss_before == record.loss_after == pytest.approx(loss.item())
        assert math.isnan(record.rho)
        assert record.evaluations == judged  # the loss before
        assert record.escapes == 0
    assert record.products <= 25  # one run a step, no retries


@pytest.mark.parametrize("name", ["hf", "newton-lm"])
def test_training_goes_on_when_the_rate_comes_back(name):
    problem, optimizer = built(name, lr=0.0)
    optimizer.step(problem)
    (own,) = (v for k, v in key(optimizer).items() if "memory" in v)
    assert own["memory"]["direction"] is not None  # for the warm start
    optimizer.param_groups[0]["lr"] = 1.0
    before = float(optimizer.step(problem))
    assert optimizer.last_step.accepted
    assert optimizer.last_step.loss_after < before


@pytest.mark.parametrize("lr", [0.0, 1e-9])
def test_a_frozen_group_does_not_stop_the_others(lr):
    problem = classifier()
    first, *others = problem.parameters
    start = first.detach().clone()
    optimizer = kt.HessianFree([{"params": [first], "lr": lr}, {"params": others}], damping=0.3)
    optimizer.step(problem)
    assert optimizer.last_step.accepted
    torch.testing.assert_close(first.detach(), start, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["hf", "hf-dense", "hf-subspace", "hf-hessian", "newton-lm", "newton-armijo"]
)
@pytest.mark.parametrize("lr", [0.1, 0.5, 1.7])
def test_one_rate_for_all_costs_no_product_and_predicts_the_same(name, lr, monkeypatch):
    """The closed form is what a product gives."""
    asked = []
    closed = LocalModel.value_of

    def compared(self, iterate, step):
        found = closed(self, iterate, step)
        before = self.operator.count
        assert closed(self, iterate, step) == found
        assert self.operator.count == before
        if iterate.iteration:
            asked.append((found, self.value(step, iterate.damping)))
        return found

    monkeypatch.setattr(LocalModel, "value_of", compared)
    problem, optimizer = built(name, lr=lr)
    for _ in range(4):
        optimizer.step(problem)
    assert asked
    for found, wanted in asked:
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["hf", "newton-lm"])
def test_rates_of_groups_take_a_product(name):
    counts = []
    for rates in ([0.5] * 4, [0.5, 0.5, 0.5, 0.25]):
        problem, optimizer = built(name, 4, warm_start=0.0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step(problem)
        counts.append(optimizer.last_step.products)
    assert counts[1] == counts[0] + 1
