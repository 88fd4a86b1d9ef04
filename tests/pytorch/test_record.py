"""What a step costs and how long it takes."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import pytest

torch = pytest.importorskip("torch")

from networks import classifier

import krylov.torch as kt
from krylov.torch.optim import record as module
from krylov.torch.optim.record import GRADIENTS, Ledger


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_time_goes_to_the_innermost_part(clock):
    ledger = Ledger(8)
    clock.now = 1
    with ledger.part("solve"):
        clock.now = 3
        with ledger.part("evaluate"):
            clock.now = 7
            with ledger.part("solve"):
                clock.now = 8
        clock.now = 9
    clock.now = 10
    assert ledger.seconds() == {"solve": 2 + 1 + 1, "evaluate": 4, "total": 10}


def test_a_part_ends_with_an_exception(clock):
    ledger = Ledger(8)

    def broken():
        with ledger.part("solve"), ledger.part("evaluate"):
            clock.now = 2
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    with ledger.part("gradient"):
        clock.now = 3
    assert ledger.seconds() == {"solve": 0, "evaluate": 2, "gradient": 1, "total": 3}


def test_work_adds_up():
    ledger = Ledger(400)
    ledger.spend("gradient", 10)
    ledger.spend("ggn", 6, 5)
    ledger.spend("hessian", 6, 2)
    ledger.spend("loss", 3, 4)
    ledger.spend("ggn", 100, 0)
    assert ledger.cost == pytest.approx(10 + 6 * 5 * 4 / 3 + 6 * 2 * 2 + 3 * 4 / 3)
    assert ledger.products == 7
    assert ledger.collectives == 1 + 5 + 2 + 4
    assert ledger.bytes == 400 * (1 + 5 + 2) + 8 * 4


def stepped(kind, solver="cg", gradient=4, curvature=None, evaluation=None, **options):
    """A step on micro-batches of 3 samples; the record, and what the closure saw."""
    problem = classifier(samples=24, scale=2.0)
    batches = problem.batches(3)
    seen = {"graph": 0, "loss": 0}

    def closure(batch):
        seen["graph" if torch.is_grad_enabled() else "loss"] += len(batch[0])
        return problem.closure(batch)

    optimizer = kt.HessianFree(problem.parameters, curvature=kind, solver=solver, **options)
    optimizer.step_batches(
        closure,
        gradient=batches[:gradient],
        curvature=None if curvature is None else batches[curvature],
        evaluation=None if evaluation is None else batches[evaluation],
    )
    return optimizer.last_step, seen, sum(p.numel() for p in problem.parameters)


SAMPLES = {
    "one": (None, None),
    "nested": (slice(0, 2), None),
    "apart": (slice(5, 7), None),
    "all apart": (slice(5, 7), slice(4, 8)),
}


@pytest.mark.parametrize("damping", [1.0, 1e-4])
@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize(
    ("kind", "solver"), [("ggn", "flexible_cg"), ("hessian", "cg"), ("hessian", "bicgstab")]
)
def test_the_record_says_what_was_done(kind, solver, samples, damping):
    curvature, evaluation = SAMPLES[samples]
    r, seen, n = stepped(
        kind, solver, curvature=curvature, evaluation=evaluation, damping=damping, stop=6
    )
    sizes = (12, 6 if curvature else 12, 12)
    assert (r.gradient_samples, r.curvature_samples, r.evaluation_samples) == sizes
    worked = {"one": 12, "nested": 12, "apart": 18, "all apart": 18}[samples]
    assert seen == {"graph": worked, "loss": 12 * r.evaluations}
    cost = worked + r.products * sizes[1] * GRADIENTS[kind] + r.evaluations * 12 / 3
    assert r.cost == pytest.approx(cost)
    assert r.gradient_equivalents == pytest.approx(cost / 12)
    # One all-reduce for a gradient however many micro-batches it has.
    assert r.collectives == 1 + r.products + r.evaluations
    assert r.bytes == 8 * n * (1 + r.products) + 8 * r.evaluations
    assert r.products >= r.iterations * (2 if solver == "bicgstab" else 1)


def test_nested_samples_cost_less():
    whole, _, _ = stepped("ggn", stop=6)
    nested, _, _ = stepped("ggn", stop=6, curvature=slice(0, 1))
    assert nested.products == whole.products
    assert nested.cost < 0.6 * whole.cost


def test_a_learning_rate_costs_no_product():
    plain, _, _ = stepped("ggn", stop=6)
    scaled, _, _ = stepped("ggn", stop=6, lr=0.5)
    assert scaled.products == plain.products  # the model of the shorter step is known


@pytest.mark.parametrize(("diagonal", "probes"), [("gauss_newton", 3), ("fisher", 0)])
def test_a_diagonal_has_its_price(diagonal, probes):
    options = {"diagonal": diagonal, "probes": 3}
    r, _, _ = stepped("ggn", stop=4, preconditioner="jacobi", preconditioner_options=options)
    assert r.cost == pytest.approx(
        12 * (1 + r.products * 4 / 3 + r.evaluations / 3 + probes * 2 / 3)
    )
    assert r.collectives == 1 + r.products + r.evaluations + (probes > 0)


def test_retries_measure_no_diagonal_again():
    """Damping so small that the first runs are rejected."""
    options = {"preconditioner": "jacobi", "preconditioner_options": {"probes": 3}}
    r, _, _ = stepped("ggn", damping=1e-5, stop=10, retries=5, **options)
    assert r.damping > 1e-5
    assert r.cost == pytest.approx(12 * (1 + r.products * 4 / 3 + r.evaluations / 3 + 3 * 2 / 3))


def test_micro_batches_do_not_change_the_cost():
    problem = classifier(samples=24)
    costs = []
    for size in (24, 8, 3):
        fresh = classifier(samples=24)
        optimizer = kt.HessianFree(fresh.parameters, stop=5)
        optimizer.step_batches(fresh.closure, gradient=problem.batches(size))
        r = optimizer.last_step
        costs.append((r.products, r.evaluations, r.collectives, r.bytes, round(r.cost, 9)))
    assert len(set(costs)) == 1


def test_the_record_is_frozen_and_fit_for_a_log():
    r, _, _ = stepped("ggn")
    with pytest.raises(FrozenInstanceError):
        r.alpha = 3
    entries = json.loads(json.dumps(r.as_dict()))
    assert entries["outcome"] == r.outcome.name
    assert entries["seconds"].keys() >= {"gradient", "curvature", "solve", "evaluate", "total"}
    parts = sum(value for name, value in r.seconds.items() if name != "total")
    assert 0 < parts <= r.seconds["total"] * (1 + 1e-9)
    assert all(value >= -1e-9 for value in r.seconds.values())


def test_steps_are_counted_and_comparable():
    problem = classifier()
    other = classifier()
    a = kt.HessianFree(problem.parameters)
    b = kt.HessianFree(other.parameters)
    for i in range(3):
        a.step(problem)
        b.step(other)
        assert a.last_step.step == i + 1
        assert a.last_step == b.last_step  # whatever the seconds were
    assert math.isfinite(a.last_step.rho)
