"""Diagonals for Jacobi preconditioning against dense truth."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import CASES, LABELS, X, draw
from torch import nn

import krylov
import krylov.torch as kt
from krylov.torch.diagonals import EmpiricalFisherDiagonal, GaussNewtonDiagonal

torch.set_num_threads(1)
CASE = CASES[0]
BATCHES = [(X[:3], LABELS[:3]), (X[3:4], LABELS[3:4]), (X[4:], LABELS[4:])]


def losses(batch, reduction="mean"):
    return F.cross_entropy(CASE.model(batch[0]), batch[1], reduction=reduction)


def each(batch):
    return losses(batch, "none")


def gradients():
    """Of each sample, in rows."""
    rows = []
    for i in range(6):
        parts = torch.autograd.grad(losses((X[i : i + 1], LABELS[i : i + 1])), CASE.parameters)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


def batched(**options):
    return kt.GaussNewtonOperator(
        lambda batch: CASE.model(batch[0]),
        lambda z, batch: F.cross_entropy(z, batch[1]),
        CASE.parameters,
        data=BATCHES,
        **options,
    )


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("data", [BATCHES, [(X, LABELS)]], ids=["batches", "whole"])
def test_fisher_over_samples(data, chunk):
    F_ = EmpiricalFisherDiagonal(each, CASE.parameters, data=data, chunk=chunk)
    torch.testing.assert_close(F_.diagonal, gradients().square().mean(0))


def test_fisher_over_groups():
    rows = gradients()
    groups = torch.stack([rows[:3].mean(0), rows[3], rows[4:].mean(0)])
    expected = torch.tensor([3.0, 1.0, 2.0]).double() @ groups.square() / 6
    torch.testing.assert_close(
        EmpiricalFisherDiagonal(losses, CASE.parameters, data=BATCHES).diagonal, expected
    )
    for cache in ("graph", "none"):
        F_ = EmpiricalFisherDiagonal.of(batched(cache=cache))
        torch.testing.assert_close(F_.diagonal, expected)
    H = kt.HessianOperator(losses, CASE.parameters, data=BATCHES)
    torch.testing.assert_close(EmpiricalFisherDiagonal.of(H).diagonal, expected)
    whole = EmpiricalFisherDiagonal(lambda: losses((X, LABELS)), CASE.parameters)
    torch.testing.assert_close(whole.diagonal, rows.mean(0).square())
    single = EmpiricalFisherDiagonal(lambda: each((X, LABELS)), CASE.parameters)
    torch.testing.assert_close(single.diagonal, rows.square().mean(0))


def test_the_gradients_of_an_operator_are_left_as_they_are():
    A = batched()
    before = [graph.gradient[0].clone() for _, graph in A.graphs()]
    EmpiricalFisherDiagonal.of(A)
    GaussNewtonDiagonal(A)
    for (_, graph), gradient in zip(A.graphs(), before, strict=True):
        assert torch.equal(graph.gradient[0], gradient)


@pytest.mark.parametrize("method", ["auto", "hutchinson"])
@pytest.mark.parametrize("case", [CASES[i] for i in (0, 1, 2, 3, 7, 15)], ids=str)
def test_gauss_newton_without_bias(case, method):
    A = case.gauss_newton_operator()
    truth = case.dense_gauss_newton().diagonal()
    estimates = torch.stack(
        [GaussNewtonDiagonal(A, probes=50, seed=k, method=method).diagonal for k in range(20)]
    )
    assert (estimates >= 0).all()
    mean = estimates.mean(0)
    # What a mean of twenty may be off by.
    off = estimates.std(0) / 20**0.5
    assert ((mean - truth).abs() <= 5 * off + 1e-12 * truth.max()).float().mean() > 0.98
    assert (mean - truth).norm() < 0.15 * truth.norm()


def test_one_output_a_sample_is_exact():
    """Signs that meet nobody cancel nothing."""
    model = nn.Linear(3, 1).double()
    A = kt.GaussNewtonOperator(
        lambda: model(X[:1]), lambda z: F.mse_loss(z, z.detach() + 1), model.parameters()
    )
    exact = torch.diagonal(A @ torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(GaussNewtonDiagonal(A, probes=1, seed=3).diagonal, exact)


def test_factor_has_less_variance_than_hutchinson():
    A = CASE.gauss_newton_operator()
    truth = CASE.dense_gauss_newton().diagonal()

    def error(method):
        found = [GaussNewtonDiagonal(A, probes=8, seed=k, method=method) for k in range(20)]
        return sum(float((f.diagonal - truth).norm()) for f in found)

    assert error("auto") < error("hutchinson")


def test_micro_batches_and_recomputation_give_the_same():
    kept, rebuilt = (
        GaussNewtonDiagonal(batched(cache=cache), probes=3, seed=5).diagonal
        for cache in ("graph", "none")
    )
    torch.testing.assert_close(kept, rebuilt)
    truth = torch.diagonal(batched() @ torch.eye(36, dtype=torch.float64))
    many = GaussNewtonDiagonal(batched(), probes=2000, seed=1).diagonal
    assert (many - truth).norm() < 0.1 * truth.norm()


def test_seeds():
    A = CASE.gauss_newton_operator()
    state = torch.get_rng_state()
    first = GaussNewtonDiagonal(A, seed=1).diagonal
    assert torch.equal(GaussNewtonDiagonal(A, seed=1).diagonal, first)
    assert not torch.equal(GaussNewtonDiagonal(A, seed=2).diagonal, first)
    assert torch.equal(torch.get_rng_state(), state)


def test_shift_is_left_out_and_a_penalty_is_part_of_the_matrix():
    A = CASE.gauss_newton_operator(shift=3.0)
    plain = GaussNewtonDiagonal(CASE.gauss_newton_operator(), seed=1).diagonal
    assert torch.equal(GaussNewtonDiagonal(A, seed=1).diagonal, plain)
    penalty = torch.linspace(0, 1, 36, dtype=torch.float64)
    B = type(A).__mro__[1](A.parameters, A._batches, diagonal=penalty)
    torch.testing.assert_close(GaussNewtonDiagonal(B, seed=1).diagonal, plain + penalty)


def test_it_preconditions():
    A = CASE.gauss_newton_operator(shift=1e-3)
    scale = torch.logspace(-1.5, 1.5, 36, dtype=torch.float64)

    def multiply(v):
        return scale * (A @ (scale * v))

    b = draw(36)
    diagonal = GaussNewtonDiagonal(A, probes=200, seed=0).diagonal + 1e-3
    M = krylov.JacobiPreconditioner(scale**2 * diagonal)
    options = {"rtol": 1e-6, "maxiter": 2000}
    assert krylov.cg(multiply, b, M=M, **options).niter < krylov.cg(multiply, b, **options).niter


def test_preconditioner():
    D = GaussNewtonDiagonal(CASE.gauss_newton_operator(), probes=5)
    M = D.preconditioner(0.1, 0.75)
    assert isinstance(M, krylov.JacobiPreconditioner)
    np.testing.assert_allclose(M @ np.ones(36), (D.diagonal.numpy() + 0.1) ** -0.75)
    np.testing.assert_allclose(D.preconditioner(1.0) @ np.ones(36), 1 / (D.diagonal.numpy() + 1))
    with pytest.raises(ValueError, match="add a shift"):
        EmpiricalFisherDiagonal(lambda: 0 * losses((X, LABELS)), CASE.parameters).preconditioner()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"probes": 0}, ValueError, "probes must be at least 1"),
        ({"probes": 1.5}, TypeError, "probes must be an integer"),
        ({"seed": "x"}, TypeError, "seed must be an integer"),
        ({"method": "exact"}, ValueError, "auto, factor, hutchinson"),
    ],
)
def test_options(options, error, words):
    with pytest.raises(error, match=words):
        GaussNewtonDiagonal(CASE.gauss_newton_operator(), **options)


def test_what_has_no_such_diagonal():
    with pytest.raises(TypeError, match="not a Gauss-Newton matrix, but a Hessian"):
        GaussNewtonDiagonal(CASE.hessian_operator())
    with pytest.raises(TypeError, match="must be a GaussNewtonOperator, not Tensor"):
        GaussNewtonDiagonal(torch.eye(3))
    quartic = next(case for case in CASES if "quartic" in case.name)
    with pytest.raises(ValueError, match="take 'hutchinson'"):
        GaussNewtonDiagonal(quartic.gauss_newton_operator(), method="factor")


def test_bad_input_of_the_fisher_diagonal():
    for arguments, error, words in (
        ({"loss_fn": 3.0}, TypeError, "loss_fn must be a function"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
        ({"data": []}, ValueError, "no samples"),
        ({"loss_fn": lambda batch: torch.ones(2, 2)}, ValueError, "scalar"),
        ({"loss_fn": lambda batch: 1.0}, TypeError, "must be a tensor"),
        ({"loss_fn": lambda batch: losses(batch) + torch.rand(())}, RuntimeError, "random"),
    ):
        given = {"loss_fn": losses, "params": CASE.parameters, "data": BATCHES, **arguments}
        loss_fn, params = given.pop("loss_fn"), given.pop("params")
        with pytest.raises(error, match=words):
            EmpiricalFisherDiagonal(loss_fn, params, **given)


def test_costs_in_backward_passes():
    from torch.utils.flop_counter import FlopCounterMode

    model = nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )
    x, y = torch.randn(32, 64), torch.randint(10, (32,))
    parameters = list(model.parameters())

    def count(work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    gradient = count(lambda: torch.autograd.grad(F.cross_entropy(model(x), y), parameters))
    A = kt.GaussNewtonOperator(lambda: model(x), lambda z: F.cross_entropy(z, y), parameters)
    assert count(lambda: EmpiricalFisherDiagonal.of(A)) == 0
    assert count(lambda: GaussNewtonDiagonal(A, probes=3)) <= 3 * 0.67 * gradient
    assert (
        count(lambda: GaussNewtonDiagonal(A, probes=2, method="hutchinson")) <= 2 * 4 / 3 * gradient
    )
    assert A.count == 0
