"""Schedulers of torch in `fit`: stepped once an iteration, and resumed bit for bit."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

from functools import partial

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.optim import lr_scheduler as schedulers

import krylov.torch as kt
from krylov.torch.training import CheckpointError, fit, mlp

LOSS = nn.CrossEntropyLoss()
STEPS = 6
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.2, momentum=0.9),
    "hf": partial(kt.HessianFree, lr=0.5),
    "newton": partial(kt.NewtonCG, lr=0.5),
    "neumann": partial(kt.Neumann, lr=0.1, warmup_steps=2, reset_every=5),
    "series": partial(kt.NeumannSeries, lr=0.5, iterations=4),
}
SCHEDULERS = {
    "step": partial(schedulers.StepLR, step_size=2, gamma=0.5),
    "milestones": partial(schedulers.MultiStepLR, milestones=[2, 4]),
    "cosine": partial(schedulers.CosineAnnealingLR, T_max=STEPS),
    "one cycle": partial(schedulers.OneCycleLR, max_lr=0.3, total_steps=STEPS),
    "lambda": partial(schedulers.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "plateau": partial(schedulers.ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.3),
    "sequence": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LinearLR(optimizer, total_iters=2), schedulers.ExponentialLR(optimizer, 0.7)],
        [3],
    ),
}


def problem():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(60, 4, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return (inputs[:40], targets[:40]), (inputs[40:], targets[40:])


def run(optimizer, scheduler, steps=STEPS, **options):
    train, held_out = problem()
    model = mlp(4, 2, (8,), activation="tanh")
    made = OPTIMIZERS[optimizer](model.parameters())
    options = {"batch": 20, "keep": "last", "progress": False, "held_out": held_out} | options
    history = fit(model, LOSS, train, optimizer=made, scheduler=scheduler, steps=steps, **options)
    return history, nn.utils.parameters_to_vector(model.parameters()).detach(), made


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_are_those_of_a_loop_by_hand(name):
    history, *_ = run("sgd", SCHEDULERS[name])
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2, momentum=0.9)
    scheduler, expected = SCHEDULERS[name](optimizer), []
    for loss in history.column("held_out_loss")[1:]:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([loss] if name == "plateau" else []))
    assert history.column("lr") == [None, *expected]
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [*(("sgd", name) for name in SCHEDULERS), *((name, "cosine") for name in OPTIMIZERS)],
)
def test_a_resumed_run_is_the_same_to_the_last_bit(tmp_path, optimizer, scheduler):
    make, path = SCHEDULERS[scheduler], tmp_path / "c.pt"
    whole, expected, _ = run(optimizer, make)
    run(optimizer, make, steps=3, checkpoint=path)
    resumed, found, _ = run(optimizer, make, checkpoint=path, resume=True)
    for name in ("lr", "loss", "held_out_loss"):
        assert resumed.column(name) == whole.column(name)
    assert torch.equal(found, expected)
    constant, other, _ = run(optimizer, None)
    assert not torch.equal(other, expected)
    assert constant.column("lr") == [None] * (STEPS + 1)


def test_a_scheduler_may_be_given_as_it_is():
    model = mlp(4, 2, (8,))
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.2)
    scheduler = schedulers.StepLR(optimizer, 1)
    history = fit(
        model, LOSS, problem()[0], optimizer=optimizer, scheduler=scheduler, steps=2, progress=False
    )
    assert history.column("lr")[1:] == [pytest.approx([0.2] * 4), pytest.approx([0.02] * 4)]
    assert scheduler.last_epoch == 2


def test_it_is_made_for_the_default_optimizer_too():
    history = fit(
        mlp(4, 2, (8,)), LOSS, problem()[0], scheduler=SCHEDULERS["step"], steps=3, progress=False
    )
    assert history.column("lr")[1:] == [1.0, 1.0, 0.5]


def test_misuse_is_refused_before_any_work(tmp_path):
    other = schedulers.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), 1)
    log = tmp_path / "log.jsonl"
    for given, error, words in (
        (0.1, TypeError, "scheduler must be one of torch.optim.lr_scheduler"),
        (lambda optimizer: 0.1, TypeError, "scheduler must be"),
        (lambda optimizer: None, TypeError, "scheduler must be"),
        (other, ValueError, "another optimizer"),
        (lambda optimizer: other, ValueError, "the function's argument"),
        (schedulers.StepLR, TypeError, "step_size"),
    ):
        with pytest.raises(error, match=words):
            run("sgd", given, log=log)
    assert not log.exists()


def test_a_checkpoint_with_another_scheduler_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    run("sgd", SCHEDULERS["step"], steps=2, checkpoint=path)
    for other, words in (("cosine", "here CosineAnnealingLR"), (None, "here None")):
        with pytest.raises(CheckpointError, match=f"scheduler differ: StepLR, {words}"):
            run("sgd", SCHEDULERS.get(other), checkpoint=path, resume=True)
