"""The training driver: one loop for every optimizer."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from training_cases import LOSS, OPTIMIZERS, flat

from krylov.cli.runs import read_json_lines as read_log
from krylov.torch.schedules import FixedSize, GeometricSchedule, VarianceSchedule
from krylov.torch.training import Ending, fit, mlp
from krylov.torch.training.measure import measure
from krylov.torch.training.samples import Samples


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(data, model, name):
    optimizer = OPTIMIZERS[name](model.parameters())
    history = fit(model, LOSS, data.train, optimizer=optimizer, steps=15, batch=30)
    losses = history.column("loss")
    assert history.ending is Ending.STEPS
    assert history.column("step") == list(range(16))
    assert losses[-1] < 0.8 * losses[0]
    assert history.best_loss == min(losses)
    loss, error = measure(
        model,
        LOSS,
        Samples(*data.train),
        batch=7,
        metric=lambda o, y: (o.argmax(1) != y).float().mean(),
    )
    assert loss == pytest.approx(history.best_loss, rel=1e-5)
    assert error == pytest.approx(history.column("error")[history.best_step])
    for name in ("gradient_equivalents", "data_passes", "collectives", "seconds.total"):
        column = history.column(name)
        assert column[0] == 0
        assert column == sorted(column)
        assert column[-1] > column[0]


def test_first_order_costs(data, model):
    optimizer = OPTIMIZERS["adam"](model.parameters())
    schedule = GeometricSchedule(45, 2.0, 90)
    last = fit(
        model, LOSS, data.train, optimizer=optimizer, steps=3, batch=40, gradient_schedule=schedule
    ).records[-1]
    # 45 + 90 + 90 samples in mini-batches of 40: 2 + 3 + 3.
    assert last["gradient_equivalents"] == last["data_passes"] == 2.5
    assert last["collectives"] == 8
    assert last["gradient_samples"] == 90


def test_closure_costs(data, model):
    optimizer = OPTIMIZERS["lbfgs"](model.parameters())
    history = fit(model, LOSS, data.train, optimizer=optimizer, steps=2, batch=40)
    calls = sum(history.column("optimizer.evaluations")[1:])
    assert (
        history.records[-1]["gradient_equivalents"] == calls == history.records[-1]["collectives"]
    )


def test_hessian_free_costs(data, model):
    optimizer = OPTIMIZERS["hf"](model.parameters())
    schedules = {"gradient_schedule": FixedSize(60), "curvature_schedule": FixedSize(20)}
    history = fit(model, LOSS, data.train, optimizer=optimizer, steps=2, batch=15, **schedules)
    own = [record["optimizer"] for record in history.records[1:]]
    last = history.records[-1]
    assert last["gradient_equivalents"] == pytest.approx(sum(o["cost"] for o in own) / 90)
    visits = sum(60 + 20 * o["products"] + 60 * o["evaluations"] for o in own)
    assert last["data_passes"] == pytest.approx(visits / 90)
    assert last["collectives"] == sum(o["collectives"] for o in own)
    assert (last["gradient_samples"], last["curvature_samples"]) == (60, 20)


def test_minibatches_equal_a_plain_loop(data):
    first, second = (mlp(4, 2, (8,)) for _ in range(2))
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (first, second)]
    fit(first, LOSS, data.train, optimizer=optimizers[0], steps=1, batch=90, keep="last")
    optimizers[1].zero_grad()
    LOSS(second(data.train[0]), data.train[1]).backward()
    optimizers[1].step()
    torch.testing.assert_close(flat(first), flat(second))


def test_micro_batches_do_not_change_the_closure(data):
    models = [mlp(4, 2, (8,)) for _ in range(2)]
    for each, batch in zip(models, (90, 7), strict=True):
        optimizer = torch.optim.LBFGS(each.parameters(), max_iter=3)
        fit(each, LOSS, data.train, optimizer=optimizer, steps=1, batch=batch)
    torch.testing.assert_close(flat(models[0]), flat(models[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_seed_gives_the_same_run(data, name):
    def run(seed):
        model = mlp(4, 2, (8,))
        fit(
            model,
            LOSS,
            data.train,
            optimizer=OPTIMIZERS[name](model.parameters()),
            steps=3,
            batch=10,
            seed=seed,
            gradient_schedule=FixedSize(50),
        )
        return flat(model)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_variance_schedule(data, model):
    schedule = VarianceSchedule(20, 0.25, 90)
    optimizer = OPTIMIZERS["hf"](model.parameters())
    history = fit(model, LOSS, data.train, optimizer=optimizer, steps=6, gradient_schedule=schedule)
    sizes = history.column("gradient_samples")[1:]
    assert sizes[0] == 20
    assert sizes == sorted(sizes)
    assert sizes[-1] == 90  # a noisy gradient near the minimum asks for all there is
    assert optimizer.last_statistics.groups >= 10


def test_best_parameters_by_held_out_loss(data, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)  # too large: the loss goes up and down
    kept = {}

    def watch(record):
        kept[record["step"]] = flat(model)

    options = {"held_out": data.held_out, "steps": 12, "batch": 30, "callback": watch}
    history = fit(model, LOSS, data.train, optimizer=optimizer, **options)
    losses = history.column("held_out_loss")
    assert history.best_loss == min(losses)
    assert losses[history.best_step] == min(losses)
    assert 0 < history.best_step < 12, "the example no longer overshoots"
    assert torch.equal(flat(model), kept[history.best_step])
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    fit(model, LOSS, data.train, optimizer=optimizer, keep="last", **options)
    assert torch.equal(flat(model), kept[12])


def test_endings(data, model, tmp_path):
    def run(**options):
        optimizer = OPTIMIZERS["adam"](model.parameters())
        return fit(model, LOSS, data.train, held_out=data.held_out, optimizer=optimizer, **options)

    def stop(record):
        if record["step"] == 2:
            raise StopIteration

    history = run(callback=stop, checkpoint=tmp_path / "c.pt", checkpoint_every=100)
    assert (history.ending, len(history.records)) == (Ending.CALLBACK, 3)
    history = run(resume=True, checkpoint=tmp_path / "c.pt", steps=3)
    assert (history.ending, len(history.records)) == (Ending.STEPS, 4)
    assert run(time_limit=1e-9).ending is Ending.TIME_LIMIT
    assert run(target_loss=10.0).ending is Ending.TARGET
    history = run(target_held_out=0.6, steps=200)
    assert history.ending is Ending.TARGET
    assert history.records[-1]["held_out_loss"] <= 0.6 < history.records[-2]["held_out_loss"]
    assert all(ending.value.endswith(".") for ending in Ending)


def test_no_steps(data, model):
    before = flat(model)
    history = fit(model, LOSS, data.train, optimizer=OPTIMIZERS["hf"](model.parameters()), steps=0)
    assert len(history.records) == 1
    assert torch.equal(flat(model), before)


def test_hessian_free_is_the_default(data, model):
    history = fit(model, LOSS, torch.utils.data.TensorDataset(*data.train), steps=1)
    assert history.column("optimizer.damping")[1] > 0


def test_modes_are_left_alone(data):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[1].eval()
    fit(model, LOSS, data.train, optimizer=OPTIMIZERS["adam"](model.parameters()), steps=1)
    assert [module.training for module in model] == [True, False, True, True]


def test_measuring_draws_no_random_numbers(data):
    def run(held_out):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = OPTIMIZERS["adam"](model.parameters())
        fit(model, LOSS, data.train, optimizer=optimizer, steps=2, held_out=held_out, keep="last")
        return flat(model)

    assert torch.equal(run(None), run(data.held_out))


def test_own_metric_and_loss(data):
    model = nn.Linear(4, 1)
    inputs = data.train[0]
    targets = inputs.sum(1, keepdim=True)
    history = fit(
        model,
        lambda outputs, wanted: (outputs - wanted).abs().mean(),
        (inputs, targets),
        optimizer=OPTIMIZERS["adam"](model.parameters()),
        steps=1,
        metric=lambda outputs, wanted: (outputs - wanted).square().mean(),
    )
    errors = (model(inputs) - targets).detach()
    assert history.column("error")[history.best_step] == pytest.approx(
        float(errors.square().mean()), rel=1e-4
    )


def test_resume_without_a_checkpoint_begins(data, model, tmp_path):
    optimizer = OPTIMIZERS["adam"](model.parameters())
    options = {"steps": 1, "resume": True, "checkpoint": tmp_path / "c.pt"}
    assert len(fit(model, LOSS, data.train, optimizer=optimizer, **options).records) == 2


def test_records_are_those_of_the_log(data, model, tmp_path):
    path = tmp_path / "log.jsonl"
    optimizer = OPTIMIZERS["hf"](model.parameters())
    history = fit(model, LOSS, data.train, optimizer=optimizer, steps=2, log=path)
    assert read_log(path) == history.records == json.loads(json.dumps(history.records))
    assert history.column("optimizer.nothing") == [None] * 3
