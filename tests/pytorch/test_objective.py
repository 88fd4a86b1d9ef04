"""Loss, gradient and curvature of a closure on samples."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from networks import classifier
from torch import nn

from krylov.torch.flatten import Parameters
from krylov.torch.guards import Randomness
from krylov.torch.microbatches import WHOLE
from krylov.torch.optim.objective import Objective
from krylov.torch.optim.record import Ledger
from krylov.torch.statistics import GradientStatistics


def objective(problem, *, decay=None, closure=None, policy="refuse", **options):
    parameters = Parameters(problem.parameters)
    randomness = Randomness(policy, parameters.device)
    ledger = Ledger(parameters.n * 8)
    closure = closure or problem.closure
    return Objective(closure, parameters, decay, ledger, randomness, False, **options)


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


@pytest.mark.parametrize("size", [1, 5, 7, 12, "whole"])
@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_micro_batches_sum_to_the_whole(kind, decayed, size):
    problem = classifier()
    point = problem.read()
    n = len(point)
    decay = torch.linspace(0, 1, n, dtype=torch.float64) if decayed else torch.zeros(n).double()
    batches = [WHOLE] if size == "whole" else problem.batches(size)
    closure = problem.closure if size != "whole" else lambda: problem.closure()
    f = objective(problem, decay=decay if decayed else None, closure=closure)
    value, g, operator = f.linearise(batches, batches, kind)
    loss = float(problem.value(point) + decay @ point.square() / 2)
    assert value == pytest.approx(loss, rel=1e-12)
    assert f.loss(batches) == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(g, problem.gradient(point) + decay * point)
    torch.testing.assert_close(dense(operator), problem.curvature(kind, point) + decay.diag())


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
@pytest.mark.parametrize(
    ("gradient", "curvature"),
    [
        ([0, 1, 2, 3], [1, 3]),  # nested
        ([0, 1], [2, 3]),  # apart
        ([0, 1, 2], [2, 3]),  # overlapping
        ([0], [0, 1, 2, 3]),  # the other way round
        ([0, 0, 1], [0]),  # one batch counts twice
        ([0, 1], [0, 0, 1]),
    ],
    ids=str,
)
def test_samples_of_their_own(gradient, curvature, kind):
    problem = classifier()
    point = problem.read()
    batches = [  # of unequal sizes
        (problem.x[a:b], problem.y[a:b]) for a, b in [(0, 2), (2, 3), (3, 8), (8, 12)]
    ]
    counted, sampled = [batches[i] for i in gradient], [batches[i] for i in curvature]

    def joined(sample):
        return tuple(torch.cat(parts) for parts in zip(*sample, strict=True))

    statistics = GradientStatistics()
    f = objective(problem)
    value, g, operator = f.linearise(counted, sampled, kind, statistics)
    assert value == pytest.approx(float(problem.value(point, joined(counted))), rel=1e-12)
    torch.testing.assert_close(g, problem.gradient(point, joined(counted)))
    torch.testing.assert_close(dense(operator), problem.curvature(kind, point, joined(sampled)))
    # Each group counts once, as it should for the variance over groups.
    assert statistics.groups == len(counted)
    assert statistics.samples == sum(len(y) for _, y in counted)
    torch.testing.assert_close(statistics.mean[0], g)
    gradients = torch.stack([problem.gradient(point, batch) for batch in counted])
    weights = torch.tensor([float(len(y)) for _, y in counted], dtype=g.dtype)
    if len(counted) > 1:
        deviation = float(weights @ (gradients - g).square().sum(1)) / (len(counted) - 1)
        assert statistics.variance_l1 == pytest.approx(deviation)


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_graphs_that_do_not_fit_into_memory_are_built_again(kind, monkeypatch):
    monkeypatch.setattr("krylov.torch.microbatches.available_bytes", lambda *_: 0)
    problem = classifier()
    calls = []

    def closure(batch):
        calls.append(batch)
        return problem.closure(batch)

    statistics, batches = GradientStatistics(), problem.batches(4)
    f = objective(problem, closure=closure)
    _, g, operator = f.linearise(batches, batches, kind, statistics)
    assert len(calls) == 3
    point = problem.read()
    torch.testing.assert_close(operator @ g, problem.curvature(kind, point) @ g)
    assert len(calls) == 6
    assert statistics.groups == 3  # only the first reading counts
    torch.testing.assert_close(g, problem.gradient(point))


def test_loss_at_another_point_leaves_this_one():
    problem = classifier()
    f, point = objective(problem), problem.read()
    pointers = [p.data_ptr() for p in problem.parameters]
    there = point + 1
    assert f.loss_at(there, problem.batches(5)) == pytest.approx(float(problem.value(there)))
    assert torch.equal(problem.read(), point)
    assert pointers == [p.data_ptr() for p in problem.parameters]


def test_products_are_those_of_the_old_point_while_trial_points_are_evaluated():
    problem = classifier()
    f, point = objective(problem), problem.read()
    H = problem.hessian(point)
    _, _, operator = f.linearise(problem.batches(5), problem.batches(5), "hessian")
    f.loss_at(point + 1, problem.batches(5))
    torch.testing.assert_close(dense(operator), H)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("graph", [{}, {"retain_graph": True}, {"create_graph": True}], ids=str)
def test_backward_in_the_closure_is_refused_by_name(kind, graph):
    problem = classifier()

    def closure(batch):
        loss, outputs = problem.closure(batch)
        if torch.is_grad_enabled():
            loss.backward(**graph)
        return loss, outputs

    f = objective(problem, closure=closure)
    sample, other = problem.batches(12), problem.batches(6)
    for gradient, curvature in [(sample, sample), (sample, other), (other, other[:1])]:
        with pytest.raises(RuntimeError, match=r"the closure must not call backward\(\)"):
            f.linearise(gradient, curvature, kind)
    assert not any(p._post_accumulate_grad_hooks for p in problem.parameters)


def test_backward_elsewhere_still_works_afterwards():
    problem = classifier()
    f = objective(problem)
    f.linearise(problem.batches(12), problem.batches(12), "ggn")
    problem()[0].backward()
    assert problem.parameters[0].grad is not None


@pytest.mark.parametrize("needed", [False, True])
def test_outputs_are_asked_for_where_they_are_needed(needed):
    problem = classifier()
    f = objective(problem, closure=lambda b: problem.closure(b)[0], needs_outputs=needed)
    batches = problem.batches(12)
    with pytest.raises(ValueError, match=r"return \(loss, outputs\) from the closure"):
        f.linearise(batches, batches, "ggn")
    if needed:  # hybrid says so in its first step, not when it meets negative curvature
        with pytest.raises(ValueError, match=r"return \(loss, outputs\) from the closure"):
            f.linearise(batches, batches, "hessian")
    else:
        f.linearise(batches, batches, "hessian")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "not NoneType"),
        (1.0, TypeError, "not float"),
        ((1, 2, 3), ValueError, "not 3 things"),
        ((None, None), TypeError, "loss must be a tensor"),
        (torch.ones(()), ValueError, "no graph"),
        (torch.ones(3), ValueError, "scalar"),
    ],
    ids=str,
)
def test_bad_results_of_the_closure_are_named(result, error, message):
    problem = classifier()
    f = objective(problem, closure=lambda batch: result)
    with pytest.raises(error, match=message):
        f.linearise(problem.batches(12), problem.batches(12), "hessian")


def test_detached_outputs_are_named():
    problem = classifier()

    def closure(batch):
        loss, outputs = problem.closure(batch)
        return loss, outputs.detach()

    f = objective(problem, closure=closure)
    with pytest.raises(ValueError, match="outputs"):
        f.linearise(problem.batches(12), problem.batches(12), "ggn")


def test_dropout_is_refused_or_frozen():
    problem = classifier()
    problem.model = nn.Sequential(*problem.model, nn.Dropout(0.5))
    batches = problem.batches(12)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="randomness='freeze'"):
        objective(problem).linearise(batches, batches, "ggn")
    assert torch.equal(state, torch.get_rng_state())

    f = objective(problem, policy="freeze")
    value, g, operator = f.linearise(batches, batches, "ggn")
    assert f.loss(batches) == f.loss(batches) == pytest.approx(value, rel=1e-12)
    # Along g the loss of these very units changes as g says.
    point, h = problem.read(), 1e-6
    difference = f.loss_at(point + h * g, batches) - f.loss_at(point - h * g, batches)
    assert difference / (2 * h) == pytest.approx(float(g @ g), rel=1e-6)
    assert float(g @ (operator @ g)) >= 0
    with pytest.raises(RuntimeError, match="randomness='freeze'"):
        objective(problem).loss(batches)


def test_frozen_numbers_differ_from_micro_batch_to_micro_batch():
    """In all evaluations of a micro-batch the same, whatever was evaluated in between and with whom."""
    problem = classifier()
    seen = []

    def closure(batch):
        seen.append((id(batch), float(torch.rand(()))))
        return problem.closure(batch)

    batches = problem.batches(3)
    f = objective(problem, closure=closure, policy="freeze")
    torch.manual_seed(0)
    _, g, operator = f.linearise(batches, batches[1:], "ggn")
    f.loss(batches[::-1])
    f.loss_at(problem.read() + g, batches[2:3])
    _ = operator @ g
    assert len(batches) > 2
    assert {batch for batch, _ in seen} == {id(batch) for batch in batches}
    assert len(set(seen)) == len({number for _, number in seen}) == len(batches)


def test_batch_norm_is_named():
    problem = classifier()
    problem.model = nn.Sequential(*problem.model, nn.BatchNorm1d(3)).double()
    batches = problem.batches(6)
    with pytest.raises(RuntimeError, match="allow_batch_norm=True"):
        objective(problem).linearise(batches, batches, "ggn")
    problem.model.eval()
    objective(problem).linearise(batches, batches, "ggn")


def test_casts_of_parameters_do_not_outlive_them():
    """Autocast around everything keeps casts for as long as it lasts."""
    problem = classifier(dtype=torch.float32)

    def closure(batch):
        outputs = problem.model(batch[0]).float()
        return F.cross_entropy(outputs, batch[1]), outputs

    f = objective(problem, closure=closure)
    batches, point = problem.batches(12), problem.read()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        here, there = f.loss(batches), f.loss_at(point + 1, batches)
        f.linearise(batches, batches, "ggn")
        assert f.loss_at(point + 1, batches) == there
        assert f.loss(batches) == here
    assert there != here
    assert there == pytest.approx(float(problem.value(point + 1)), rel=0.05)


def test_overflow_is_no_error():
    problem = classifier()
    f = objective(problem, closure=lambda b: problem.closure(b)[0] * math.inf)
    assert math.isinf(f.loss(problem.batches(5)))
