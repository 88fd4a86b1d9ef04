"""`Neumann` against the printed algorithm in NumPy and torch's SGD, and within what is around an optimizer."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from neumann_cases import OPTIONS, N, give, parameters, quadratic, read, run
from neumann_reference import neumann_run
from torch import nn

import krylov.torch as kt


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
