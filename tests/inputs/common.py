"""What the tests of bad and extreme input share: small systems, counted operators, residuals recomputed outside."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import krylov

METHODS = {name: getattr(krylov, name) for name in ("cg", "flexible_cg", "bicgstab", "neumann")}
DTYPES = ("f4", "f8", "c8", "c16")


def spd(n=6, dtype="f8", seed=0, condition=10.0):
    """A Hermitian positive definite matrix with eigenvalues from 1 / condition to 1."""
    return with_spectrum(np.geomspace(1 / condition, 1, n), dtype, seed)


def with_spectrum(eigenvalues, dtype="f8", seed=0):
    """A Hermitian matrix with these eigenvalues."""
    n = len(eigenvalues)
    q = np.linalg.qr(random(n, n, dtype="c16" if np.dtype(dtype).kind == "c" else "f8", seed=seed))[
        0
    ]
    matrix = (q * eigenvalues) @ q.conj().T
    return ((matrix + matrix.conj().T) / 2).astype(dtype)


def random(*shape, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def wide(values):
    """In the widest precision that NumPy has."""
    values = np.asarray(values.toarray() if sp.issparse(values) else values)
    return values.astype(np.clongdouble if values.dtype.kind == "c" else np.longdouble)


def residual_norm(A, b, x):
    """|b - A x| in extended precision and range."""
    return norm(wide(b).reshape(-1) - wide(A) @ wide(x))


def norm(v):
    v = np.abs(wide(v))
    return np.sqrt(np.sum(v * v))


def rounding(A, b, x):
    """The error that |b - A x| may have when it is computed in the precision of x."""
    eps = np.finfo(x.dtype).eps
    n = len(x)
    smallest = wide(np.finfo(x.dtype).smallest_subnormal)
    return 4 * np.sqrt(n) * (eps * (n * norm(A) * norm(x) + norm(b)) + n * smallest * (1 + norm(A)))


def assert_truthful(A, b, result, rtol=1e-5, atol=0.0):
    """No wrong "converged", no NaN in x, and the residual that is reported is the true one."""
    x = np.asarray(result.x)
    assert np.isfinite(x).all(), result
    true, slack = residual_norm(A, b, x), rounding(A, b, x)
    if result.outcome.name.startswith("CONVERGED"):
        assert true <= max(atol, rtol * norm(b)) + slack, (result, float(true), float(norm(b)))
    overflowed = result.outcome.name == "NON_FINITE" and not np.isfinite(
        result.true_residual_norm or 0.0
    )
    if result.true_residual_norm is not None and not overflowed:
        assert abs(result.true_residual_norm - true) <= slack + 1e-6 * true, (result, float(true))
    assert len(result.residual_norms) == result.niter + 1, result


class Counted(LinearOperator):
    """A matrix as an operator that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.count = matrix, 0
        super().__init__(matrix.dtype, matrix.shape)

    def _matvec(self, v):
        self.count += 1
        return self.matrix @ v.reshape(-1)


class Bare:
    """An operator that answers with whatever `function` returns, without SciPy's checks in between."""

    def __init__(self, function, n, dtype="f8"):
        self.matvec, self.shape, self.dtype = function, (n, n), np.dtype(dtype)


# How an operator of N unknowns may reach a solver: the checks that SciPy makes in between differ.
N = 6
WRAPPINGS = {
    "callable": lambda function: function,
    "object": lambda function: Bare(function, N),
    "LinearOperator": lambda function: LinearOperator((N, N), function, dtype=np.float64),
}
