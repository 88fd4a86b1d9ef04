"""`Neumann` saved, copied and loaded: the same bits go on, and what does not fit is named."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from neumann_cases import OPTIONS, parameters, quadratic, run
from torch import nn

import krylov.torch as kt

NAN = math.nan


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_saved_optimizer_goes_on_bit_for_bit(options, mode, dtype):
    _, gradient = quadratic()
    params = parameters(dtype)
    optimizer = kt.Neumann(params, 0.1, **options)
    run(params, optimizer, gradient, 9)
    if mode == "eval":
        optimizer.eval()
    saved = through_a_file({"w": params, "optimizer": optimizer.state_dict()})
    optimizer.train()
    expected = run(params, optimizer, gradient, 12, 10)
    others = [nn.Parameter(p.detach()) for p in saved["w"]]
    resumed = kt.Neumann(others, 0.5, **options)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.training == (mode == "train")
    resumed.train()
    assert (np.array(run(others, resumed, gradient, 12, 10)) == expected).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_whole(copied):
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, **OPTIONS["strong terms"])
    run(params, optimizer, gradient, 7)
    others, second = copied((params, optimizer))
    expected = run(params, optimizer, gradient, 7, 8)
    assert (np.array(run(others, second, gradient, 7, 8)) == expected).all()


def test_loaded_state_is_not_shared():
    _, gradient = quadratic()
    params, others = parameters(), parameters()
    optimizer = kt.Neumann(params, 0.1)
    run(params, optimizer, gradient, 3)
    second = kt.Neumann(others, 0.1)
    second.load_state_dict(optimizer.state_dict())
    before = second.state[others[0]]["u"].clone()
    run(params, optimizer, gradient, 3, 4)
    assert torch.equal(second.state[others[0]]["u"], before)


def test_a_state_without_regularisers_may_go_on_with_them():
    _, gradient = quadratic()
    params = parameters()
    plain = kt.Neumann(params, 0.1, warmup_steps=1, alpha=0, beta=0)
    run(params, plain, gradient, 3)
    optimizer = kt.Neumann(params, 0.1, warmup_steps=1)
    optimizer.load_state_dict(plain.state_dict())
    run(params, optimizer, gradient, 2, 4)
    assert optimizer.last_step.distance > 0


@pytest.mark.parametrize("damage", ["other", "missing", "negative", "mode", "shape"])
def test_states_that_do_not_fit_change_nothing(damage):
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1)
    run(params, optimizer, gradient, 3)
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    if damage == "other":
        state = torch.optim.SGD(params, 0.1).state_dict()
    elif damage == "missing":
        del state["neumann"]["clock"]["inner"]
    elif damage == "negative":
        state["neumann"]["clock"]["step"] = -1
    elif damage == "mode":
        state["neumann"]["training"] = 1
    else:
        state["param_groups"][0]["params"] = [0]
    with pytest.raises((KeyError, TypeError, ValueError)):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == repr(before)


BUFFERS = {
    "a longer m": ("m", lambda m: torch.cat([m, m])),
    "a NaN in u": ("u", lambda u: u * NAN),
    "a list for m": ("m", lambda m: m.tolist()),
    "no m": ("m", None),
    "no mu": ("mu", None),
    "mu of one": ("mu", lambda mu: 1.0),
    "mu of nothing": ("mu", lambda mu: None),
    "a negative square": ("square", lambda square: -1.0),
    "a NaN for a square": ("square", lambda square: NAN),
    "a square of nothing": ("u", None),
    "something more": ("v", lambda v: 1),
}


@pytest.mark.parametrize("damage", BUFFERS)
def test_buffers_that_do_not_fit_are_named_and_change_nothing(damage):
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=1)
    run(params, optimizer, gradient, 3)
    before = repr(optimizer.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    name, change = BUFFERS[damage]
    if change is None:
        del state["state"][0][name]
    else:
        state["state"][0][name] = change(state["state"][0].get(name))
    with pytest.raises(ValueError, match=f"{name} of parameter 0"):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == before


def test_entries_of_no_parameter_and_odd_groups_are_refused():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1)
    run(params, optimizer, gradient, 3)
    before = repr(optimizer.state_dict())
    for words, where, key, value in (
        ("parameter 9", "state", 9, {}),
        ("lr of parameter group 0", "param_groups", 0, {"lr": -1}),
        ("must be a mapping", "neumann", "clock", 3),
    ):
        state = copy.deepcopy(optimizer.state_dict())
        old = state[where][key] if key in state[where] or where == "param_groups" else {}
        state[where][key] = {**old, **value} if isinstance(value, dict) else value
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(state)
        assert repr(optimizer.state_dict()) == before
