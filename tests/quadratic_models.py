"""Quadratic models with a known matrix, for solvers that see its products only."""

from __future__ import annotations

import torch

DEFINITE = [0.1 * 1.5**k for k in range(20)]
INDEFINITE = [-3.0, -0.7, *[0.2 * 1.4**k for k in range(18)]]


class Dense:
    """A matrix with the interface of a curvature operator."""

    def __init__(self, matrix, shift=0.0):
        self.matrix, self.shift, self.count = matrix, shift, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def matvec(self, v):
        self.count += 1
        return self.matrix @ v + self.shift * v

    def __matmul__(self, v):
        return self.matvec(v)  # which subclasses replace

    __call__ = __matmul__


def symmetric(values, seed=0, dtype=torch.float64):
    """A matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(square)
    return (q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T).to(dtype)


def vector(n, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)


def model(A, g, d, shift):
    """``g.d + d.(A + shift I) d / 2``."""
    d, g = d.double(), g.double()
    return float(g @ d + d @ (A.double() @ d) / 2 + shift * (d @ d) / 2)
