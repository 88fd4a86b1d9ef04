"""What is wrong with arguments, closures and steps of `NewtonCG` is said by its name, and changes nothing."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import classifier
from torch import nn

import krylov.torch as kt

LM = kt.LevenbergMarquardt


def alone(problem):
    """A closure that returns the loss alone."""
    return lambda: problem()[0]


def picture(problem, optimizer):
    return problem.read().tolist(), str(optimizer.state_dict())


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.just(object()),
    st.just(kt.Armijo),
)


def finite(value, low=-math.inf, high=math.inf):
    return isinstance(value, (bool, int, float)) and math.isfinite(value) and low <= value <= high


VALID = {
    "lr": lambda v: finite(v, 0),
    "weight_decay": lambda v: finite(v, 0),
    "damping": lambda v: finite(v, 0, 1e12),
    "tol": lambda v: finite(v) and 0 < v < 1,
    "maxiter": lambda v: isinstance(v, int) and v >= 1,
    "curvature": lambda v: False,
    "solver": lambda v: False,
    "preconditioner": lambda v: v is None,
    "preconditioner_options": lambda v: v is None,
    "line_search": lambda v: v is None,
    "warm_start": lambda v: finite(v, 0, 1),
    "randomness": lambda v: False,
    "allow_batch_norm": lambda v: isinstance(v, bool),
    "seed": lambda v: isinstance(v, int) and v >= 0,
}


@pytest.mark.parametrize("name", VALID)
@settings(deadline=None, max_examples=40)
@given(value=ODD)
def test_odd_values_are_named(name, value):
    try:
        fits = VALID[name](value)
    except OverflowError:
        fits = False
    parameter = torch.ones(2, requires_grad=True)
    if fits:
        kt.NewtonCG([parameter], **{name: value})
        return
    with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
        kt.NewtonCG([parameter], **{name: value})
    shown = {"damping": "damping|initial", "preconditioner_options": "preconditioner"}
    assert any(word in str(caught.value) for word in shown.get(name, name).split("|"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "empty parameter list"),
        ([{"params": []}], "group 0 is empty"),
        ([{"params": [torch.ones(2, requires_grad=True)]}, {"params": []}], "group 1 is empty"),
        ([torch.ones(2)], "requires gradients"),
        ([torch.eye(2).to_sparse().requires_grad_()], "dense"),
        ([{"params": [torch.ones(2, requires_grad=True)], "lr": -0.1}], "lr must not be negative"),
    ],
    ids=["none", "empty group", "one empty group", "frozen", "sparse", "negative rate"],
)
def test_odd_parameters_are_named(params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kt.NewtonCG(params)


def test_hybrid_is_not_for_it():
    with pytest.raises(ValueError, match="curvature must be one of hessian, ggn"):
        kt.NewtonCG([torch.ones(1, requires_grad=True)], curvature="hybrid")


def backward(problem):
    loss, outputs = problem()
    loss.backward()
    return loss, outputs


def changed(change):
    """A closure whose loss is another."""

    def closure(problem):
        loss, outputs = problem()
        return change(loss, problem.parameters[0]), outputs

    return closure


BAD_CLOSURES = {
    "none": (None, TypeError, "GradScaler"),
    "no function": (3, TypeError, "closure must be a function"),
    "no graph": (changed(lambda loss, w: loss.detach()), ValueError, "depend|graph|grad"),
    "a number": (lambda p: 1.0, TypeError, "loss as a tensor"),
    "no scalar": (changed(lambda loss, w: loss + w), (TypeError, ValueError), "scalar"),
    "backward": (backward, RuntimeError, "must not call backward"),
    "NaN": (changed(lambda loss, w: loss * math.nan), FloatingPointError, "loss is nan"),
    "infinity": (changed(lambda loss, w: loss + math.inf), FloatingPointError, "loss is inf"),
    "infinite gradient": (
        changed(lambda loss, w: loss + (0 * w).square().sum().sqrt()),
        FloatingPointError,
        "gradient has entries",
    ),
}


@pytest.mark.parametrize("name", BAD_CLOSURES)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_bad_closures_are_named_and_change_nothing(kind, name):
    closure, error, message = BAD_CLOSURES[name]
    problem = classifier()
    optimizer = kt.NewtonCG(problem.parameters, curvature=kind, warm_start=0.5)
    optimizer.step(problem)
    before = picture(problem, optimizer)
    with pytest.raises(error, match=message):
        optimizer.step((lambda: closure(problem)) if callable(closure) else closure)
    assert picture(problem, optimizer) == before
    optimizer.step(problem)
    assert optimizer.last_step.accepted


def test_the_gauss_newton_matrix_needs_outputs():
    problem = classifier()
    before = problem.read()
    with pytest.raises(ValueError, match=r"\(loss, outputs\)"):
        kt.NewtonCG(problem.parameters, curvature="ggn").step(alone(problem))
    assert torch.equal(problem.read(), before)


def test_sparse_gradients_are_named():
    layer = nn.Embedding(5, 3, sparse=True)
    before = layer.weight.detach().clone()
    optimizer = kt.NewtonCG(layer.parameters())
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step(lambda: layer(torch.tensor([0, 2])).square().mean())
    assert torch.equal(layer.weight.detach(), before)


def cliff(w):
    """A parabola that ends where the loss is no longer finite."""
    return w.square().sum() + 0 * (w + 0.5).sum().log()


@pytest.mark.parametrize("options", [{"damping": LM(1e-6)}, {"line_search": kt.Armijo()}], ids=str)
def test_judged_steps_do_not_leave_the_domain(options):
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = kt.NewtonCG([w], lr=1.9, **options)
    losses = [optimizer.step(lambda: cliff(w)).item() for _ in range(30)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1


def test_an_evaluation_sample_rejects_a_step_to_where_it_is_not_finite():
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = kt.NewtonCG([w], lr=1.9, damping=0.0)
    batch = torch.ones(1)
    optimizer.step_batches(lambda _: cliff(w), gradient=[batch], evaluation=[batch])
    assert (optimizer.last_step.accepted, w.item()) == (False, 1.0)
    assert optimizer.last_step.loss_after == optimizer.last_step.loss_before == 1.0


def test_a_fixed_step_too_far_is_told_by_the_next():
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = kt.NewtonCG([w], lr=1.9, damping=0.0)
    optimizer.step(lambda: cliff(w))
    there = w.item()
    assert there == pytest.approx(-0.9)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        optimizer.step(lambda: cliff(w))
    assert w.item() == there


def test_a_step_that_overflows_is_not_taken():
    w = torch.ones(1, requires_grad=True)
    optimizer = kt.NewtonCG([w], lr=1e38, damping=0.0)
    with pytest.raises(FloatingPointError, match="overflows"):
        optimizer.step(lambda: (w + 100).square().sum())
    assert w.item() == 1
    assert optimizer.last_step is None


def test_at_a_minimum_nothing_happens():
    w = torch.zeros(2, requires_grad=True)
    optimizer = kt.NewtonCG([w], damping=LM(0.3))
    optimizer.step(lambda: w.square().sum())
    assert (optimizer.last_step.accepted, optimizer.last_step.products) == (False, 0)
    assert optimizer.damping == 0.3


@pytest.mark.parametrize("policy", ["refuse", "freeze"])
def test_random_closures(policy):
    problem = classifier()
    optimizer = kt.NewtonCG(problem.parameters, randomness=policy, line_search=kt.Armijo())

    def closure():
        return F.dropout(problem()[1], 0.3).square().mean()

    if policy == "refuse":
        with pytest.raises(RuntimeError, match="random"):
            optimizer.step(closure)
        return
    for _ in range(3):
        optimizer.step(closure)
        assert optimizer.last_step.loss_after < optimizer.last_step.loss_before


def test_a_rule_judged_by_length_needs_a_line_search():
    weight = torch.nn.Parameter(torch.ones(2))
    rule = kt.LevenbergMarquardt(judge="length")
    with pytest.raises(ValueError, match="needs a line search"):
        kt.NewtonCG([weight], damping=rule)
    optimizer = kt.NewtonCG([weight], damping=rule, line_search=kt.GridSearch())
    optimizer.step(lambda: weight.square().sum())
    assert optimizer.damping == rule.initial * rule.decrease  # the full step was the best


def test_a_step_that_is_no_newton_step_does_not_lower_a_damping_judged_by_length():
    w = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    rule = kt.LevenbergMarquardt(1e-2, judge="length")
    optimizer = kt.NewtonCG([w], 0.1, damping=rule, line_search=kt.GridSearch())
    optimizer.step(lambda: w.pow(4).sum() - w.square().sum())
    assert optimizer.last_step.accepted
    assert optimizer.last_step.candidate == 0
    assert optimizer.damping == rule.initial * rule.increase
