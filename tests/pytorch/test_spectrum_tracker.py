"""`SpectrumTracker` against the eigenvalues of dense curvature, in loops by hand and in `fit`."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import json
import math
import random

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from networks import classifier, digits
from torch import nn

import krylov.torch as kt


def ends(matrix):
    values = torch.linalg.eigvalsh(matrix)
    return float(values[-1]), float(values[0])


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("pieces", [None, 5])
def test_it_finds_the_ends_of_the_spectrum(curvature, pieces):
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters, curvature=curvature, k=31)
    batches = None if pieces is None else problem.batches(pieces)
    record = tracker.measure(7, problem.closure, batches)
    largest, smallest = ends(problem.curvature(curvature, problem.read()))
    assert record.max == pytest.approx(largest, rel=1e-10)
    assert record.min == pytest.approx(smallest, abs=1e-10)
    assert (record.min < -1e-3) == (curvature == "hessian")
    assert record.loss == pytest.approx(problem.closure()[0].item())
    assert record.step == 7
    assert tracker.records == [record]


def test_few_steps_bound_the_ends_from_within():
    problem = digits(samples=100, hidden=8)
    tracker = kt.SpectrumTracker(problem.parameters, k=10)
    record = tracker.measure(0, problem)
    largest, smallest = ends(problem.hessian(problem.read()).double())
    assert 0.9 * largest < record.max <= largest * (1 + 1e-5)
    assert smallest * (1 + 1e-4) <= record.min < 0.3 * smallest


@pytest.mark.parametrize(("curvature", "product"), [("hessian", 2), ("ggn", 4 / 3)])
@pytest.mark.parametrize("pieces", [None, 6])
def test_costs_are_counted_in_gradients(curvature, product, pieces):
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters, curvature=curvature, k=4)
    batches = None if pieces is None else problem.batches(pieces)
    record = tracker.measure(0, problem.closure, batches)
    assert record.products == 8
    assert record.gradient_equivalents == pytest.approx(1 + 8 * product)


def test_it_changes_nothing_and_repeats_itself():
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters)
    before, state = problem.read(), torch.get_rng_state()
    first, second = tracker.measure(1, problem), tracker.measure(1, problem)
    assert first == second
    assert torch.equal(problem.read(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in problem.parameters)


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_noise_leaves_the_generators_as_they_were(fails):
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters, randomness="freeze")

    def closure(batch):
        draws()
        if fails:
            raise KeyError("spoilt")
        return problem.loss_of(problem.model(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    expected = draws()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    data = torch.utils.data.TensorDataset(problem.x, problem.y)
    batches = torch.utils.data.DataLoader(data, 4, shuffle=True)  # it draws when it is read
    if fails:
        with pytest.raises(KeyError):
            tracker.measure(0, closure, batches)
    else:
        assert math.isfinite(tracker.measure(0, closure, batches).max)
    assert draws() == expected


class Noisy(nn.Module):
    """A model that draws in evaluation mode too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x + 0.1 * torch.randn_like(x))


def test_fit_takes_the_same_steps_with_and_without():
    def losses(**options):
        problem = digits(samples=40, hidden=4)
        torch.manual_seed(0)
        model, parameters = Noisy(problem.model), problem.parameters
        if options:
            options = {"spectrum": kt.SpectrumTracker(parameters, **options)}
        history = kt.fit(
            model,
            nn.CrossEntropyLoss(),
            (problem.x, problem.y),
            optimizer=torch.optim.SGD(parameters, 0.1),
            batch=8,
            steps=2,
            progress=False,
            **options,
        )
        return history.column("loss")

    assert losses(batch=20, k=2, randomness="freeze") == losses()


def test_a_saved_tracker_goes_on():
    problem = classifier()
    tracker, other = (kt.SpectrumTracker(problem.parameters, k=3) for _ in range(2))
    first = tracker.measure(0, problem)
    other.measure(7, problem)
    records = other.records
    other.load_state_dict(tracker.state_dict())
    second = other.measure(1, problem)
    assert other.records == [first, second]
    assert other.records is records  # whoever holds it sees all of them
    assert tracker.records == [first]


@pytest.mark.parametrize("option", [{"k": 4}, {"batch": 9}, {"curvature": "ggn"}])
def test_records_of_something_else_are_not_continued(option):
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters)
    tracker.measure(0, problem)
    other = kt.SpectrumTracker(problem.parameters, **option)
    with pytest.raises(ValueError, match=f"this tracker has {next(iter(option))}"):
        other.load_state_dict(tracker.state_dict())
    assert other.records == []


def test_a_loop_by_hand():
    problem = classifier()
    optimizer = kt.Neumann(problem.parameters, 0.2, warmup_steps=3, reset_every=5)
    tracker = kt.SpectrumTracker(problem.parameters, every=4)
    for step in range(10):
        if tracker.due(step):
            optimizer.eval()
            tracker.measure(step, lambda: problem.closure()[0])
            optimizer.train()
        optimizer.zero_grad()
        problem.closure()[0].backward()
        optimizer.step()
    assert [record.step for record in tracker.records] == [0, 4, 8]


def test_samples_depend_on_seed_and_step_alone():
    tracker, other = (
        kt.SpectrumTracker([nn.Parameter(torch.ones(2))], batch=8, seed=s) for s in (0, 1)
    )
    sample = tracker.sample(3, 50)
    assert len(set(sample.tolist())) == 8
    assert torch.equal(tracker.sample(3, 50), sample)
    assert not torch.equal(tracker.sample(4, 50), sample)
    assert not torch.equal(other.sample(3, 50), sample)
    assert sorted(tracker.sample(0, 5).tolist()) == list(range(5))


def test_fit_logs_the_spectrum_where_it_is_due(tmp_path):
    problem = digits(samples=60, hidden=4)
    model, loss = problem.model, nn.CrossEntropyLoss()
    tracker = kt.SpectrumTracker(model.parameters(), every=2, batch=20, k=5)
    first = problem.read()
    history = kt.fit(
        model,
        loss,
        (problem.x, problem.y),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        batch=8,
        steps=4,
        spectrum=tracker,
        log=tmp_path / "log.jsonl",
        progress=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "spectrum" in line] == [0, 2, 4]
    assert history.column("spectrum.max") == [
        line["spectrum"]["max"] if "spectrum" in line else None for line in lines
    ]
    assert history.column("gradient_equivalents") == [
        0,
        1,
        2,
        3,
        4,
    ]  # what it costs is not training
    indices = tracker.sample(0, 60)
    largest, _ = ends(problem.hessian(first, (problem.x[indices], problem.y[indices])).double())
    assert lines[0]["spectrum"]["max"] == pytest.approx(largest, rel=0.1)
    assert lines[0]["spectrum"]["gradient_equivalents"] == pytest.approx(21)


@pytest.mark.parametrize("where", ["loss", "product"])
def test_what_is_not_finite_is_recorded_as_such(where):
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    losses = {"loss": lambda: (w * math.nan).sum(), "product": lambda: (w.abs() ** 1.5).sum()}
    record = kt.SpectrumTracker([w]).measure(0, losses[where])
    assert math.isnan(record.max)
    assert math.isnan(record.min)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"curvature": "fisher"}, ValueError, "curvature must be one of"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"randomness": "ignore"}, ValueError, "randomness must be one of"),
        ({"allow_batch_norm": 1}, TypeError, "True or False"),
        ({"params": []}, ValueError, "nothing to train"),
    ],
)
def test_bad_options(options, kind, words):
    with pytest.raises(kind, match=words):
        kt.SpectrumTracker(**({"params": [nn.Parameter(torch.ones(2))]} | options))


def test_bad_measurements():
    problem = classifier()
    tracker = kt.SpectrumTracker(problem.parameters, curvature="ggn")
    for closure, batches, kind, words in (
        (lambda: problem.closure()[0], None, ValueError, "needs the outputs"),
        (problem.closure, [], ValueError, "batches is empty"),
        (lambda: problem.closure()[0].backward(), None, RuntimeError, "must not call backward"),
    ):
        with pytest.raises(kind, match=words):
            tracker.measure(0, closure, batches)
    assert tracker.records == []
    with pytest.raises(TypeError, match="spectrum must be a SpectrumTracker"):
        kt.fit(
            problem.model, nn.CrossEntropyLoss(), (problem.x, problem.y), spectrum=3, progress=False
        )
