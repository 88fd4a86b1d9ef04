"""What `Neumann` refuses: options, parameters and gradients, with everything as it was."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from neumann_cases import N, give, parameters, quadratic, read, run
from torch import nn

import krylov.torch as kt

NAN, INF = math.nan, math.inf

BAD = [
    ({"lr": -0.1}, ValueError, "lr must not be negative"),
    ({"lr": NAN}, ValueError, "lr must be finite"),
    ({"lr": "fast"}, ValueError, "lr must be a number"),
    ({"weight_decay": -1}, ValueError, "weight_decay must not be negative"),
    ({"reset_every": 0}, ValueError, "reset_every must be at least 1"),
    ({"reset_every": 2.5}, TypeError, "reset_every must be an integer"),
    ({"reset_growth": 0}, ValueError, "reset_growth must be at least 1"),
    ({"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0"),
    ({"momentum": (0.9, 0.5)}, ValueError, "first <= last"),
    ({"momentum": 1.0}, ValueError, "last < 1"),
    ({"momentum": (0.1, 0.2, 0.3)}, ValueError, r"a number or \(first, last\)"),
    ({"momentum_every": 0}, ValueError, "momentum_every must be at least 1"),
    ({"alpha": -1}, ValueError, "alpha must not be negative"),
    ({"beta": INF}, ValueError, "beta must be finite"),
    ({"gamma": 1.0}, ValueError, "below 1"),
]


@pytest.mark.parametrize(("options", "kind", "words"), BAD, ids=lambda x: str(x)[:30])
def test_bad_options(options, kind, words):
    with pytest.raises(kind, match=words):
        kt.Neumann(parameters(), **({"lr": 0.1} | options))


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ([], ValueError, "empty parameter list"),
        ([{"params": []}], ValueError, "group 0 is empty"),
        ([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))], TypeError, "float32 or float64"),
        ([nn.Parameter(torch.ones(2, dtype=torch.complex64))], TypeError, "float32 or float64"),
    ],
)
def test_bad_parameters(params, kind, words):
    with pytest.raises(kind, match=words):
        kt.Neumann(params, 0.1)


def test_a_refused_group_is_not_added():
    optimizer = kt.Neumann(parameters(), 0.1)
    with pytest.raises(ValueError, match="group 1 is empty"):
        optimizer.add_param_group({"params": []})
    assert len(optimizer.param_groups) == 1


@settings(deadline=None, max_examples=40)
@given(
    where=st.integers(0, N - 1),
    value=st.sampled_from([NAN, INF, -INF]),
    steps=st.integers(0, 6),
)
def test_gradients_that_are_not_finite_leave_everything_as_it_was(where, value, steps):
    _, gradient = quadratic()
    params, others = parameters(), parameters()
    pairs = [(p, kt.Neumann(p, 0.1, warmup_steps=2, reset_every=2)) for p in (params, others)]
    for p, optimizer in pairs:
        run(p, optimizer, gradient, steps)
    before, bad = read(params), gradient(read(params), 0)
    bad[where] = value
    give(params, bad)
    with pytest.raises(FloatingPointError, match="a gradient is not finite"):
        pairs[0][1].step()
    assert (read(params) == before).all()
    after = [run(p, optimizer, gradient, 3, 7) for p, optimizer in pairs]
    assert (np.array(after[0]) == after[1]).all()


def test_large_finite_gradients_are_no_error():
    """Their squares overflow in float32."""
    params = [nn.Parameter(torch.zeros(3))]
    optimizer = kt.Neumann(params, 1e-25, alpha=0, beta=0)
    params[0].grad = torch.full((3,), 1e25)
    optimizer.step()
    assert torch.allclose(params[0], torch.full((3,), -1.0))


def refusal(name):
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=0)
    if name == "no gradient":
        return params, optimizer.step, RuntimeError, r"call loss.backward\(\)"
    give(params, np.ones(N))
    if name == "evaluation mode":
        optimizer.eval()
        return params, optimizer.step, RuntimeError, r"call optimizer.train\(\)"
    if name == "sparse":
        params[1].grad = torch.ones(4, dtype=torch.float64).to_sparse()
        return params, optimizer.step, RuntimeError, "sparse=False"
    if name == "NaN loss":
        return params, lambda: optimizer.step(lambda: torch.tensor(NAN)), FloatingPointError, "loss"
    if name == "negative rate of a scheduler":
        optimizer.param_groups[0]["lr"] = -1.0
        return params, optimizer.step, ValueError, "lr must not be negative"
    assert name == "too near"
    optimizer.param_groups[0]["lr"] = 1e-20
    optimizer.step()
    return params, optimizer.step, FloatingPointError, "more warmup_steps, or beta=0"


@pytest.mark.parametrize(
    "name",
    [
        "no gradient",
        "evaluation mode",
        "sparse",
        "NaN loss",
        "negative rate of a scheduler",
        "too near",
    ],
)
def test_refusals_leave_the_parameters(name):
    params, act, kind, words = refusal(name)
    before = read(params)
    with pytest.raises(kind, match=words):
        act()
    assert (read(params) == before).all()
