"""Closures that raise, draw random numbers, give NaN or do what they must not: training can go on afterwards."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from networks import classifier
from torch import nn

import krylov.torch as kt


def unchanged(problem, optimizer):
    """What must be the same after a step that raised, bit by bit."""
    memory = optimizer.state_dict()["hessian_free"]["memory"]
    direction = memory.pop("direction")
    return (
        problem.read().numpy().tobytes(),
        [p.data_ptr() for p in problem.parameters],
        memory,
        None if direction is None else direction.numpy().tobytes(),
        optimizer.last_step,
        [p.grad for p in problem.parameters],
    )


class Interrupted:
    """A closure that raises at one of its calls."""

    def __init__(self, problem, error, at=None):
        self.problem, self.error, self.at, self.calls = problem, error, at, 0

    def __call__(self, batch=None):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.problem.closure(batch)


STEPS = [
    {},
    {"preconditioner": "lbfgs", "preconditioner_options": {"m": 4}},
    {"preconditioner": "ritz"},
    {"preconditioner": "nystrom", "preconditioner_options": {"m": 4, "worth": 0.1}},
    {"curvature": "hybrid", "solver": "cg"},
    {"curvature": "hessian", "solver": "bicgstab", "stop": 4},
]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("options", STEPS, ids=lambda o: "-".join(map(str, o.values())))
def test_an_exception_at_any_call_changes_nothing(options, error):
    problem = classifier(scale=2.0)
    optimizer = kt.HessianFree(problem.parameters, damping=1e-2, maxiter=12, **options)
    for _ in range(3):
        optimizer.step(problem)
    before = unchanged(problem, optimizer)
    at = 1
    while True:
        closure = Interrupted(problem, error, at)
        try:
            # Micro-batches: some graphs stand, others do not.
            optimizer.step_batches(
                closure, gradient=problem.batches(4), curvature=problem.batches(6)
            )
        except error:
            assert unchanged(problem, optimizer) == before
            at += 1
        else:
            break
    assert at > 7  # five graphs, and losses
    step = optimizer.last_step.step
    assert step == before[4].step + 1
    optimizer.step(problem)
    assert optimizer.last_step.loss_after <= before[4].loss_after + 1e-9


def test_an_exception_during_an_escape_changes_nothing():
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return w[0] ** 2 - w[1] ** 2 + w[1] ** 4

    optimizer = kt.HessianFree([w], curvature="hessian")
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(w, torch.zeros_like(w))
    for _ in range(20):
        optimizer.step(closure)
    assert optimizer.last_step.loss_after == pytest.approx(-0.25)


def test_an_exception_in_a_stopping_rule_changes_nothing():
    problem = classifier()
    trouble = [False]

    def stop(trace):
        if trouble[0] and trace.niter == 3:
            raise KeyboardInterrupt
        return trace.niter >= 6

    optimizer = kt.HessianFree(problem.parameters, stop=stop, preconditioner="ritz")
    optimizer.step(problem)
    before = unchanged(problem, optimizer)
    trouble[0] = True
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(problem)
    assert unchanged(problem, optimizer) == before
    trouble[0] = False
    optimizer.step(problem)
    assert optimizer.last_step.accepted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_a_loss_that_is_not_finite_to_begin_with(kind, bad):
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters, curvature=kind)
    optimizer.step(problem)
    before = unchanged(problem, optimizer)

    def closure():
        loss, outputs = problem()
        return loss + bad, outputs

    with pytest.raises(FloatingPointError, match="before the step"):
        optimizer.step(closure)
    assert unchanged(problem, optimizer) == before
    optimizer.step(problem)
    assert optimizer.last_step.accepted


def test_a_bad_evaluation_sample_is_named():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    bad = [(problem.x * math.nan, problem.y)]
    before = unchanged(problem, optimizer)
    with pytest.raises(FloatingPointError, match="before the step"):
        optimizer.step_batches(problem.closure, gradient=problem.batches(6), evaluation=bad)
    assert unchanged(problem, optimizer) == before


def test_a_gradient_that_is_not_finite():
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = kt.HessianFree([w], curvature="hessian")
    with pytest.raises(FloatingPointError, match="gradient"):
        optimizer.step(lambda: w.abs().sqrt().sum() + w.sum())
    assert torch.equal(w, torch.zeros_like(w))
    assert optimizer.last_step is None


def test_a_curvature_sample_that_is_not_finite_is_named_and_does_no_harm():
    problem = classifier()
    before = problem.read()
    optimizer = kt.HessianFree(problem.parameters)
    bad = [(problem.x * math.nan, problem.y)]
    with pytest.raises(FloatingPointError, match="product with the Gauss-Newton matrix is not"):
        optimizer.step_batches(problem.closure, gradient=problem.batches(6), curvature=bad)
    assert torch.equal(problem.read(), before)
    optimizer.step(problem)
    assert optimizer.last_step.accepted


def test_a_network_that_overflows_at_trial_points():
    problem = classifier(dtype=torch.float32)

    def closure():
        outputs = problem.model(problem.x) * 1e3
        return (outputs.exp() - outputs).mean() * 1e-3, outputs

    with torch.no_grad():
        for p in problem.parameters:
            p.mul_(1e-3)
    optimizer = kt.HessianFree(problem.parameters, curvature="hessian", damping=1e-6)
    losses = [float(optimizer.step(closure)) for _ in range(10)]
    assert all(map(math.isfinite, losses))
    assert losses == sorted(losses, reverse=True)
    assert optimizer.last_step.loss_after < losses[0]


@pytest.mark.parametrize("style", ["plain", "guarded", "zero_grad"])
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_backward_in_the_closure_is_refused_by_name(kind, style):
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters, curvature=kind)

    def closure():
        if style == "zero_grad":
            optimizer.zero_grad()
        loss, outputs = problem()
        if style != "guarded" or loss.requires_grad:
            loss.backward()
        return loss, outputs

    point = problem.read()
    with pytest.raises(RuntimeError, match=r"the closure must not call backward\(\)"):
        optimizer.step(closure)
    assert torch.equal(problem.read(), point)
    optimizer.step(problem)
    assert optimizer.last_step.accepted


@pytest.mark.parametrize("kind", ["ggn", "hybrid"])
def test_a_closure_without_outputs_is_named(kind):
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters, curvature=kind)
    with pytest.raises(ValueError, match=r"return \(loss, outputs\) from the closure"):
        optimizer.step(lambda: problem()[0])


def test_the_hessian_needs_no_outputs():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters, curvature="hessian")
    optimizer.step(lambda: problem()[0])
    assert optimizer.last_step.accepted


@pytest.mark.parametrize("closure", [None, 3, "x", torch.ones(())], ids=str)
def test_step_needs_a_function(closure):
    optimizer = kt.HessianFree(classifier().parameters)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step(closure)


@pytest.mark.parametrize("enabled", [False, True])
def test_a_grad_scaler_is_named(enabled):
    problem = classifier(dtype=torch.float32)
    optimizer = kt.HessianFree(problem.parameters)
    scaler = torch.amp.GradScaler("cpu", enabled=enabled)
    scaler.scale(problem()[0]).backward()
    with pytest.raises(TypeError, match="GradScaler"):
        scaler.step(optimizer)


def test_dropout_is_refused_by_name_or_frozen():
    problem = classifier()
    problem.model = nn.Sequential(problem.model[0], nn.Tanh(), nn.Dropout(0.3), problem.model[2])
    point = problem.read()
    optimizer = kt.HessianFree(problem.parameters)
    with pytest.raises(RuntimeError, match="randomness='freeze'"):
        optimizer.step(problem)
    assert torch.equal(problem.read(), point)
    frozen = kt.HessianFree(problem.parameters, randomness="freeze")
    masks = set()
    for _ in range(4):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        loss = frozen.step(problem)
        record = frozen.last_step
        assert record.accepted
        masks.add(bytes(torch.get_rng_state().numpy()))
        # The step is judged by the units that the gradient saw.
        torch.set_rng_state(state)
        assert float(problem()[0].detach()) == pytest.approx(record.loss_after)
        assert record.loss_after < loss
    assert len(masks) == 1  # one evaluation's draws, however many there were
    problem.model.eval()
    optimizer.step(problem)
    assert optimizer.last_step.accepted


def test_frozen_numbers_are_new_in_every_step():
    problem = classifier()
    seen = []

    def closure():
        seen.append(float(torch.rand(())))
        return problem()

    torch.manual_seed(0)
    optimizer = kt.HessianFree(problem.parameters, randomness="freeze")
    per_step = []
    for _ in range(3):
        seen.clear()
        optimizer.step(closure)
        assert len(seen) > 1
        assert len(set(seen)) == 1
        per_step.append(seen[0])
    assert len(set(per_step)) == 3


def test_a_variational_autoencoder_draws_the_same_noise_within_a_step():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 6, generator=generator, dtype=torch.float64)
    encoder, decoder = nn.Linear(6, 4).double(), nn.Linear(2, 6).double()
    parameters = [*encoder.parameters(), *decoder.parameters()]

    def closure():
        mean, log_variance = encoder(x).chunk(2, dim=1)
        noise = torch.randn(mean.shape, dtype=mean.dtype)
        z = decoder(mean + noise * (log_variance / 2).exp())
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).mean()
        return F.mse_loss(z, x) + 0.1 * divergence

    with pytest.raises(RuntimeError, match="randomness='freeze'"):
        kt.HessianFree(parameters, curvature="hessian").step(closure)
    torch.manual_seed(0)
    optimizer = kt.HessianFree(
        parameters, curvature="hessian", solver="bicgstab", stop=10, randomness="freeze"
    )
    first = float(optimizer.step(closure))
    for _ in range(15):
        optimizer.step(closure)
        assert optimizer.last_step.loss_after <= optimizer.last_step.loss_before
    assert optimizer.last_step.loss_after < 0.5 * first


def test_batch_norm_is_refused_by_name_or_allowed():
    problem = classifier()
    norm = nn.BatchNorm1d(4).double()
    problem.model = nn.Sequential(problem.model[0], norm, nn.Tanh(), problem.model[2])
    with pytest.raises(RuntimeError, match="allow_batch_norm=True"):
        kt.HessianFree(problem.parameters).step(problem)
    optimizer = kt.HessianFree(problem.parameters, allow_batch_norm=True)
    for _ in range(4):
        optimizer.step(problem)
        assert optimizer.last_step.accepted
        assert float(problem()[0].detach()) == pytest.approx(optimizer.last_step.loss_after)
    norm.eval()
    kt.HessianFree(problem.parameters).step(problem)


def test_parameters_that_are_frozen_later_are_named():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    problem.parameters[1].requires_grad_(False)
    with pytest.raises(RuntimeError, match="requires_grad"):
        optimizer.step(problem)
    problem.parameters[1].requires_grad_(True)
    optimizer.step(problem)
    assert optimizer.last_step.accepted
