"""What an optimizer of second order is given: samples, micro-batches, and their sharing."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from krylov.torch.schedules import FixedSize, GeometricSchedule, VarianceSchedule
from krylov.torch.statistics import GradientStatistics
from krylov.torch.training import fit

COUNT = 60


class Recorder(torch.optim.Optimizer):
    """Takes no steps and keeps what it was given."""

    def __init__(self, params):
        super().__init__(params, {})
        self.given = []
        self.last_statistics = GradientStatistics()
        self.last_statistics.add(torch.ones(2), 1)
        self.last_statistics.add(torch.zeros(2), 1)

    def step_batches(self, closure, *, gradient, curvature=None, evaluation=None):
        loss, outputs = closure(gradient[0])
        assert loss.ndim == 0
        assert len(outputs) == len(gradient[0][0])
        self.given.append((gradient, curvature, evaluation))
        counts = {"gradient_samples": 1, "curvature_samples": 1, "evaluation_samples": 1}
        entries = {"seconds": {}, "cost": 1.0, "products": 0, "evaluations": 0, "collectives": 0}
        self.last_step = SimpleNamespace(**entries, **counts)
        self.last_step.as_dict = lambda: {"seconds": {}, **counts}


def given_to(**options):
    rows = torch.arange(float(COUNT))[:, None]
    model = nn.Linear(1, 1)
    recorder = Recorder(model.parameters())
    fit(model, nn.MSELoss(), (rows, rows), optimizer=recorder, steps=3, **options)
    return recorder.given


def rows(batches):
    return torch.cat([inputs[:, 0] for inputs, _ in batches]).int().tolist()


@settings(deadline=None)  # the first optimizer makes torch import its compiler
@given(
    gradient=st.integers(1, COUNT + 5),
    curvature=st.integers(1, COUNT + 5),
    batch=st.integers(1, 70),
    fresh=st.booleans(),
    grouped=st.booleans(),
)
def test_the_curvature_sample_is_made_of_batches_of_the_gradient(
    gradient, curvature, batch, fresh, grouped
):
    groups = torch.arange(COUNT) // 6 if grouped else None
    mode = "fresh" if fresh else "nested"
    for first, second, third in given_to(
        gradient_schedule=FixedSize(gradient),
        curvature_schedule=FixedSize(curvature),
        gradient_samples=mode,
        batch=batch,
        groups=groups,
    ):
        assert third is None
        assert {id(part) for part in second} <= {id(part) for part in first}
        assert len(rows(first)) == len(set(rows(first))) >= min(gradient, COUNT)
        assert len(rows(second)) >= min(curvature, gradient, COUNT)
        assert all(len(inputs) <= batch for inputs, _ in first)
        if grouped:
            whole = np.bincount(np.array(rows(first)) // 6, minlength=10)
            assert set(whole) <= {0, 6}


def test_nested_and_fresh_samples():
    sizes = {"gradient_schedule": FixedSize(40), "curvature_schedule": FixedSize(10)}
    nested = given_to(**sizes)
    assert len({frozenset(rows(first)) for first, _, _ in nested}) == 1
    assert len({frozenset(rows(second)) for _, second, _ in nested}) == 3
    turned = given_to(gradient_samples="fresh", curvature_samples="nested", **sizes)
    assert len({frozenset(rows(first)) for first, _, _ in turned}) == 3
    growing = given_to(gradient_schedule=GeometricSchedule(10, 2.0, COUNT))
    samples = [set(rows(first)) for first, _, _ in growing]
    assert samples[0] < samples[1] < samples[2]
    assert [rows(second) for _, second, _ in growing] == [rows(first) for first, _, _ in growing]


def test_all_data_are_copied_once():
    given = given_to(batch=20)
    assert all(first is given[0][0] for first, _, _ in given)


def test_a_schedule_by_variance_gets_ten_groups():
    ((first, _, _), *_) = given_to(gradient_schedule=VarianceSchedule(30, 0.5, COUNT))
    assert len(first) == 10
    ((first, _, _), *_) = given_to(gradient_schedule=VarianceSchedule(5, 0.5, COUNT))
    assert len(first) == 5
    ((first, _, _), *_) = given_to()
    assert len(first) == 1


def test_evaluation_on_held_out_samples():
    held_out = torch.ones(7, 1), torch.ones(7, 1)
    for _, _, third in given_to(evaluation="held_out", held_out=held_out, batch=5):
        assert [len(inputs) for inputs, _ in third] == [5, 2]
