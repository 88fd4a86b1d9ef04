"""The preconditioner M of Kronecker factors against dense truth, in solvers and in training."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kronecker_cases import (
    F64,
    dense,
    made,
    measured,
    operator,
    vector_order,
)
from networks import classifier, digits
from torch import nn

import krylov.torch as kt
from krylov import cg, flexible_cg
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.preconditioning.affine_layers import Layer
from krylov.torch.optim.record import GRADIENTS


@pytest.mark.parametrize("damping", [1e-4, 0.3, 20.0])
def test_M_is_the_inverse_of_the_damped_products(damping):
    problem = classifier()
    A = operator(problem)
    M = dense(made(A, damping, seed=3))
    wanted = torch.zeros(31, 31, dtype=F64)
    for layer, place, (outputs, inputs) in (
        (Layer(0, 1, False), slice(0, 16), (4, 3)),
        (Layer(2, 3, False), slice(16, 31), (3, 4)),
    ):
        a, g = measured(A, seed=3)[layer]
        pi = math.sqrt(float(a.diagonal().mean() / g.diagonal().mean()))
        a = a + pi * math.sqrt(damping) * torch.eye(len(a), dtype=F64)
        g = g + math.sqrt(damping) / pi * torch.eye(len(g), dtype=F64)
        wanted[place, place] = vector_order(torch.kron(g, a), outputs, inputs)
    torch.testing.assert_close(M, torch.linalg.inv(wanted), rtol=1e-8, atol=1e-10 * float(M.max()))


@given(
    damping=st.floats(0, 1e6),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    storage=st.sampled_from([None, "float32"]),
)
def test_M_is_positive_definite(damping, seed, scale, storage):
    """Without damping too, where the factors are singular."""
    A = operator(classifier(seed, scale=scale, samples=2))
    M = made(A, damping, storage=storage)
    for A_inverse, G_inverse in M._inverses.values():
        for K in (A_inverse, G_inverse):
            assert torch.equal(K, K.T)
            assert torch.isfinite(K).all()
            assert not int(torch.linalg.cholesky_ex(K.double()).info)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("damping", [0.0, 1e-6, 1.0])
def test_inverses_in_bfloat16_are_positive_definite(dtype, damping):
    A = operator(digits(samples=40, dtype=dtype))
    exact, rounded = made(A, damping), made(A, damping, storage="bfloat16")
    for pair in rounded._inverses.values():
        for K in pair:
            assert K.dtype == torch.bfloat16
            assert torch.linalg.eigvalsh(K.double())[0] > 0
    r = A.gradient
    assert rounded.matvec(r).dtype == dtype
    assert float(rounded.matvec(r) @ r) > 0
    if damping == 1.0:  # rounding takes what is small beside the largest entries of an inverse
        torch.testing.assert_close(rounded.matvec(r), exact.matvec(r), rtol=0.03, atol=1e-3)


def test_weight_decay_is_damping_too():
    problem = classifier()
    A = operator(problem)
    penalty = torch.full((31,), 0.5, dtype=F64)
    penalised = CurvatureOperator(A.parameters, A._batches, diagonal=penalty)
    torch.testing.assert_close(dense(made(penalised, 0.25)), dense(made(A, 0.75)))


@pytest.mark.parametrize("solve", [cg, flexible_cg])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_solvers_take_it(solve, kind):
    problem = digits(samples=200, hidden=8, dtype=F64)
    A = operator(problem, shift=1e-3)
    M = made(A, 1e-3, probes=4)
    b, left = -A.gradient, A
    if kind == "numpy":
        b, left = b.numpy(), A.to_scipy()
    x, info = solve(left, b, M=M, rtol=1e-8)
    assert info == 0
    residual = torch.as_tensor(b) - A @ torch.as_tensor(x)
    assert torch.linalg.vector_norm(residual) < 1e-7 * np.linalg.norm(np.asarray(b))


# Training


def deep(dtype=torch.float32):
    """An autoencoder of digits with six layers."""
    sizes = (64, 32, 16, 8, 16, 32, 64)
    x = digits(samples=300).x
    layers = []
    for i, (m, n) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(m, n)] + ([nn.Sigmoid()] if i < len(sizes) - 2 else [])
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * (p.shape[-1] ** -0.5) * (p.ndim - 1)
            )
    return model.to(dtype), x.to(dtype)


def trained(options, steps=15, autocast=False, **settings):
    model, x = deep()

    def closure():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = model(x)
        loss = F.binary_cross_entropy_with_logits(outputs.float(), x, reduction="sum") / len(x)
        return loss, outputs

    optimizer = kt.HessianFree(model.parameters(), stop=5, warm_start=0.0, **options, **settings)
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer.last_step


def test_training_a_deep_network_gets_further():
    plain = trained({}).loss_after
    for options in ({}, {"storage": "bfloat16"}):
        found = trained({"preconditioner": "kronecker", "preconditioner_options": options})
        assert found.loss_after < plain - 1
    assert trained({"preconditioner": "kronecker"}, solver="cg").loss_after < plain - 1
    half = trained({"preconditioner": "kronecker"}, autocast=True)
    assert half.loss_after < plain - 1


def test_the_record_counts_its_backward_passes():
    plain = trained({}, steps=1)
    found = trained(
        {"preconditioner": "kronecker", "preconditioner_options": {"probes": 3}}, steps=1
    )
    spent = GRADIENTS["ggn"] * found.products + GRADIENTS["loss"] * found.evaluations
    without = GRADIENTS["ggn"] * plain.products + GRADIENTS["loss"] * plain.evaluations
    more = (found.gradient_equivalents - spent) - (plain.gradient_equivalents - without)
    assert more == pytest.approx(3 * GRADIENTS["probe"])
    assert found.seconds["precondition"] > 0
