"""A physics-informed network: residuals of a differential equation as outputs."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import itertools

from torch import nn

import krylov.torch as kt


def problem(seed=0):
    """-u'' = pi^2 sin(pi x) on [0, 1], u(0) = u(1) = 0."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(1, 12, dtype=torch.float64), nn.Tanh(), nn.Linear(12, 1, dtype=torch.float64)
    )
    inside = torch.linspace(0, 1, 41, dtype=torch.float64)[1:-1, None]
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def closure():
        x = inside.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        equation = (bend + math.pi**2 * torch.sin(math.pi * inside))[:, 0] / math.sqrt(len(x))
        residuals = torch.cat([equation, model(ends)[:, 0]])
        return residuals.square().sum(), residuals

    def error():
        x = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
        exact = torch.sin(math.pi * x)
        with torch.no_grad():
            return float((model(x) - exact).norm() / exact.norm())

    return model, closure, error


def exact_steps(model, **options):
    return kt.HessianFree(model.parameters(), solver="dense", **options)


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_steps_reach_a_low_error_in_few_steps(seed):
    model, closure, error = problem(seed)
    optimizer = exact_steps(model)
    losses = [float(optimizer.step(closure)) for _ in range(60)]
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert error() < 2e-4


@pytest.mark.parametrize("solver", ["flexible_cg", "subspace", "dense"])
def test_closures_that_differentiate_need_nothing_special(solver):
    model, closure, _ = problem()
    optimizer = kt.HessianFree(model.parameters(), solver=solver, damping=1.0)
    first = float(optimizer.step(closure))
    optimizer.step(closure)
    assert optimizer.last_step.loss_after < first
    assert all(p.grad is None for p in model.parameters())


def test_the_books_have_the_passes_of_the_jacobian():
    model, closure, _ = problem()
    optimizer = exact_steps(model)
    optimizer.step(closure)
    record = optimizer.last_step
    # A gradient, three backward passes, and what the line search evaluated.
    assert record.cost == pytest.approx(1 + 3 * 2 / 3 + record.evaluations / 3)
    assert record.products == 0


@pytest.mark.parametrize("kind", ["hf", "newton"])
def test_the_books_have_every_call_of_the_closure(kind):
    """The first loss is tried without a graph, and that once only; what is loaded knows it."""
    model, closure, _ = problem()
    if kind == "hf":
        optimizer, again = exact_steps(model), exact_steps(model)
    else:
        optimizer, again = (
            kt.NewtonCG(model.parameters(), damping=kt.LevenbergMarquardt(1.0)) for _ in range(2)
        )
    calls = []

    def counting():
        calls.append(torch.is_grad_enabled())
        return closure()

    for step in range(3):
        calls.clear()
        optimizer.step(counting)
        record = optimizer.last_step
        assert len(calls) == 1 + record.evaluations
        assert calls.count(False) == (step == 0)
    calls.clear()
    again.load_state_dict(optimizer.state_dict())
    again.step(counting)
    assert len(calls) == 1 + again.last_step.evaluations
    assert all(calls)


def test_other_errors_of_a_closure_are_not_hidden():
    model, closure, _ = problem()
    calls = []

    def failing():
        calls.append(torch.is_grad_enabled())
        if not calls[-1]:
            raise RuntimeError("no such thing")
        return closure()

    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="no such thing"):
        exact_steps(model).step(failing)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_run_goes_on_bit_for_bit_from_its_state():
    model, closure, _ = problem()
    optimizer = exact_steps(model)
    for _ in range(3):
        optimizer.step(closure)
    other, other_closure, _ = problem(1)
    other.load_state_dict(model.state_dict())
    again = exact_steps(other)
    again.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        assert float(optimizer.step(closure)) == float(again.step(other_closure))
    assert optimizer.damping == again.damping


def test_a_step_that_is_only_too_long_is_shortened_and_damping_follows_the_length():
    model, closure, _ = problem()
    rule = kt.LevenbergMarquardt(1e-9, low=0.5, high=0.75, judge="length")
    optimizer = exact_steps(model, damping=rule, retries=0)
    seen = []
    for _ in range(8):
        before = optimizer.damping
        optimizer.step(closure)
        record = optimizer.last_step
        assert record.accepted
        assert record.loss_after < record.loss_before
        seen.append(record.alpha)
        assert optimizer.damping == rule.after(before, record.alpha)
    assert min(seen) < 1
    assert optimizer.damping > 0
    model, closure, _ = problem()
    rejecting = exact_steps(model, damping=1e-9, retries=0, line_search=kt.Armijo())
    rejecting.step(closure)
    assert not rejecting.last_step.accepted  # what the search has just rescued
