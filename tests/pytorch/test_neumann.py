"""`Neumann` against the printed algorithm in NumPy, torch's SGD, and itself after being saved."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from neumann_reference import neumann_run
from torch import nn

import krylov.torch as kt

SHAPES = [(3, 2), (4,), ()]
N = 11


def quadratic(seed=0):
    """A symmetric matrix with one negative eigenvalue, and a gradient with noise of each step's own."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    A = q @ np.diag(np.r_[-0.2, np.linspace(0.1, 2, N - 1)]) @ q.T
    b, noise = rng.standard_normal(N), rng.standard_normal((100, N))
    return A, lambda w, step: A @ w - b + 0.3 * noise[step]


def parameters(dtype=torch.float64, seed=5):
    flat = torch.from_numpy(np.random.default_rng(seed).standard_normal(N)).to(dtype)
    parts = flat.split([math.prod(shape) for shape in SHAPES])
    return [nn.Parameter(p.view(s).clone()) for p, s in zip(parts, SHAPES, strict=True)]


def read(params):
    return torch.cat([p.detach().reshape(-1) for p in params]).double().numpy()


def give(params, gradient):
    parts = torch.from_numpy(gradient).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad = part.view(p.shape).to(p.dtype)


def run(params, optimizer, gradient, steps, first=1):
    """Displaced parameters after each step."""
    found = []
    for step in range(first, first + steps):
        give(params, gradient(read(params), step))
        optimizer.step()
        found.append(read(params))
    return found


OPTIONS = {
    "paper": {"warmup_steps": 3, "reset_every": 4},
    "no warm-up": {"warmup_steps": 0, "reset_every": 5, "beta": 0.01},
    "strong terms": {"warmup_steps": 2, "reset_every": 3, "alpha": 0.3, "beta": 0.2, "gamma": 0.8},
    "cubic alone": {"warmup_steps": 1, "reset_every": None, "alpha": 0.5, "beta": 0},
    "repulsive alone": {"warmup_steps": 1, "reset_every": 1, "alpha": 0, "beta": 0.05},
    "neither": {"warmup_steps": 2, "reset_every": 7, "alpha": 0, "beta": 0},
    "decay": {"warmup_steps": 3, "reset_every": 4, "weight_decay": 0.1, "alpha": 0.1},
    "constant K": {"warmup_steps": 0, "reset_every": 2, "reset_growth": 1, "beta": 0.01},
    "slow momentum": {"warmup_steps": 0, "reset_every": 9, "momentum_every": 6, "beta": 0.01},
    "v follows at once": {"warmup_steps": 2, "reset_every": 4, "gamma": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_printed_algorithm(options, dtype):
    _, gradient = quadratic()
    params = parameters(dtype)
    expected = neumann_run(gradient, read(params), 30, lr=0.1, **options)
    optimizer = kt.Neumann(params, 0.1, **options)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3
    for k, w in enumerate(run(params, optimizer, gradient, 30)):
        scale = tolerance * np.abs(expected["displaced"][k]).max()
        np.testing.assert_allclose(w, expected["displaced"][k], atol=scale)
    optimizer.eval()
    np.testing.assert_allclose(read(params), expected["true"][-1], atol=scale)


def test_groups_have_rates_of_their_own_and_one_distance():
    _, gradient = quadratic()
    params = parameters()
    rates = np.r_[np.full(6, 0.1), np.full(5, 0.02)]
    options = {"warmup_steps": 2, "reset_every": 4, "alpha": 0.2, "beta": 0.1}
    expected = neumann_run(gradient, read(params), 20, lr=rates, **options)
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]
    optimizer = kt.Neumann(groups, 0.1, **options)
    found = run(params, optimizer, gradient, 20)
    np.testing.assert_allclose(found, expected["displaced"], rtol=1e-10)


def test_the_inner_iteration_is_the_neumann_series_at_displaced_parameters():
    """From x, ``m = mu m - eta grad(x + mu m)``, and x moves by m; the parameters are ``x + mu m``."""
    A, _ = quadratic()
    b, mu, eta = np.arange(N) / N, 0.8, 0.1
    params = parameters()
    x, m = read(params), np.zeros(N)
    optimizer = kt.Neumann(
        params, eta, warmup_steps=0, reset_every=None, momentum=mu, alpha=0, beta=0
    )
    for k in range(12):
        m = mu * m - eta * (A @ (x + mu * m) - b)
        x = x + m
        give(params, A @ read(params) - b)
        optimizer.step()
        np.testing.assert_allclose(read(params), x + mu * m, rtol=1e-12)
        optimizer.eval()
        np.testing.assert_allclose(read(params), x, rtol=1e-12, err_msg=f"iteration {k}")
        optimizer.train()


def test_one_inner_loop_from_fixed_weights_is_the_series_of_the_convexified_hessian():
    """With w fixed, ``m_k = mu m - eta grad(w + mu m)`` is what `krylov.neumann` finds, over mu, for H + |lmin| I."""
    A, _ = quadratic()
    b, w = np.ones(N), np.linspace(-1, 1, N)
    low, high = np.linalg.eigvalsh(A)[[0, -1]]
    mu, eta = high / (high - low), 1 / high
    params = [nn.Parameter(torch.from_numpy(w.copy()))]
    matrix, vector = torch.from_numpy(A), torch.from_numpy(b)
    optimizer = kt.NeumannSeries(params, iterations=9, k=N)
    optimizer.step(lambda: params[0] @ matrix @ params[0] / 2 - vector @ params[0])
    m = np.zeros(N)
    for _ in range(9):
        m = mu * m - eta * (A @ (w + mu * m) - b)
    np.testing.assert_allclose((read(params) - w) / mu, m, rtol=1e-9)
    step = optimizer.last_step
    assert (step.lambda_min, step.lambda_max) == pytest.approx((low, high))
    assert step.iterations == 9
    assert step.gradient_equivalents == 1 + 2 * step.products


def test_without_terms_and_resets_it_is_nesterovs_momentum():
    _, gradient = quadratic()
    ours, theirs = parameters(), parameters()
    options = {"warmup_steps": 0, "reset_every": None, "momentum": 0.7, "alpha": 0, "beta": 0}
    found = run(ours, kt.Neumann(ours, 0.1, **options), gradient, 15)
    sgd = torch.optim.SGD(theirs, 0.1, momentum=0.7, nesterov=True)
    np.testing.assert_allclose(found, run(theirs, sgd, gradient, 15), rtol=1e-12)


def test_the_warm_up_is_plain_sgd():
    _, gradient = quadratic()
    ours, theirs = parameters(), parameters()
    optimizer = kt.Neumann(ours, 0.1, warmup_steps=6, weight_decay=0.1)
    sgd = torch.optim.SGD(theirs, 0.1, weight_decay=0.1)
    found = run(ours, optimizer, gradient, 6)
    np.testing.assert_allclose(found, run(theirs, sgd, gradient, 6), rtol=1e-12)
    assert optimizer.last_step.warmup
    run(ours, optimizer, gradient, 1)
    assert optimizer.last_step.reset
    assert optimizer.last_step.momentum == 0.5


def test_resets_double_and_momentum_grows():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.01, warmup_steps=2, reset_every=3)
    resets, mus = [], []
    for step in range(1, 30):
        run(params, optimizer, gradient, 1, step)
        mus.append(optimizer.last_step.momentum)
        resets += [step] if optimizer.last_step.reset else []
    assert resets == [3, 6, 12, 24]
    assert mus[:6] == pytest.approx([0, 0, 1 / 2, 2 / 3, 3 / 4, 4 / 5])
    assert mus[-1] == 0.9


def test_beta_counts_the_parameters_that_take_part():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=2, reset_every=None, alpha=0)
    run(params, optimizer, gradient, 4)
    step = optimizer.last_step
    assert step.regulariser == pytest.approx(-1e-5 * N / step.distance**2)


def test_no_direction_at_the_average():
    """With a rate of zero w stays at v: the term has no direction, and must not be NaN."""
    _, gradient = quadratic()
    params = parameters()
    before = read(params)
    optimizer = kt.Neumann(params, 0.0, warmup_steps=0)
    run(params, optimizer, gradient, 5)
    assert (read(params) == before).all()
    assert optimizer.last_step.regulariser == 0


def test_frozen_and_unused_parameters_stay():
    params = parameters()
    params[1].requires_grad_(False)
    kept = params[1].detach().clone()
    last = None
    optimizer = kt.Neumann(params, 0.1, warmup_steps=1)
    used = [params[0], params[2]]
    for step in range(6):
        for p in used:
            p.grad = torch.ones_like(p)
        if step >= 4:
            params[2].grad = None
            last = params[2].detach().clone() if step == 4 else last
        optimizer.step()
    assert torch.equal(params[1], kept)
    assert torch.equal(params[2], last)
    assert set(optimizer.state) == set(used)


def test_eval_and_train_do_nothing_twice():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=1)
    optimizer.eval()  # before any step there is nothing to displace
    optimizer.train()
    run(params, optimizer, gradient, 5)
    displaced = read(params)
    optimizer.train()
    assert (read(params) == displaced).all()
    optimizer.eval()
    true = read(params)
    optimizer.eval()
    assert (read(params) == true).all()
    assert not optimizer.training
    assert np.abs(true - displaced).max() > 1e-3
    optimizer.train()
    np.testing.assert_allclose(read(params), displaced, rtol=1e-14)


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


def test_a_grad_scaler_skips_what_overflows():
    _, gradient = quadratic()
    params, others = parameters(torch.float32), parameters(torch.float32)
    optimizer, second = (kt.Neumann(p, 0.1, warmup_steps=1) for p in (params, others))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(1, 6):
        scaler.scale(torch.ones(()))
        give(others, gradient(read(others), step))
        give(params, 8 * gradient(read(params), step) if step != 3 else np.full(N, np.inf))
        if step == 3:
            scaler.step(optimizer)
            scaler.update(8.0)
            continue
        scaler.step(optimizer)
        scaler.update(8.0)
        second.step()
    assert (read(params) == read(others)).all()


def test_a_scheduler_changes_the_rate():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    g = gradient(read(params), 1)
    give(params, g)
    before = read(params)
    optimizer.step()
    scheduler.step()
    give(params, g)
    optimizer.step()
    np.testing.assert_allclose(read(params), before - 0.15 * g, rtol=1e-13)


def test_a_closure_is_called_once_with_gradients_on():
    model, calls = nn.Linear(3, 1), []
    optimizer = kt.Neumann(model.parameters(), 0.1)

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    with torch.no_grad():
        first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert calls == [True, True]


def test_memory_is_adams():
    _, gradient = quadratic()
    params = parameters()
    optimizer = kt.Neumann(params, 0.1, warmup_steps=1)
    run(params, optimizer, gradient, 4)
    for p in params:
        held = [t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
        assert [t.shape for t in held] == [p.shape, p.shape]


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


@pytest.mark.parametrize("keep", ["best", "last"])
def test_fit_measures_keeps_and_shows_the_parameters_to_use(keep):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    model, loss = kt.mlp(4, 3, (8,), activation="tanh"), nn.CrossEntropyLoss()
    optimizer = kt.Neumann(model.parameters(), 0.3, warmup_steps=4, reset_every=4)

    def value():
        with torch.no_grad():
            return float(loss(model(x), y))

    def watch(record):
        assert not optimizer.training
        assert value() == pytest.approx(record["loss"], rel=1e-6)

    options = {"batch": 16, "steps": 6, "keep": keep, "callback": watch, "progress": False}
    history = kt.fit(model, loss, (x, y), optimizer=optimizer, **options)
    kept = history.records[history.best_step if keep == "best" else -1]
    assert value() == pytest.approx(kept["loss"], rel=1e-6)
    assert history.records[-1]["loss"] < history.records[0]["loss"]
    assert not optimizer.training


def test_estimated_rates_are_those_of_the_spectrum():
    A, _ = quadratic()
    w, matrix = nn.Parameter(torch.ones(N, dtype=torch.float64)), torch.from_numpy(A)
    low, high = np.linalg.eigvalsh(A)[[0, -1]]
    rate = kt.neumann_rate(kt.HessianOperator(lambda: w @ matrix @ w / 2, [w]), k=N)
    assert rate.lr == pytest.approx(1 / high)
    assert rate.momentum == pytest.approx(high / (high - low))
    positive = kt.neumann_rate(kt.HessianOperator(lambda: (w @ w) / 2, [w]))
    assert (positive.lr, positive.momentum) == pytest.approx((1, 1))
    with pytest.raises(ValueError, match="no rate"):
        kt.neumann_rate(kt.HessianOperator(lambda: -(w @ w), [w]))
