"""What the tests of the differentiable solve share: small systems, sparse ones, operators that count."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import scipy.sparse as sp
import torch

import krylov

N = 6
TIGHT = {"rtol": 1e-13}
EYE = torch.eye(N, dtype=torch.float64)


def parameter(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator, requires_grad=True)


THETA, B, B2 = parameter(N, N), parameter(N, seed=1), parameter(N, 2, seed=2)
WEIGHTS = parameter(N, seed=3).detach()


def definite(theta):
    return theta @ theta.mH + EYE


def square(theta):
    return theta + 7 * EYE


def complexify(theta):
    return torch.complex(theta, theta.mT / 2)


class Duck:
    """An operator with a shape, a product and maybe its reverse."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def matvec(self, v):
        return self.matrix @ v


class ReversibleDuck(Duck):
    def rmatvec(self, v):
        return self.matrix.mH @ v


def by_product(matrix):
    return lambda v: matrix @ v


class Counting:
    """A callable that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.count = matrix, 0

    def __call__(self, v):
        self.count += 1
        return self.matrix @ v


INDICES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 3, 1, 2], [0, 1, 2, 3, 4, 5, 3, 0, 2, 1]])
VALUES = torch.tensor([4, 5, 6, 7, 5, 4, 1, 1, 0.5, 0.5], dtype=torch.float64, requires_grad=True)


def sparse(values, layout="to_sparse", indices=INDICES):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta")
        matrix = torch.sparse_coo_tensor(indices, values, (N, N), check_invariants=False)
        return matrix if layout == "to_sparse" else getattr(matrix, layout)()


# Constant, for SciPy.
MATRIX = sp.csr_array(np.diag(np.arange(4.0, 4 + N)) + np.diag(np.ones(N - 1), 1))


def record_solves(monkeypatch):
    """Returns a list that the results of all solves from now on go to."""
    results = []

    def watch(original):
        @functools.wraps(original)
        def watched(*args, **keywords):
            results.append(original(*args, **keywords))
            return results[-1]

        return watched

    for name in ("cg", "bicgstab"):
        monkeypatch.setattr(krylov, name, watch(getattr(krylov, name)))
    return results
