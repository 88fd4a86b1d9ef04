"""What a training run refuses, and what it saves when something fails: a loss, a disk, a checkpoint."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from training_cases import LOSS, OPTIMIZERS, flat

import krylov.torch as kt
from krylov.cli.runs import read_json_lines as read_log
from krylov.torch.schedules import FixedSize, VarianceSchedule
from krylov.torch.training import CheckpointError, NonFiniteLoss, fit, mlp


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_that_is_not_finite_is_named_and_nothing_is_lost(data, name, tmp_path):
    inputs, targets = data.train
    poisoned = 17

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(4, 2, (8,))
            self.calls = 0

        def forward(self, x):
            self.calls += torch.is_grad_enabled() and bool((x == inputs[poisoned]).all(1).any())
            bad = (x == inputs[poisoned]).all(1, keepdim=True) & (self.calls > 2)
            return torch.where(bad, torch.nan, self.inner(x))

    model = Model()
    path = tmp_path / "c.pt"
    with pytest.raises(NonFiniteLoss, match=rf"iteration \d+.*the first is sample {poisoned}:"):
        fit(
            model,
            LOSS,
            (inputs, targets),
            optimizer=OPTIMIZERS[name](model.parameters()),
            steps=9,
            checkpoint=path,
            log=tmp_path / "log.jsonl",
        )
    assert torch.isfinite(flat(model)).all()
    state = torch.load(path, weights_only=True)
    assert torch.equal(
        flat(model), torch.cat([v.flatten() for v in state["best"]["model"].values()])
    )
    assert len(read_log(tmp_path / "log.jsonl")) == state["step"] + 1


@pytest.mark.parametrize("kind", [kt.HessianFree, kt.NewtonCG, partial(kt.Neumann, lr=0.1)])
def test_a_gradient_that_is_not_finite_is_told_with_its_iteration(data, model, kind):
    def loss(outputs, targets):  # the slope of a root at zero is infinite
        return LOSS(outputs, targets) + (0 * outputs.sum()).sqrt()

    before = flat(model)
    with pytest.raises(NonFiniteLoss, match="iteration 1"):
        fit(model, loss, data.train, optimizer=kind(model.parameters()), steps=2)
    assert torch.equal(flat(model), before)


def test_a_loss_that_is_not_finite_from_the_start(data, model):
    with torch.no_grad():
        model[1].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteLoss, match="before the first iteration"):
        fit(model, LOSS, data.train, optimizer=OPTIMIZERS["hf"](model.parameters()))


def test_disk_that_is_full_for_a_while(data, model, tmp_path, capsys):
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()

    def trouble(record):
        if record["step"] == 2:
            folder.rename(away)
        if record["step"] == 4:
            away.rename(folder)

    options = {"log": folder / "log.jsonl", "checkpoint": folder / "c.pt", "steps": 5}
    optimizer = OPTIMIZERS["adam"](model.parameters())
    fit(model, LOSS, data.train, optimizer=optimizer, callback=trouble, **options)
    assert [record["step"] for record in read_log(folder / "log.jsonl")] == list(range(6))
    assert torch.load(folder / "c.pt", weights_only=True)["step"] == 5
    said = capsys.readouterr().err
    assert said.count("Training goes on") == 2  # once for the log, once for the checkpoint


def test_disk_that_stays_full(data, model, tmp_path):
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()

    def trouble(record):
        if record["step"] == 2:
            folder.rename(away)

    optimizer = OPTIMIZERS["adam"](model.parameters())
    options = {"checkpoint": folder / "c.pt", "steps": 4, "callback": trouble}
    with pytest.raises(CheckpointError, match="cannot be written"):
        fit(model, LOSS, data.train, optimizer=optimizer, **options)
    assert torch.load(away / "c.pt", weights_only=True)["step"] == 1
    assert torch.isfinite(flat(model)).all()


def test_unwritable_places_show_before_the_work(data, model, tmp_path):
    (tmp_path / "c.pt").mkdir()
    (tmp_path / "c.pt" / "x").write_text("")
    calls = []
    options = {"optimizer": OPTIMIZERS["adam"](model.parameters()), "callback": calls.append}
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"log\.jsonl"):
        fit(model, LOSS, data.train, log=tmp_path / "log.jsonl", **options)
    with pytest.raises(ValueError, match="does not exist"):
        fit(model, LOSS, data.train, log=tmp_path / "none" / "log.jsonl", **options)
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        fit(model, LOSS, data.train, checkpoint=tmp_path / "c.pt", **options)
    assert calls == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": mlp(4, 2, (9,))}, "parameters differ"),
        ({"optimizer": "sgd"}, "optimizer differ: Adam, here SGD"),
        ({"batch": 31}, "batch differ: 30, here 31"),
        ({"seed": 3}, "seed"),
        ({"gradient_schedule": FixedSize(90)}, "schedules differ"),
        (
            {"data": (torch.zeros(80, 4), torch.zeros(80).long())},
            "training samples differ: 90, here 80",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(data, model, tmp_path, change, words):
    def run(model=model, optimizer="adam", data=data.train, **options):
        made = OPTIMIZERS[optimizer](model.parameters())
        options = {"batch": 30, "checkpoint": tmp_path / "c.pt"} | options
        fit(model, LOSS, data, optimizer=made, steps=1, **options)

    run()
    with pytest.raises(CheckpointError, match=words):
        run(resume=True, **change)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"step": 3}, TypeError, "no option 'step'; there are steps"),
        ({"steps": -1}, ValueError, "steps"),
        ({"batch": 0}, ValueError, "batch"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"keep": "all"}, ValueError, "best, last"),
        ({"gradient_samples": "new"}, ValueError, "nested, fresh"),
        ({"evaluation": "test"}, ValueError, "gradient, held_out"),
        ({"evaluation": "held_out"}, ValueError, "needs held_out samples"),
        ({"target_held_out": 0.1}, ValueError, "needs held_out samples"),
        ({"target_loss": math.nan}, ValueError, "target_loss"),
        ({"time_limit": 0}, ValueError, "time_limit"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every"),
        ({"resume": True}, ValueError, "resume needs checkpoint"),
        ({"callback": 3}, TypeError, "callback"),
        ({"metric": "error"}, TypeError, "metric"),
        ({"curvature_schedule": FixedSize(3)}, ValueError, "for HessianFree"),
        ({"gradient_schedule": VarianceSchedule(3, 0.25, 90)}, ValueError, "needs HessianFree"),
        ({"data": torch.zeros(3)}, TypeError, "pair of tensors"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, ValueError, "reduction='mean'"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)},
            ValueError,
            "model has not",
        ),
        (
            {"held_out": (torch.zeros(3, 4), torch.full((3,), 7))},
            ValueError,
            "held-out targets.*0 ... 1",
        ),
        (
            {"data": (torch.full((3, 4), math.inf), torch.zeros(3).long())},
            ValueError,
            "training inputs",
        ),
        ({"groups": torch.zeros(3).long()}, ValueError, "90 integers"),
    ],
)
def test_bad_options(data, model, options, error, words):
    given = {"optimizer": OPTIMIZERS["adam"](model.parameters()), "data": data.train, "loss": LOSS}
    before = flat(model)
    with pytest.raises(error, match=words):
        fit(model, **(given | options))
    assert torch.equal(flat(model), before)
