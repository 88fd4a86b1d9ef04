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
from krylov.torch.optim.solvers import dense
from krylov.torch.optim.solvers.dense import DenseSolver


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
    (a,), (b,) = small.directions(1e-4).candidates, large.directions(1e-4).candidates
    torch.testing.assert_close(a.step, b.step, rtol=1e-7, atol=1e-9)


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


def wavy(z):
    """Neither convex, nor with a closed form."""
    return (3 * z).cos().sum() + 0.3 * z.square().sum()


def hilly(z):
    """Not convex, with a diagonal in closed form."""
    return -z.square().mean()


INDEFINITE = [(wavy, 40, {}), (wavy, 10, {}), (wavy, 40, {"split": 7}), (hilly, 40, {})]


@pytest.mark.parametrize(("loss", "count", "options"), INDEFINITE)
@pytest.mark.parametrize("damping", [1e-6, 1e-2])
def test_negative_curvature_gives_the_saddle_free_step(loss, count, options, damping):
    operator = make(loss, count, **options)
    gradient = operator.gradient.clone()
    B = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    operator.shift = damping
    found = DenseSolver()(operator, gradient, None)
    t, U = torch.linalg.eigh(B)
    assert t[0] < -damping, "the matrix is not indefinite"
    d = -U @ ((U.T @ gradient) / (t.abs().clamp_min(2.3e-16 * t.abs().max()) + damping))
    (candidate,) = found.candidates
    assert found.negative_curvature
    assert found.outcome is Outcome.NEGATIVE_CURVATURE
    assert found.shift is None
    assert candidate.damping is None
    torch.testing.assert_close(candidate.step, d, rtol=1e-6, atol=1e-6 * float(d.abs().max()))
    value = gradient @ d + d @ (B @ d + damping * d) / 2
    assert candidate.value == pytest.approx(float(value), rel=1e-7)


def test_a_matrix_without_a_diagonal_is_indefinite_too():
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def closure():
        outputs = w + 0
        return outputs[0] * outputs[1], outputs

    optimizer = kt.HessianFree([w], solver="dense", damping=0.5, line_search=kt.GridSearch())
    optimizer.step(closure)
    assert optimizer.last_step.negative_curvature
    # The gradient (2, 1) has 3/2 along the eigenvalue 1, and 1/2 along -1; both count as 1 + lambda.
    torch.testing.assert_close(w.detach(), torch.tensor([1 - 4 / 3, 2 - 2 / 3]).double())


@pytest.mark.parametrize(("loss", "count", "options"), INDEFINITE)
def test_enough_damping_makes_it_an_exact_step(loss, count, options):
    operator = make(loss, count, **options)
    B = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    operator.shift = 1.5 * float(torch.linalg.eigvalsh(B).abs().max())
    found = DenseSolver()(operator, operator.gradient, None)
    A = B + operator.shift * torch.eye(len(B), dtype=torch.float64)
    assert (found.negative_curvature, found.outcome) == (False, Outcome.CONVERGED)
    torch.testing.assert_close(
        found.candidates[0].step, -torch.linalg.solve(A, operator.gradient), rtol=1e-8, atol=1e-10
    )


def test_the_spectrum_is_measured_once_for_all_dampings(monkeypatch):
    operator, solver, calls = make(wavy, 40), DenseSolver(), []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a: calls.append(1) or eigh(*a))
    gradient = operator.gradient
    for damping in (1e-6, 1e-3, 1e-2):
        operator.shift = damping
        assert solver(operator, gradient, None).negative_curvature
    assert len(calls) == 1


@pytest.mark.parametrize("lr", [1.0, 0.5, [0.5, 0.25]], ids=str)
def test_the_record_tells_of_negative_curvature_and_predicts_with_the_indefinite_matrix(lr):
    z = torch.tensor([0.4, -0.7, 2.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    rates = lr if isinstance(lr, list) else [lr, lr]

    def closure():
        """A quadratic with curvature 1, -2, 3, 2, 2: the model is exact wherever the step leads."""
        outputs = torch.cat([z, w])
        weights = torch.tensor([1.0, -2.0, 3.0, 2.0, 2.0], dtype=torch.float64)
        return (weights * outputs.square()).sum() / 2, outputs

    groups = [{"params": [p], "lr": rate} for p, rate in zip((z, w), rates, strict=True)]
    optimizer = kt.HessianFree(groups, solver="dense", damping=1e-3)
    optimizer.step(closure)
    record = optimizer.last_step
    assert record.negative_curvature
    assert record.outcome is Outcome.NEGATIVE_CURVATURE
    assert record.damping == 1e-3
    assert record.rho == pytest.approx(1, abs=1e-2)  # the damping is all that differs
    assert record.accepted
    # Away from the saddle along the second axis, which a step that shifts the matrix would not be.
    assert z[1].item() == pytest.approx(-0.7 * (1 + rates[0]), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_negative_curvature_and_its_repair_is_on_record(dtype):
    """Columns that are multiples of each other, to the last digit but one."""
    x = data(40, 2).to(dtype)
    wide = torch.cat([x, 3 * x, x / 7, x.sum(1, keepdim=True)], 1)
    layer = nn.Linear(7, 3, bias=False, dtype=dtype)

    def closure():
        z = layer(wide)
        return F.cross_entropy(z, torch.arange(40) % 3), z

    optimizer = kt.HessianFree(
        layer.parameters(), solver="dense", damping=0.0, line_search=kt.GridSearch(), retries=0
    )
    optimizer.step(closure)
    record = optimizer.last_step
    assert not record.negative_curvature
    assert record.outcome is Outcome.CONVERGED
    assert record.accepted
    assert 0 < record.damping < 1e-5
    assert record.loss_after < record.loss_before


def test_a_repaired_matrix_is_that_of_the_prediction(monkeypatch):
    """Where it takes more damping than was asked for, candidate, value and record have it."""
    operator = make(squares, 40)
    own = dense._cholesky_solve
    monkeypatch.setattr(
        dense, "_cholesky_solve", lambda A, b, shift: own(A, b, shift) if shift > 1e-9 else None
    )
    operator.shift = 1e-12
    found = DenseSolver()(operator, operator.gradient, None)
    (candidate,) = found.candidates
    assert found.shift == candidate.damping > 1e-9
    B = operator @ torch.eye(operator.shape[0], dtype=torch.float64) - 1e-12 * torch.eye(
        operator.shape[0], dtype=torch.float64
    )
    g, d = operator.gradient, candidate.step
    wanted = g @ d + d @ (B @ d + found.shift * d) / 2
    assert candidate.value == pytest.approx(float(wanted), rel=1e-6)
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def closure():
        outputs = w + 0
        return (outputs - 3).square().sum(), outputs

    optimizer = kt.HessianFree([w], solver="dense", damping=1e-12)
    optimizer.step(closure)
    assert optimizer.last_step.damping > 1e-9
    assert optimizer.damping == 1e-12  # what was asked for goes on by the rule, down to its minimum


def test_no_curvature_and_no_damping_is_no_overflow():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = kt.HessianFree([w], solver="dense", damping=0.0)

    def closure():
        outputs = w + 0
        return outputs.sum(), outputs

    optimizer.step(closure)
    assert optimizer.last_step.outcome is Outcome.BREAKDOWN
    assert optimizer.last_step.accepted  # along -g


@pytest.mark.parametrize(
    ("options", "initial", "judge", "search"),
    [
        ({}, 1e-3, "length", kt.GridSearch()),
        ({"damping": 0.5}, 0.5, "length", kt.GridSearch()),
        ({"line_search": kt.GridSearch(shorter=3)}, 1e-3, "length", kt.GridSearch(shorter=3)),
        ({"damping": kt.LevenbergMarquardt(2.0)}, 2.0, "ratio", kt.GridSearch()),
        ({"line_search": kt.Armijo()}, 1.0, "ratio", kt.Armijo()),
        ({"solver": "cg"}, 1.0, "ratio", kt.Armijo()),
    ],
)
def test_exact_steps_have_a_rule_of_damping_and_a_line_search_of_their_own(
    options, initial, judge, search
):
    optimizer = kt.HessianFree(
        [torch.ones(2, requires_grad=True)], **{"solver": "dense", **options}
    )
    method = optimizer._method
    assert (optimizer.damping, method.damping.judge) == (initial, judge)
    assert method.line_search == search


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
