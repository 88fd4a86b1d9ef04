"""A step of `NewtonCG` is that of a naive dense Newton-CG, number for number."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import newton_reference
from networks import classifier, digits, regression
from newton_reference import Trainer

import krylov.torch as kt
from krylov import Outcome

LM, ARMIJO = {"adapts": True}, {"armijo": True}
# Options of the optimizer, and of the reference.
VARIANTS = {
    "hessian": ({"solver": "cg", "lr": 0.7, "maxiter": 3}, {"lr": 0.7, "maxiter": 3}),
    "flexible": (
        {"solver": "flexible_cg", "tol": 0.01, "warm_start": 0.8},
        {"tol": 0.01, "eta": 0.8},
    ),
    "ggn": (
        {"curvature": "ggn", "warm_start": 0.5, "tol": 0.5, "maxiter": 4},
        {"kind": "ggn", "eta": 0.5, "tol": 0.5, "maxiter": 4},
    ),
    "adapted": ({"curvature": "ggn", "lr": 1.5}, {"kind": "ggn", "lr": 1.5, **LM}),
    "adapted-hessian": ({"warm_start": 1.0, "maxiter": 3}, {"eta": 1.0, "maxiter": 3, **LM}),
    "armijo": (
        {"line_search": kt.Armijo(), "warm_start": 0.9, "lr": 1.8},
        {"eta": 0.9, "lr": 1.8, **ARMIJO},
    ),
    "armijo-adapted": ({"line_search": kt.Armijo(), "lr": 1.8}, {"lr": 1.8, **ARMIJO, **LM}),
    "bicgstab": (
        {"solver": "bicgstab", "tol": 1e-12, "maxiter": 3, "lr": 0.5},
        {"solver": newton_reference.bicgstab, "maxiter": 3, "lr": 0.5},
    ),
}
# What must happen at least once, so that the comparison is worth something.
SEEN = {
    "hessian": {"truncated", "steepest descent", "limit", "tolerance"},
    "flexible": {"truncated", "tolerance"},
    "ggn": {"limit", "tolerance"},
    "adapted": {"rejected", "more damping", "less damping"},
    "adapted-hessian": {"rejected", "negative curvature", "more damping", "less damping"},
    "armijo": {"shortened", "truncated"},
    "armijo-adapted": {"shortened", "more damping", "less damping"},
    "bicgstab": {"negative curvature"},
}
STARTS = [(1.0, 1.0), (0.05, 1.0), (1e-3, 2.0)]
STEPS = 4


def dense(problem, **options):
    """The reference on the same function."""
    vector = torch.from_numpy
    return Trainer(
        lambda x: float(problem.value(vector(x))),
        lambda x: problem.gradient(vector(x)).numpy(),
        lambda kind, x: problem.curvature(kind, vector(x)).numpy(),
        **options,
    )


def loss_of(problem, kind):
    """The closure for this curvature: the Hessian's returns the loss alone."""
    return problem.closure if kind == "ggn" else lambda *batch: problem.closure(*batch)[0]


def memory_of(optimizer):
    return optimizer.state_dict()["newton_cg"]["memory"]


def assert_same(optimizer, told):
    record = optimizer.last_step
    for key in ("iterations", "candidate", "alpha", "negative_curvature"):
        assert getattr(record, key) == told[key], (key, record.step)
    for key in ("damping", "loss_before", "loss_after", "rho"):
        wanted = pytest.approx(told[key], rel=1e-6, abs=1e-9, nan_ok=True)
        assert getattr(record, key) == wanted, (key, record.step)
    assert record.accepted == (told["alpha"] > 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_is_that_of_the_paper(name):
    ours, theirs = VARIANTS[name]
    events = set()
    for seed, (tau, scale) in itertools.product(range(3), STARTS):
        problem = classifier(seed, scale=scale)
        damping = kt.LevenbergMarquardt(tau) if theirs.get("adapts") else tau
        optimizer = kt.NewtonCG(problem.parameters, damping=damping, **ours)
        trainer = dense(classifier(seed, scale=scale), tau=tau, **theirs)
        for _ in range(STEPS):
            before = problem.read().numpy()
            wanted, told = trainer.step(before)
            length = np.linalg.norm(wanted - before)
            optimizer.step(loss_of(problem, ours.get("curvature")))
            assert_same(optimizer, told)
            np.testing.assert_allclose(problem.read(), wanted, rtol=1e-6, atol=1e-7 * (1 + length))
            if length > 1e3:  # a fixed step that went too far
                break
            # Rounding errors of a run must not grow from step to step.
            memory = memory_of(optimizer)
            assert memory["damping"] == trainer.tau
            assert (memory["direction"] is None) == (trainer.direction is None)
            if trainer.direction is not None:
                trainer.direction = memory["direction"].numpy()
        events |= trainer.events
    assert events >= SEEN[name]


def test_a_start_that_leads_uphill_gives_way_to_the_gradient():
    problem = classifier()
    optimizer = kt.NewtonCG(problem.parameters, warm_start=1.0, maxiter=1, lr=0.1)
    optimizer.step(loss_of(problem, "hessian"))
    uphill = 1e3 * problem.gradient(problem.read())
    state = optimizer.state_dict()
    state["newton_cg"]["memory"]["direction"] = uphill
    optimizer.load_state_dict(state)
    trainer = dense(classifier(), maxiter=1, eta=1.0, lr=0.1, direction=uphill.numpy())
    wanted, told = trainer.step(problem.read().numpy())
    optimizer.step(loss_of(problem, "hessian"))
    assert {"uphill", "steepest descent"} <= trainer.events
    assert_same(optimizer, told)
    np.testing.assert_allclose(problem.read(), wanted, rtol=1e-12)
    assert memory_of(optimizer)["direction"] is None


def test_a_direction_is_judged_as_rates_of_groups_make_it():
    """Newton's direction of a saddle leads downhill, its part in one group uphill."""
    w = torch.zeros(2, dtype=torch.float64)
    x, y = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in w)
    A = torch.tensor([[1.0, 0.99], [0.99, 1.0]], dtype=torch.float64)
    g = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def closure():
        z = torch.cat([x, y]) - 1
        return g @ z + z @ A @ z / 2

    d = -torch.linalg.solve(A, g)
    assert g @ d < 0 < g[1] * d[1]
    groups = [{"params": [x], "lr": 0.0}, {"params": [y]}]
    optimizer = kt.NewtonCG(groups, damping=0.0, tol=1e-12)
    optimizer.step(closure)
    assert optimizer.last_step.candidate == 0
    assert (x.item(), y.item()) == (1.0, 0.5)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_rates_and_decays_of_groups(kind):
    problem, copy = classifier(1), classifier(1)
    rates, decays = [0.5, 0.3, 1.0, 0.1], [0.1, 0.0, 0.02, 0.5]
    groups = [
        {"params": [p], "lr": r, "weight_decay": c}
        for p, r, c in zip(problem.parameters, rates, decays, strict=True)
    ]
    sizes = [p.numel() for p in problem.parameters]
    rate, decay = (np.repeat(values, sizes) for values in (rates, decays))
    plain = dense(copy)
    trainer = Trainer(
        lambda x: plain.loss(x) + decay @ x**2 / 2,
        lambda x: plain.gradient(x) + decay * x,
        lambda kind, x: plain.curvature(kind, x) + np.diag(decay),
        kind=kind,
        lr=rate,
        adapts=True,
    )
    optimizer = kt.NewtonCG(groups, curvature=kind, damping=kt.LevenbergMarquardt(1.0))
    for _ in range(4):
        wanted, told = trainer.step(problem.read().numpy())
        optimizer.step(loss_of(problem, kind))
        assert_same(optimizer, told)
        np.testing.assert_allclose(problem.read(), wanted, rtol=1e-9, atol=1e-9)
    assert optimizer.last_step.products == optimizer.last_step.iterations + 1  # rho's


def test_a_saddle_free_step():
    """In the whole space the subspace is no restriction: d = -(|H| + tau)^-1 g."""
    problem = classifier(2)
    point = problem.read()
    t, U = torch.linalg.eigh(problem.hessian(point))
    assert t[0] < -0.01
    wanted = point - U @ ((U.T @ problem.gradient(point)) / (t.abs() + 0.2))
    optimizer = kt.NewtonCG(problem.parameters, solver="subspace", maxiter=40, damping=0.2)
    optimizer.step(loss_of(problem, "hessian"))
    assert optimizer.last_step.negative_curvature
    torch.testing.assert_close(problem.read(), wanted, rtol=1e-6, atol=1e-8)


def test_a_convex_quadratic_takes_one_step():
    problem = regression()
    optimizer = kt.NewtonCG(problem.parameters, damping=0.0, tol=1e-10, maxiter=50)
    optimizer.step(loss_of(problem, "hessian"))
    assert problem.gradient(problem.read()).norm() < 1e-8


# -------------------------------------------------------------------------------------------------
# Cost


@pytest.mark.parametrize("warm", [0.0, 0.7])
@pytest.mark.parametrize("solver", ["cg", "flexible_cg"])
def test_a_fixed_step_costs_a_gradient_and_its_products(solver, warm):
    problem = classifier()
    calls = []

    def closure():
        calls.append(1)
        return problem()[0]

    optimizer = kt.NewtonCG(problem.parameters, solver=solver, warm_start=warm, lr=0.3)
    for _ in range(3):
        calls.clear()
        optimizer.step(closure)
        record = optimizer.last_step
        assert len(calls) == 1
        assert record.evaluations == 0
        assert math.isnan(record.loss_after)
        assert record.products == record.iterations + (warm > 0 and record.step > 1)
        assert record.gradient_equivalents == pytest.approx(1 + 2 * record.products)


@pytest.mark.parametrize("tol", [0.5, 0.1, 0.01])
def test_runs_end_at_the_tolerance(tol):
    problem = classifier(1)
    optimizer = kt.NewtonCG(problem.parameters, curvature="ggn", tol=tol, maxiter=100, damping=0.1)
    point = problem.read()
    g = problem.gradient(point)
    A = problem.ggn(point) + 0.1 * torch.eye(len(g), dtype=g.dtype)
    optimizer.step(problem)
    residual = (A @ (problem.read() - point) + g).norm() / g.norm()
    assert tol / 20 < residual <= tol
    assert optimizer.last_step.outcome is Outcome.STOPPED_BY_RULE


def test_the_limit_of_iterations_is_told():
    problem = classifier(1)
    optimizer = kt.NewtonCG(problem.parameters, curvature="ggn", tol=1e-9, maxiter=3, damping=0.01)
    optimizer.step(problem)
    record = optimizer.last_step
    assert (record.outcome, record.products) == (Outcome.ITERATION_LIMIT, 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lbfgs", {"m": 16}),
        ("ritz", {"m": 16}),
        ("nystrom", {"m": 16, "worth": 0.5}),
        ("kronecker", {}),
    ],
)
def test_preconditioners_save_iterations(name, options):
    def iterations(**preconditioner):
        problem = digits(samples=200, hidden=8, dtype=torch.float64)
        optimizer = kt.NewtonCG(
            problem.parameters,
            curvature="ggn",
            solver="flexible_cg",
            damping=1e-3,
            lr=0.2,
            tol=0.01,
            maxiter=200,
            **preconditioner,
        )
        counts = []
        for _ in range(5):
            optimizer.step(problem)
            counts.append(optimizer.last_step.iterations)
        return sum(counts[3:])

    plain = iterations()
    assert iterations(preconditioner=name, preconditioner_options=options) < 0.85 * plain
