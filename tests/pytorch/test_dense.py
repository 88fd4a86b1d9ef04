"""Exact steps from dense factorisations."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import krylov.torch as kt
from krylov.outcome import Outcome
from krylov.torch.optim import dense
from krylov.torch.optim.dense import DenseSolver


def data(count, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def make(loss, count, *, decay=None, split=None, seed=0):
    """An operator of a small network, and its gradient with the penalty."""
    torch.manual_seed(seed)
    outputs = 4 if loss is cross_entropy else 1
    model = nn.Sequential(
        nn.Linear(3, 4, dtype=torch.float64), nn.Tanh(), nn.Linear(4, outputs, dtype=torch.float64)
    )
    x = data(count)
    operator = kt.GaussNewtonOperator(
        lambda batch: model(batch),
        lambda z, batch: loss(z),
        model.parameters(),
        data=x.split(split or count),
    )
    if decay is not None:
        operator._diagonal = decay * torch.ones(operator.shape[0], dtype=torch.float64)
    return operator


def squares(z):
    return (z - 1).square().mean()


def weighted(z):
    return z[: len(z) // 2].square().sum() / 3 + z.square().mean()


def differences(z):
    """No diagonal Hessian."""
    return (z[1:] - z[:-1]).square().sum()


def cross_entropy(z):
    return F.cross_entropy(z, torch.arange(len(z)) % 4)


def unusual(z):
    """No closed form."""
    return torch.cosh(z).sum()


CASES = [
    (squares, {}),
    (squares, {"split": 4}),
    (squares, {"decay": 0.1}),
    (weighted, {}),
    (differences, {}),
    (cross_entropy, {}),
    (cross_entropy, {"split": 5}),
    (unusual, {}),
]


@pytest.mark.parametrize(("loss", "options"), CASES)
@pytest.mark.parametrize("count", [10, 40])  # fewer and more outputs than parameters
@pytest.mark.parametrize("damping", [1e-6, 1e-2, 1e3])
def test_the_step_is_exact(loss, options, count, damping):
    operator = make(loss, count, **options)
    gradient = operator.gradient.clone()
    B = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    operator.shift = damping
    found = DenseSolver()(operator, gradient, None)
    d = -torch.linalg.solve(B + damping * torch.eye(len(B), dtype=torch.float64), gradient)
    (candidate,) = found.candidates
    assert found.outcome is Outcome.CONVERGED
    torch.testing.assert_close(candidate.step, d, rtol=1e-6, atol=1e-9)
    value = gradient @ d + d @ (B @ d + damping * d) / 2
    assert candidate.value == pytest.approx(float(value), rel=1e-8)


def test_both_sides_give_the_same_step(monkeypatch):
    """With few outputs the smaller matrix; without the diagonal of the loss that of the parameters."""
    operator = make(squares, 8)
    operator.shift = 1e-4
    small = dense._make_system(operator, operator.gradient)
    assert small.matrix.shape == (8, 8)
    monkeypatch.setattr(dense, "_of_outputs", lambda *_: None)
    large = dense._make_system(operator, operator.gradient)
    assert large.matrix.shape == operator.shape
    torch.testing.assert_close(small.step(1e-4), large.step(1e-4), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "smaller"),
    [
        (squares, True),
        (weighted, True),
        (differences, False),
        (cross_entropy, False),
        (unusual, False),
    ],
)
def test_the_smaller_matrix_is_taken_for_sums_of_squares(loss, smaller):
    operator = make(loss, 5)
    system = dense._make_system(operator, operator.gradient)
    assert (len(system.matrix) < operator.shape[0]) == smaller


def test_a_gradient_of_another_sample_is_not_taken_for_the_operators():
    operator = make(squares, 8)
    g = data(1, operator.shape[0], seed=5)[0]
    B = operator @ torch.eye(len(g), dtype=torch.float64)
    operator.shift = 0.1
    (candidate,) = DenseSolver()(operator, g, None).candidates
    wanted = -torch.linalg.solve(B + 0.1 * torch.eye(len(g), dtype=torch.float64), g)
    torch.testing.assert_close(candidate.step, wanted)


def test_another_damping_costs_no_second_jacobian(monkeypatch):
    operator, solver, calls = make(squares, 8), DenseSolver(), []
    own = dense.jacobian
    monkeypatch.setattr(dense, "jacobian", lambda *a: calls.append(1) or own(*a))
    gradient = operator.gradient
    for damping in (1e-3, 1e-2):
        operator.shift = damping
        solver(operator, gradient, None)
    assert len(calls) == 1
    solver(operator, gradient.clone(), None)
    assert len(calls) == 2
    other = copy.deepcopy(solver)
    other(operator, gradient, None)
    assert len(calls) == 3


@pytest.mark.parametrize("split", [None, 2])
def test_passes_are_those_over_all_samples(split):
    operator = make(squares, 8, split=split)
    assert DenseSolver()(operator, operator.gradient, None).passes == 3


@pytest.mark.parametrize(("loss", "decay"), [(cross_entropy, None), (squares, 0.1)])
def test_the_large_side_is_reckoned_with_where_it_is_taken(loss, decay, monkeypatch):
    operator = make(loss, 2, decay=decay)
    outputs, n = (8 if loss is cross_entropy else 2), operator.shape[0]
    small = 2 * 8 * 4 * (outputs * n + outputs**2)
    monkeypatch.setattr(dense, "available_bytes", lambda device: small)
    with pytest.raises(RuntimeError, match="would need"):
        DenseSolver()(operator, operator.gradient, None)


def test_a_singular_matrix_without_damping_still_gives_a_descent_direction():
    operator = make(squares, 40)
    # The last parameter has no influence.
    unused = torch.ones(1, dtype=torch.float64, requires_grad=True)
    operator = kt.GaussNewtonOperator(
        lambda: operator.parameters.tensors[0].sum(0) + 0 * unused,
        lambda z: z.square().sum(),
        [operator.parameters.tensors[0], unused],
    )
    (candidate,) = DenseSolver()(operator, operator.gradient, None).candidates
    assert torch.isfinite(candidate.step).all()
    assert candidate.step @ operator.gradient < 0


def test_overflow_is_no_step():
    operator = make(squares, 8)
    found = DenseSolver()(operator, operator.gradient * float("inf"), None)
    assert found.outcome is Outcome.NON_FINITE
    assert found.candidates[0].iteration == 0


def test_what_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(dense, "available_bytes", lambda device: 1000)
    with pytest.raises(RuntimeError, match="solver='flexible_cg'"):
        DenseSolver()(make(squares, 8), torch.zeros(21, dtype=torch.float64), None)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"curvature": "hessian"}, "curvature='ggn'"),
        ({"curvature": "hybrid"}, "curvature='ggn'"),
        ({"stop": 5}, "stop"),
        ({"preconditioner": "ritz"}, "takes no preconditioner"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        kt.HessianFree([torch.ones(2, requires_grad=True)], solver="dense", **options)
