"""Outer iterations against a naive dense reference, in float64."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import outer_reference
from networks import classifier, regression
from outer_reference import Trainer

import krylov.torch as kt
from krylov.stopping import QuadraticProgress

# Few iterations: the last ones of a run that converges are nothing but rounding.
FEW = {"stop": outer_reference.fixed(7)}
# Options of the optimizer, and of the reference.
VARIANTS = {
    "GN-CG": ({"curvature": "ggn", "solver": "cg", "stop": 7}, {"kind": "ggn", **FEW}),
    "GN-FCG": ({"curvature": "ggn", "solver": "flexible_cg", "stop": 7}, {"kind": "ggn", **FEW}),
    "HF-CG": (
        {"curvature": "hessian", "solver": "cg", "stop": QuadraticProgress()},
        {"kind": "hessian"},
    ),
    "Hybrid-CG": ({"curvature": "hybrid", "solver": "cg", "stop": 7}, {"kind": "hybrid", **FEW}),
    "HF-Bi-CG-STAB": (
        {"curvature": "hessian", "solver": "bicgstab", "stop": 4},
        {
            "kind": "hessian",
            "solver": outer_reference.bicgstab,
            "stop": outer_reference.fixed(4),
        },
    ),
}
STARTS = [(1.0, 1.0), (1e-2, 1.0), (1e-3, 2.0)]
STEPS = 4


def both(name, seed, damping, scale):
    """Steps of the optimizer, each with that of the reference from the same point and memory."""
    ours, theirs = ({"retries": 2 if seed else 0, **options} for options in VARIANTS[name])
    problem = classifier(seed, scale=scale)
    copy = classifier(seed, scale=scale)

    def vector(x):
        return torch.from_numpy(x)

    trainer = Trainer(
        lambda x: float(copy.value(vector(x))),
        lambda x: copy.gradient(vector(x)).numpy(),
        lambda kind, x: copy.curvature(kind, vector(x)).numpy(),
        damping=damping,
        **theirs,
    )
    optimizer = kt.HessianFree(problem.parameters, damping=damping, escape=False, **ours)
    for _ in range(STEPS):
        point, told = trainer.step(problem.read().numpy())
        optimizer.step(problem)
        yield problem.read().numpy(), point, optimizer, told, trainer
        # Rounding errors of a run must not grow from step to step.
        memory = optimizer.state_dict()["hessian_free"]["memory"]
        trainer.damping = memory["damping"]
        trainer.direction = None if memory["direction"] is None else memory["direction"].numpy()


# What must happen at least once, so that the comparison is worth something.
SEEN = {
    "GN-CG": {"rejected", "backtracked", "more damping", "less damping"},
    "GN-FCG": {"rejected", "backtracked", "more damping", "less damping"},
    "HF-CG": {"rejected", "backtracked", "more damping", "negative curvature", "steepest descent"},
    "Hybrid-CG": {"rejected", "more damping", "less damping", "negative curvature"},
    "HF-Bi-CG-STAB": {"rejected", "backtracked", "more damping", "negative curvature"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_outer_iteration_is_that_of_the_papers(name):
    events = set()
    for seed, (damping, scale) in itertools.product(range(3), STARTS):
        for found, wanted, optimizer, told, trainer in both(name, seed, damping, scale):
            assert_same_record(optimizer.last_step, told)
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
            assert_same_memory(optimizer, trainer)
            events |= trainer.events
    assert events >= SEEN[name]


def assert_same_record(record, told):
    for key in ("curvature", "iterations", "candidate", "alpha", "negative_curvature"):
        assert getattr(record, key) == told[key], (key, record.step)
    for key in ("damping", "loss_before", "loss_after"):
        assert getattr(record, key) == pytest.approx(told[key], rel=1e-7), (key, record.step)
    if "rho" in told:
        assert record.rho == pytest.approx(told["rho"], rel=1e-6, nan_ok=True)
    assert record.accepted == (told["alpha"] > 0)


def assert_same_memory(optimizer, trainer):
    memory = optimizer.state_dict()["hessian_free"]["memory"]
    assert optimizer.damping == memory["damping"] == pytest.approx(trainer.damping, rel=1e-12)
    assert memory["met_negative"] == trainer.met_negative
    assert (memory["direction"] is None) == (trainer.direction is None)
    if trainer.direction is not None:
        np.testing.assert_allclose(memory["direction"], trainer.direction, rtol=1e-6, atol=1e-6)


def test_hybrid_takes_the_gauss_newton_matrix_for_one_step_after_negative_curvature():
    problem = classifier(1, scale=2.0)
    optimizer = kt.HessianFree(
        problem.parameters, curvature="hybrid", solver="cg", damping=1e-3, escape=False
    )
    kinds = []
    for _ in range(12):
        optimizer.step(problem)
        kinds.append((optimizer.last_step.curvature, optimizer.last_step.negative_curvature))
    assert kinds[0][0] == "hessian"
    for (kind, negative), (following, _) in itertools.pairwise(kinds):
        assert following == ("ggn" if kind == "hessian" and negative else "hessian")
    assert {kind for kind, _ in kinds} == {"ggn", "hessian"}


@pytest.mark.parametrize("preconditioner", [None, "lbfgs", "ritz"])
def test_a_quadratic_is_solved_by_one_newton_step(preconditioner):
    problem = regression()
    start = problem.read()
    newton = start - torch.linalg.solve(problem.hessian(start), problem.gradient(start))
    optimizer = kt.HessianFree(
        problem.parameters, damping=1e-10, stop=50, preconditioner=preconditioner
    )
    optimizer.step(problem)
    torch.testing.assert_close(problem.read(), newton, rtol=1e-7, atol=1e-7)
    assert optimizer.last_step.rho == pytest.approx(1, abs=1e-6)
    assert optimizer.last_step.alpha == 1


def test_damping_is_part_of_the_system():
    problem = regression()
    start = problem.read()
    B = problem.hessian(start) + 0.7 * torch.eye(len(start), dtype=torch.float64)
    wanted = start - torch.linalg.solve(B, problem.gradient(start))
    kt.HessianFree(problem.parameters, damping=0.7, stop=50).step(problem)
    torch.testing.assert_close(problem.read(), wanted, rtol=1e-7, atol=1e-7)


def test_rejection_leaves_every_bit_and_costs_no_gradient():
    """The evaluation sample says that every step is uphill."""
    problem = classifier()
    calls = {"gradient": 0, "evaluation": 0}
    before = problem.read()

    def closure(batch):
        calls["gradient" if torch.is_grad_enabled() else "evaluation"] += 1
        loss, outputs = problem.closure()
        moved = float((problem.read() - before).abs().max())
        return (loss + moved if batch.numel() == 2 else loss), outputs

    optimizer = kt.HessianFree(problem.parameters, damping=1e-3, retries=3)
    evaluation = [torch.zeros(2)]
    optimizer.step_batches(closure, gradient=[torch.zeros(3)], evaluation=evaluation)
    record = optimizer.last_step
    # The loss itself falls; what it is charged for moving must outweigh that.
    if record.accepted:
        pytest.fail("the penalty was too small to reject the step")
    assert torch.equal(problem.read(), before)
    assert calls["gradient"] == 1
    assert calls["evaluation"] == record.evaluations
    assert record.alpha == 0
    assert record.loss_after == record.loss_before
    assert record.damping == pytest.approx(1e-3 * 2**3)
    assert optimizer.damping == pytest.approx(1e-3 * 2**4)
    assert optimizer.state_dict()["hessian_free"]["memory"]["direction"] is None


@pytest.mark.parametrize("name", ["nystrom", "jacobi"])
def test_preconditioners_are_shown_the_matrix_without_damping(name, monkeypatch):
    """In retries too, where the operator comes from a run with damping."""
    problem = classifier(scale=2.0)
    optimizer = kt.HessianFree(problem.parameters, damping=1e-4, preconditioner=name, retries=5)
    policy = optimizer._method.preconditioning
    prepare, shifts, dampings = policy.prepare, [], []

    def listening(operator, damping):
        shifts.append(operator.shift)
        dampings.append(damping)
        return prepare(operator, damping)

    monkeypatch.setattr(policy, "prepare", listening)
    for _ in range(4):
        optimizer.step(problem)
    assert len(shifts) > 4, "no step was retried"
    assert set(shifts) == {0}
    assert dampings[0] == 1e-4
    assert dampings[1] == pytest.approx(2e-4)


def test_a_step_that_armijo_gives_up_on_is_a_rejected_one():
    problem = regression()
    before = problem.read()
    armijo = kt.Armijo(c=0.999, trials=1)  # of a Newton step half of the slope comes true
    optimizer = kt.HessianFree(problem.parameters, damping=1e-3, stop=50, line_search=armijo)
    optimizer.step(problem)
    assert not optimizer.last_step.accepted
    assert torch.equal(problem.read(), before)
    assert optimizer.damping == pytest.approx(2e-3)
    assert optimizer.state_dict()["hessian_free"]["memory"]["direction"] is None


@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_small_learning_rates_do_not_pass_for_a_bad_model(lr):
    """On a quadratic the model is exact however long the step is: rho is 1, and damping falls."""
    problem = regression()
    optimizer = kt.HessianFree(problem.parameters, damping=1.0, lr=lr, stop=50)
    for _ in range(3):
        optimizer.step(problem)
        assert optimizer.last_step.rho > 1 - 1e-6
    assert optimizer.damping == pytest.approx(0.5**3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_trial_points_without_a_finite_loss_are_passed_over(bad):
    problem = classifier()
    before = problem.read()

    def closure():
        loss, outputs = problem()
        far = float((problem.read() - before).abs().max()) > 0.05
        return (loss * 0 + bad if far else loss), outputs

    optimizer = kt.HessianFree(problem.parameters, damping=1.0, retries=30)
    loss = float(optimizer.step(closure))
    record = optimizer.last_step
    assert record.accepted
    assert math.isfinite(record.loss_after)
    assert record.loss_after < loss
    assert 0 < float((problem.read() - before).abs().max()) <= 0.05
    assert optimizer.damping > 1


def test_a_warm_start_is_the_last_direction_made_shorter():
    """One iteration from there, written down."""
    problem = regression()
    optimizer = kt.HessianFree(problem.parameters, damping=0.5, stop=1, warm_start=0.6)
    optimizer.step(problem)
    start = 0.6 * optimizer.state_dict()["hessian_free"]["memory"]["direction"]
    point = problem.read()
    A = problem.hessian(point)
    A += optimizer.damping * torch.eye(len(A), dtype=A.dtype)
    r = -problem.gradient(point) - A @ start
    optimizer.step(problem)
    wanted = point + start + (r @ r) / (r @ A @ r) * r
    torch.testing.assert_close(problem.read(), wanted, rtol=1e-9, atol=1e-9)


def test_nothing_is_left_to_do_at_a_minimum():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = kt.HessianFree([w], curvature="hessian")
    optimizer.step(lambda: w.square().sum())
    record = optimizer.last_step
    assert not record.accepted
    assert (record.iterations, record.alpha, record.outcome) == (0, 0, None)
    assert torch.equal(w, torch.zeros_like(w))
