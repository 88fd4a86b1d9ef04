"""Parameters of every sort: groups, frozen, unused, tied, of any layout and precision."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from networks import VARIANTS, classifier, digits, name_of, regression
from torch import nn

import krylov.torch as kt


def train(problem, steps, closure=None, **options):
    optimizer = kt.HessianFree(problem.parameters, **options)
    for _ in range(steps):
        optimizer.step(closure or problem)
    return optimizer


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_weight_decay_is_a_penalty_in_the_loss(kind):
    decays = [0.1, 0.0, 0.03, 0.7]
    ours, theirs = classifier(), classifier()
    groups = [
        {"params": [p], "weight_decay": d} for p, d in zip(ours.parameters, decays, strict=True)
    ]
    a = kt.HessianFree(groups, curvature=kind, solver="cg", stop=5)

    def penalised():
        loss, z = theirs()
        # As an output the penalty has the Gauss-Newton matrix that it should have.
        roots = [p * (d**0.5) for p, d in zip(theirs.parameters, decays, strict=True)]
        loss = loss + sum(r.square().sum() for r in roots) / 2
        return loss, (z, *roots)

    b = kt.HessianFree(theirs.parameters, curvature=kind, solver="cg", stop=5)
    for _ in range(5):
        first, second = a.step(ours), b.step(penalised)
        assert float(first) == pytest.approx(float(second), rel=1e-9)
        torch.testing.assert_close(ours.read(), theirs.read(), rtol=1e-6, atol=1e-8)
    assert a.last_step.loss_after == pytest.approx(b.last_step.loss_after)


def test_learning_rates_multiply_the_step():
    start = regression().read()

    def moved(**options):
        problem = regression()
        kt.HessianFree(problem.parameters, damping=0.1, stop=1, **options).step(problem)
        return problem.read() - start

    whole = moved()
    torch.testing.assert_close(moved(lr=0.25), 0.25 * whole)
    problem = regression()
    weight, bias = problem.parameters
    groups = [{"params": [weight], "lr": 0.5}, {"params": [bias], "lr": 0.0}]
    kt.HessianFree(groups, damping=0.1, stop=1).step(problem)
    torch.testing.assert_close(problem.read()[:8] - start[:8], 0.5 * whole[:8])
    assert torch.equal(problem.read()[8:], start[8:])


def test_groups_are_one_vector():
    ours, theirs = classifier(), classifier()
    p = ours.parameters
    a = kt.HessianFree([{"params": p[:1]}, {"params": p[1:], "lr": 1.0}], stop=6)
    b = kt.HessianFree(theirs.parameters, stop=6)
    for _ in range(3):
        a.step(ours)
        b.step(theirs)
        assert torch.equal(ours.read(), theirs.read())


def test_named_parameters():
    ours, theirs = classifier(), classifier()
    kt.HessianFree(ours.model.named_parameters()).step(ours)
    kt.HessianFree(theirs.parameters).step(theirs)
    assert torch.equal(ours.read(), theirs.read())


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_frozen_and_unused_parameters_stay(kind):
    problem = classifier()
    frozen, unused = problem.parameters[0].requires_grad_(False), torch.ones(3, requires_grad=True)
    before = frozen.clone()
    optimizer = kt.HessianFree([*problem.parameters, unused], curvature=kind)
    for _ in range(3):
        optimizer.step(problem)
        assert optimizer.last_step.accepted
    assert torch.equal(frozen, before)
    assert torch.equal(unused.detach(), torch.ones(3))


def test_unused_parameters_decay():
    problem, unused = regression(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    kt.HessianFree([*problem.parameters, unused], weight_decay=1.0, damping=1e-9).step(problem)
    assert unused.detach().abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_tied_weights_are_one_parameter(kind):
    """An autoencoder whose decoder is the transpose of its encoder; the Newton step by hand."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    encoder, decoder = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
    encoder.weight = nn.Parameter(torch.randn(2, 4, generator=generator, dtype=torch.float64))
    decoder.weight = encoder.weight
    decoder.forward = lambda h: h @ decoder.weight
    model = nn.Sequential(encoder, decoder)
    start = encoder.weight.detach().clone()

    def outputs(w):
        w = w.view(2, 4)
        return (x @ w.T @ w).reshape(-1)

    def f(w):
        return F.mse_loss(outputs(w), x.reshape(-1))

    flat = start.reshape(-1)
    J = torch.autograd.functional.jacobian(outputs, flat)
    B = J.T @ J * 2 / x.numel() if kind == "ggn" else torch.autograd.functional.hessian(f, flat)
    g = torch.autograd.functional.jacobian(f, flat)
    wanted = -torch.linalg.solve(B + 5 * torch.eye(8, dtype=B.dtype), g)

    def closure():
        z = model(x)
        return F.mse_loss(z, x), z

    optimizer = kt.HessianFree(model.parameters(), curvature=kind, damping=5.0, stop=100)
    optimizer.step(closure)
    assert optimizer.last_step.alpha == 1
    moved = (encoder.weight.detach() - start).reshape(-1)
    last = optimizer.state_dict()["hessian_free"]["memory"]["direction"]
    torch.testing.assert_close(last, wanted, rtol=1e-6, atol=1e-8)
    assert moved @ wanted > 0


def test_parameters_in_any_layout():
    ours, theirs = classifier(), classifier()
    with torch.no_grad():
        for p in ours.parameters:
            if p.ndim == 2:
                p.data = p.data.T.contiguous().T
    strides = [p.stride() for p in ours.parameters]
    a, b = (kt.HessianFree(p.parameters, stop=6) for p in (ours, theirs))
    for _ in range(3):
        a.step(ours)
        b.step(theirs)
    assert strides == [p.stride() for p in ours.parameters]
    torch.testing.assert_close(ours.read(), theirs.read())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_precisions(options, dtype):
    problem = classifier(dtype=dtype)
    optimizer = train(problem, 5, **options)
    assert optimizer.last_step.loss_after < optimizer.step(problem) + 1
    assert all(p.dtype == dtype for p in problem.parameters)
    direction = optimizer.state_dict()["hessian_free"]["memory"]["direction"]
    assert direction is None or direction.dtype == dtype


def test_parameters_of_two_precisions():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3).double())
    x, y = classifier().x.float(), classifier().y

    def closure():
        z = model[2](model[1](model[0](x)).double())
        return F.cross_entropy(z, y), z

    optimizer = kt.HessianFree(model.parameters())
    first = optimizer.step(closure)
    for _ in range(5):
        last = optimizer.step(closure)
    assert last < 0.9 * first
    assert model[0].weight.dtype == torch.float32


@pytest.mark.parametrize("around", [False, True], ids=["in the closure", "around the step"])
@pytest.mark.parametrize("options", VARIANTS[:3], ids=name_of)
def test_bfloat16_autocast(options, around):
    problem = digits(samples=200)

    def cast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = problem.model(problem.x)
        return F.cross_entropy(outputs.float(), problem.y), outputs

    optimizer = kt.HessianFree(problem.parameters, damping=0.1, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
        for _ in range(8):
            optimizer.step(cast)
    assert optimizer.last_step.loss_after < 0.5
    assert float(problem()[0].detach()) < 0.6


def test_groups_cannot_be_added_later():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    with pytest.raises(RuntimeError, match="build a new optimizer"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(problem)
