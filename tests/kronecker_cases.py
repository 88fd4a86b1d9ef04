"""Kronecker factors and their preconditioner for small networks, and what must hold for M."""

from __future__ import annotations

import torch
from networks import Problem
from torch import nn

import krylov.torch as kt
from krylov.torch.optim.preconditioning.affine_layers import measured_factors
from krylov.torch.optim.preconditioning.kronecker import KroneckerFactors
from krylov.torch.optim.preconditioning.policies import make_preconditioning

F64 = torch.float64


def operator(problem, parameters=None, **keywords):
    return kt.GaussNewtonOperator(
        lambda: problem.model(problem.x),
        lambda outputs: problem.loss_of(outputs, problem.y),
        problem.parameters if parameters is None else parameters,
        **keywords,
    )


def measured(A, probes=1, seed=0):
    return measured_factors(A, probes, torch.Generator().manual_seed(seed))


def made(A, damping, **options):
    """M for a first system."""
    factors = KroneckerFactors(A.shape[0], A.dtype, **options)
    factors.update(A)
    return factors.preconditioner(A, damping)


def dense(M):
    columns = [M.matvec(row) for row in torch.eye(M.shape[0], dtype=M.dtype)]
    return torch.stack(columns, 1)


def vector_order(layer_matrix, outputs, inputs):
    """A matrix over the entries of (W, b), row by row, as one over those of W and then those of b."""
    at = torch.arange(outputs * (inputs + 1)).view(outputs, inputs + 1)
    order = torch.cat([at[:, :-1].reshape(-1), at[:, -1]])
    return layer_matrix[order][:, order]


def network(*layers, x=(7, 3), outputs=2, seed=0):
    """Layers with data for squared error."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*layers).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    inputs = torch.randn(x, generator=generator, dtype=F64)
    targets = torch.randn((*x[:-1], outputs), generator=generator, dtype=F64)
    return Problem(model, inputs, targets)


def make(name, options=None, **keywords):
    settings = {"n": 31, "dtype": F64, "curvature": "ggn", "solver": "flexible_cg", "seed": 0}
    return make_preconditioning(name, options, **{**settings, **keywords})


def check_positive(A, damping, **options):
    """M, found symmetric and positive definite."""
    M = made(A, damping, **options)
    matrix = dense(M)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12 * float(matrix.max()))
    assert torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0] > 0
    return M


def check_scaled(M, parameters, A):
    """These parameters have one factor."""
    mask = A.parameters.join([torch.ones_like(p) for p in A.parameters.tensors])
    chosen = A.parameters.join(
        [
            torch.ones_like(p) if any(p is q for q in parameters) else None
            for p in A.parameters.tensors
        ]
    )
    product = M.matvec(mask)[chosen.bool()]
    assert product[0] > 0
    torch.testing.assert_close(product, product[0].expand_as(product))
