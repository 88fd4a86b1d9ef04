"""Whatever is wrong with an argument of `HessianFree` is said before any work, by its name."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

import krylov.torch as kt
from krylov.torch.optim.second_order import SecondOrder

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.complex_numbers(),
    st.just(object()),
    st.just(kt.Armijo),
)
NAMES = [
    "lr",
    "weight_decay",
    "curvature",
    "solver",
    "preconditioner",
    "preconditioner_options",
    "damping",
    "stop",
    "maxiter",
    "warm_start",
    "line_search",
    "retries",
    "escape",
    "randomness",
    "allow_batch_norm",
    "seed",
]


def parameter():
    return torch.ones(2, requires_grad=True)


def is_number(value):
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def at_least(least):
    return lambda value: isinstance(value, int) and value >= least


VALID = {
    "lr": lambda v: is_number(v) and v >= 0,
    "weight_decay": lambda v: is_number(v) and v >= 0,
    "curvature": lambda v: v in ("ggn", "hessian", "hybrid"),
    "solver": lambda v: v in ("flexible_cg", "cg", "bicgstab"),
    "preconditioner": lambda v: v is None,
    "preconditioner_options": lambda v: v is None or v == {},
    "damping": lambda v: v is None or (is_number(v) and 0 <= v <= 1e12),
    "stop": lambda v: v is None or at_least(1)(v),
    "maxiter": at_least(1),
    "warm_start": lambda v: is_number(v) and 0 <= v <= 1,
    "line_search": lambda v: v is None,
    "retries": at_least(0),
    "escape": lambda v: v is None or isinstance(v, bool),
    "randomness": lambda v: v in ("refuse", "freeze"),
    "allow_batch_norm": lambda v: isinstance(v, bool),
    "seed": at_least(0),
}


def accepted(test, value):
    try:
        return bool(test(value))
    except (TypeError, OverflowError):
        return False


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # the first optimizer makes torch import its compiler
@given(value=ODD)
def test_odd_values_are_named(name, value):
    if accepted(VALID[name], value):
        kt.HessianFree([parameter()], **{name: value})
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        kt.HessianFree([parameter()], **{name: value})
    shown = {"damping": "damping|initial", "preconditioner_options": "preconditioner"}
    assert any(word in str(caught.value) for word in shown.get(name, name).split("|"))


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@settings(deadline=None)  # the first optimizer makes torch import its compiler
@given(value=ODD)
def test_odd_values_of_groups_are_named(name, value):
    groups = [{"params": [parameter()]}, {"params": [parameter()], name: value}]
    if accepted(VALID[name], value):
        kt.HessianFree(groups)
        return
    with pytest.raises((TypeError, ValueError), match=name):
        kt.HessianFree(groups)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "empty parameter list"),
        (torch.ones(2, requires_grad=True), "params"),
        ([1, 2], "optimize|params"),
        ([torch.ones(2)], "requires gradients"),
        ([torch.ones(2, dtype=torch.bfloat16, requires_grad=True)], "float32 or float64"),
        ([torch.ones(2, dtype=torch.complex64, requires_grad=True)], "float32 or float64"),
        (torch.nn.Linear(2, 2), "not iterable|params"),
        ([{"params": []}], "group 0 is empty"),
        ([{"params": [torch.ones(2, requires_grad=True)]}, {"params": []}], "group 1 is empty"),
    ],
    ids=str,
)
def test_odd_parameters_are_named(params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kt.HessianFree(params)


def test_what_the_optimizers_share_is_none_itself():
    options = {"lr": 1.0, "weight_decay": 0.0, "randomness": "refuse", "allow_batch_norm": False}
    with pytest.raises(TypeError, match="abstract"):
        SecondOrder([parameter()], **options)


@pytest.mark.parametrize("kind", [kt.HessianFree, kt.NewtonCG])
@pytest.mark.parametrize("bad", [-0.1, math.nan, None, "x"])
def test_a_rate_that_a_schedule_gets_wrong_is_named(kind, bad):
    w = parameter()
    optimizer = kind([w], curvature="hessian")
    optimizer.param_groups[0]["lr"] = bad
    with pytest.raises(ValueError, match="lr must"):
        optimizer.step(lambda: w.square().sum())
    assert torch.equal(w, torch.ones(2))
    assert optimizer.last_step is None


@pytest.mark.parametrize("kind", [kt.HessianFree, kt.NewtonCG])
def test_rates_of_frozen_tensors_play_no_part(kind):
    """Neither for the number of products nor for the numbers themselves."""
    told = []
    for rate in (0.5, 0.1):
        w, frozen = torch.linspace(1, 2, 3).requires_grad_(), torch.ones(2)
        groups = [{"params": [w]}, {"params": [frozen], "lr": rate, "weight_decay": rate - 0.1}]
        optimizer = kind(groups, lr=0.5, curvature="hessian", line_search=kt.Armijo())
        assert optimizer._scale() == 0.5
        optimizer.step(lambda w=w: w.square().sum() + w.pow(4).sum())
        told.append((w.tolist(), optimizer.last_step.products, optimizer.last_step.rho))
    assert told[0] == told[1]


@pytest.mark.parametrize("search", [None, kt.Armijo()], ids=str)
def test_a_rule_judged_by_length_needs_a_search_of_bad_steps_too(search):
    rule = kt.LevenbergMarquardt(judge="length")
    with pytest.raises(ValueError, match=r"length.*GridSearch"):
        kt.HessianFree([parameter()], damping=rule, line_search=search)
    kt.HessianFree([parameter()], damping=rule, line_search=kt.GridSearch())


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="momentum"):
        kt.HessianFree([parameter()], momentum=0.9)
    with pytest.raises(TypeError):
        kt.HessianFree([parameter()], 0.1)  # which one would that be?
