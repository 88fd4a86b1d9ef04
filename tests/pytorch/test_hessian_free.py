"""`HessianFree` as an optimizer of torch: groups, schedulers, samples, precisions."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from networks import VARIANTS, classifier, digits, name_of, regression

import krylov.torch as kt


def train(problem, steps, closure=None, **options):
    optimizer = kt.HessianFree(problem.parameters, **options)
    for _ in range(steps):
        optimizer.step(closure or problem)
    return optimizer


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_digits_are_learnt(options):
    """Chance is 2.30; plain gradient descent with its best rate needs hundreds of steps for 0.1."""
    problem = digits()
    optimizer = train(problem, 12, damping=0.1, weight_decay=1e-5, **options)
    assert optimizer.last_step.loss_after < 0.08
    accuracy = (problem.model(problem.x).argmax(1) == problem.y).float().mean()
    assert accuracy > 0.97


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_the_loss_never_rises(options):
    problem = digits(samples=100, hidden=8)
    optimizer = kt.HessianFree(problem.parameters, damping=1e-3, **options)
    losses = []
    for _ in range(6):
        before = float(optimizer.step(problem))
        record = optimizer.last_step
        assert before == pytest.approx(
            float(problem.value(problem.read()) * 0 + record.loss_before)
        )
        losses += [record.loss_before, record.loss_after]
        assert float(problem()[0].detach()) == pytest.approx(record.loss_after, rel=1e-5)
    assert losses == pytest.approx(sorted(losses, reverse=True), rel=1e-6)


def test_step_returns_the_loss_before():
    problem = regression()
    optimizer = kt.HessianFree(problem.parameters, damping=1e-6)
    loss = float(problem()[0].detach())
    returned = optimizer.step(problem)
    assert returned.shape == ()
    assert returned.dtype == torch.float64
    assert not returned.requires_grad
    assert float(returned) == pytest.approx(loss)
    assert optimizer.last_step.loss_after < loss


def test_schedulers_set_the_learning_rate():
    problem, by_hand = classifier(), classifier()
    optimizer = kt.HessianFree(problem.parameters, stop=6)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    other = kt.HessianFree(by_hand.parameters, stop=6)
    for i in range(4):
        optimizer.step(problem)
        scheduler.step()
        other.param_groups[0]["lr"] = 0.5**i
        other.step(by_hand)
        assert torch.equal(problem.read(), by_hand.read())
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        plateau.step(1.0)
    assert optimizer.param_groups[0]["lr"] < 0.5**4


def test_schedulers_see_step_batches_as_steps():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step_batches(problem.closure, gradient=problem.batches(4))
    scheduler.step()  # warns if it has not


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_gradients_of_parameters_are_never_touched(options):
    problem = classifier(dtype=torch.float32)
    kept = torch.full_like(problem.parameters[0], 7.0)
    problem.parameters[0].grad = kept
    train(problem, 2, **options)
    assert problem.parameters[0].grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert all(p.grad is None for p in problem.parameters[1:])


def test_parameters_stay_in_their_memory():
    problem = classifier()
    memory = [p.data_ptr() for p in problem.parameters]
    ids = [id(p) for p in problem.parameters]
    train(problem, 3)
    assert memory == [p.data_ptr() for p in problem.parameters]
    assert ids == [id(p) for p in problem.parameters]
    assert all(p.is_leaf and p.requires_grad for p in problem.parameters)


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_no_graph_outlives_its_step(options):
    problem = classifier(dtype=torch.float32)
    seen = []

    def closure():
        loss, outputs = problem()
        seen.append(weakref.ref(outputs))
        return loss, outputs

    optimizer = kt.HessianFree(problem.parameters, damping=1e-2, **options)
    optimizer.step(closure)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            optimizer.step(closure)
            assert not any(ref() is not None for ref in seen), "alive without the collector"
    finally:
        gc.enable()


def test_steps_leave_no_growing_memory():
    problem = classifier()
    optimizer = train(problem, 3, preconditioner="ritz")

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    before = tensors()
    for _ in range(4):
        optimizer.step(problem)
    assert tensors() <= before + 1  # a direction where there was none


@pytest.mark.parametrize("size", [3, 5, 12])
def test_micro_batches_are_the_whole(size):
    ours, theirs = classifier(), classifier()
    a, b = (kt.HessianFree(p.parameters, stop=6) for p in (ours, theirs))
    for _ in range(3):
        first = a.step_batches(ours.closure, gradient=ours.batches(size))
        assert float(first) == pytest.approx(float(b.step(theirs)), rel=1e-12)
        torch.testing.assert_close(ours.read(), theirs.read())


def test_samples_serve_their_purpose():
    problem = classifier(samples=24)
    point = problem.read()
    batches = problem.batches(4)
    g, c, e = batches[:3], batches[2:4], batches[4:]
    optimizer = kt.HessianFree(problem.parameters, damping=0.5, stop=40)
    loss = optimizer.step_batches(problem.closure, gradient=iter(g), curvature=c, evaluation=e)

    def joined(sample):
        return tuple(torch.cat(parts) for parts in zip(*sample, strict=True))

    record = optimizer.last_step
    assert float(loss) == pytest.approx(float(problem.value(point, joined(e))))
    gradient = problem.gradient(point, joined(g))
    assert record.gradient_norm == pytest.approx(float(gradient.norm()))
    A = problem.ggn(point, joined(c)) + 0.5 * torch.eye(len(point), dtype=point.dtype)
    last = optimizer.state_dict()["hessian_free"]["memory"]["direction"]
    torch.testing.assert_close(last, -torch.linalg.solve(A, gradient), rtol=1e-4, atol=1e-6)
    assert record.loss_after == pytest.approx(float(problem.value(problem.read(), joined(e))))
    assert optimizer.last_statistics.groups == 3
    assert optimizer.last_statistics.samples == 12


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ({"gradient": []}, ValueError, "gradient is empty"),
        ({"curvature": []}, ValueError, "curvature is empty"),
        ({"evaluation": []}, ValueError, "evaluation is empty"),
        ({"gradient": torch.ones(3)}, TypeError, r"give \[batch\]"),
        ({"gradient": [torch.ones(0, 3)]}, ValueError, "gradient holds no samples"),
        ({"gradient": None, "curvature": [torch.ones(2)]}, ValueError, "gradient sample too"),
        ({"gradient": [1, 2]}, TypeError, "how many samples"),
        ({"gradient": 5}, TypeError, "gradient must be an iterable of batches"),
    ],
    ids=str,
)
def test_bad_samples_are_named(samples, error, message):
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    given = {"gradient": [torch.ones(2)], **samples}
    with pytest.raises(error, match=message):
        optimizer.step_batches(pytest.fail, **given)


def test_step_hooks_and_zero_grad():
    problem = classifier()
    optimizer = kt.HessianFree(problem.parameters)
    seen = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("pre"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(o.last_step.step))
    optimizer.step(problem)
    optimizer.step_batches(problem.closure, gradient=problem.batches(6))
    assert seen == ["pre", 1, "pre", 2]
    problem.parameters[0].grad = torch.ones_like(problem.parameters[0])
    optimizer.zero_grad()
    assert problem.parameters[0].grad is None


def test_within_no_grad():
    problem, other = classifier(), classifier()
    with torch.no_grad():
        train(problem, 2)
    train(other, 2)
    assert torch.equal(problem.read(), other.read())


def test_random_numbers_of_the_caller_are_left_alone():
    problem = classifier(dtype=torch.float32)
    state = torch.get_rng_state()
    for options in VARIANTS:
        train(problem, 2, **options)
    assert torch.equal(state, torch.get_rng_state())
