"""`NewtonCG` as an optimizer of torch: mini-batches, schedulers, state, the training driver."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import gc
import io
import math
import weakref

import pytest

torch = pytest.importorskip("torch")

from networks import classifier, digits, regression
from torch import nn

import krylov.torch as kt

LM = kt.LevenbergMarquardt
EVERY = {
    "plain": {},
    "warm": {"warm_start": 0.9, "curvature": "ggn"},
    "adapted": {"damping": LM(0.5), "warm_start": 0.5},
    "armijo": {"line_search": kt.Armijo(), "lr": 0.8},
    "ritz": {
        "curvature": "ggn",
        "solver": "flexible_cg",
        "preconditioner": "ritz",
        "preconditioner_options": {"m": 4},
    },
    "jacobi": {"preconditioner": "jacobi"},
    "subspace": {"solver": "subspace", "maxiter": 4, "warm_start": 0.5},
    "bicgstab": {"solver": "bicgstab"},
}


def alone(problem):
    """A closure that returns the loss alone."""
    return lambda *batch: problem.closure(*batch)[0]


def built(options):
    problem = digits(samples=60, hidden=4)
    return problem, kt.NewtonCG(problem.parameters, **options)


def epoch(problem, optimizer, count=1):
    records = []
    for _ in range(count):
        for batch in problem.batches(20):
            optimizer.step_batches(problem.closure, gradient=[batch])
            records.append(optimizer.last_step)
    return records


def assert_same(first, second):
    """Records that differ in nothing but seconds; NaN is NaN."""
    for a, b in zip(first, second, strict=True):
        assert len({repr({**r.as_dict(), "seconds": None}) for r in (a, b)}) == 1


def picture(problem, optimizer):
    return problem.read().tolist(), str(optimizer.state_dict())


@pytest.mark.parametrize("name", EVERY)
def test_digits_are_learnt_by_mini_batches(name):
    problem = digits(samples=400)
    optimizer = kt.NewtonCG(problem.parameters, **EVERY[name])
    for _ in range(12):
        for batch in problem.batches(100):
            optimizer.step_batches(problem.closure, gradient=[batch])
    assert problem()[0].item() < 0.25


def test_schedulers_set_the_rate():
    problem, by_hand = classifier(), classifier()
    optimizer = kt.NewtonCG(problem.parameters, lr=0.4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    other = kt.NewtonCG(by_hand.parameters)
    for i in range(4):
        optimizer.step(alone(problem))
        scheduler.step()
        other.param_groups[0]["lr"] = 0.4 * 0.5**i
        other.step(alone(by_hand))
        assert torch.equal(problem.read(), by_hand.read())


def test_a_rate_of_zero_moves_nothing_and_keeps_the_direction():
    problem = classifier()
    optimizer = kt.NewtonCG(problem.parameters, lr=0.0, warm_start=0.9, curvature="ggn")
    before = problem.read()
    optimizer.step(problem)
    assert torch.equal(problem.read(), before)
    assert optimizer.state_dict()["newton_cg"]["memory"]["direction"] is not None


def test_step_returns_the_loss_before_on_the_evaluation_sample():
    problem = classifier(samples=12)
    point, (first, second, third) = problem.read(), problem.batches(4)
    optimizer = kt.NewtonCG(problem.parameters, curvature="ggn", lr=0.5)
    loss = optimizer.step_batches(
        problem.closure, gradient=[first, second], curvature=[second], evaluation=[third]
    )
    record = optimizer.last_step
    assert loss.item() == record.loss_before == pytest.approx(problem.value(point, third).item())
    after = problem.value(problem.read(), third).item()
    assert record.loss_after == pytest.approx(after, rel=1e-12)
    assert (record.gradient_samples, record.curvature_samples, record.evaluations) == (8, 4, 2)
    assert not math.isnan(record.rho)
    assert optimizer.last_statistics.groups == 2


def test_frozen_and_unused_parameters_stay():
    problem = classifier()
    frozen, unused = problem.parameters[0].requires_grad_(False), torch.ones(3, requires_grad=True)
    before = frozen.clone()
    optimizer = kt.NewtonCG([*problem.parameters, unused])
    for _ in range(3):
        optimizer.step(alone(problem))
    assert torch.equal(frozen, before)
    assert torch.equal(unused.detach(), torch.ones(3))
    assert all(p.grad is None for p in problem.parameters)


def test_no_graph_outlives_its_step():
    problem = classifier()
    seen = []

    def closure():
        loss, outputs = problem()
        seen.append(weakref.ref(outputs))
        return loss

    optimizer = kt.NewtonCG(problem.parameters, warm_start=0.5)
    optimizer.step(closure)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            optimizer.step(closure)
            assert not any(ref() is not None for ref in seen), "alive without the collector"
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------
# State


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_optimizer_goes_on_bit_for_bit(name):
    problem, optimizer = built(EVERY[name])
    epoch(problem, optimizer, 2)
    file = io.BytesIO()
    torch.save([problem.model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    copied = copy.deepcopy((problem, optimizer))
    records = epoch(problem, optimizer, 2)
    other, resumed = built(EVERY[name])
    other.model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for problem_too, optimizer_too in ((other, resumed), copied):
        assert_same(epoch(problem_too, optimizer_too, 2), records)
        assert torch.equal(problem_too.read(), problem.read())


def test_states_of_others_are_refused_and_change_nothing():
    problem, optimizer = built(EVERY["warm"])
    epoch(problem, optimizer)
    before = picture(problem, optimizer)
    small = classifier(dtype=torch.float32)
    less = kt.NewtonCG(small.parameters, warm_start=0.5)
    less.step(alone(small))
    broken = copy.deepcopy(optimizer.state_dict())
    broken["newton_cg"]["memory"]["damping"] = math.nan
    for state, error in (
        (kt.HessianFree(problem.parameters).state_dict(), KeyError),
        (less.state_dict(), ValueError),
        (broken, ValueError),
        (kt.NewtonCG(problem.parameters, preconditioner="jacobi").state_dict(), ValueError),
    ):
        with pytest.raises(error):
            optimizer.load_state_dict(state)
        assert picture(problem, optimizer) == before


# -------------------------------------------------------------------------------------------------
# The training driver


def data():
    problem = digits(samples=300)
    return (problem.x[:240], problem.y[:240]), (problem.x[240:], problem.y[240:])


def fitted(optimizer_options, loss=None, **options):
    problem = digits(samples=300)
    train, held_out = data()
    optimizer = kt.NewtonCG(problem.parameters, **optimizer_options)
    loss = loss or nn.CrossEntropyLoss()
    keywords = {"batch": 50, "progress": False, "seed": 3, **options}
    history = kt.fit(problem.model, loss, train, held_out=held_out, optimizer=optimizer, **keywords)
    return problem, history


def test_fit_takes_epochs_of_mini_batches(tmp_path):
    log = tmp_path / "log.jsonl"
    _, history = fitted({"curvature": "ggn"}, steps=4, log=log)
    first, last = history.records[0], history.records[-1]
    assert last["held_out_loss"] < 0.5 * first["held_out_loss"]
    assert last["optimizer"]["step"] == 20
    cost = sum(r["optimizer"]["cost"] for r in history.records[1:])
    assert last["gradient_equivalents"] == pytest.approx(cost / 240)
    products = sum(r["optimizer"]["products"] for r in history.records[1:])
    assert last["data_passes"] == pytest.approx(4 + products * 48 / 240)
    assert last["collectives"] == 20 + products
    assert log.read_text().count("\n") == 5


def test_fit_resumes_bit_for_bit(tmp_path):
    options = {**EVERY["ritz"], "warm_start": 0.5, "damping": LM(0.3)}
    whole, wanted = fitted(options, steps=4)
    kept = {"checkpoint": tmp_path / "checkpoint.pt"}
    fitted(options, steps=2, **kept)
    resumed, history = fitted(options, steps=4, resume=True, **kept)
    assert torch.equal(resumed.read(), whole.read())
    for a, b in zip(wanted.records, history.records, strict=True):
        assert repr({**a, "seconds": 0}) == repr({**b, "seconds": 0})


class Late(nn.CrossEntropyLoss):
    """A loss that is NaN from some evaluation on."""

    evaluations = 0

    def forward(self, outputs, targets):
        self.evaluations += outputs.requires_grad
        return super().forward(outputs, targets) * (math.nan if self.evaluations > 7 else 1)


def test_fit_names_the_mini_batch_that_is_not_finite():
    with pytest.raises(kt.NonFiniteLoss, match="iteration 2, mini-batch 3 of 5: the loss is nan"):
        fitted({}, Late(), steps=3)


def test_fit_ends_where_a_step_overflows():
    problem = regression(dtype=torch.float32)
    before = problem.read()
    optimizer = kt.NewtonCG(problem.parameters, lr=3e38)
    data = problem.x, 100 * problem.y
    with pytest.raises(kt.NonFiniteLoss, match="mini-batch 1 of 2: the step overflows"):
        kt.fit(problem.model, nn.MSELoss(), data, optimizer=optimizer, batch=10, progress=False)
    assert torch.equal(problem.read(), before)


@pytest.mark.parametrize(
    "options",
    [{"curvature_schedule": kt.FixedSize(20)}, {"evaluation": "held_out"}],
    ids=["curvature", "evaluation"],
)
def test_fit_has_no_samples_for_it(options):
    with pytest.raises(ValueError, match="for HessianFree"):
        fitted({}, steps=1, **options)


def test_the_whole_sample_is_a_mini_batch_too():
    problem = regression()
    optimizer = kt.NewtonCG(problem.parameters, damping=0.0, tol=1e-8, maxiter=20)
    history = kt.fit(
        problem.model,
        nn.MSELoss(),
        (problem.x, problem.y),
        optimizer=optimizer,
        batch=20,
        steps=1,
        progress=False,
    )
    assert problem.gradient(problem.read()).norm() < 1e-6
    assert history.records[-1]["optimizer"]["step"] == 1
