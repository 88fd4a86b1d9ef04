"""Problems as data: each is a name and a function of the dtype that returns the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

# For tests that have nothing to learn from the naive table.
on_the_fast_table = pytest.mark.parametrize("table", ["auto"], indirect=True)


def random_unitary(n, dtype, seed=0):
    rng = np.random.default_rng(seed)
    complex_part = 1j * rng.standard_normal((n, n)) if np.dtype(dtype).kind == "c" else 0
    return np.linalg.qr(rng.standard_normal((n, n)) + complex_part)[0]


def with_spectrum(eigenvalues, dtype=np.float64, seed=0):
    """Dense Hermitian matrix with these eigenvalues."""
    q = random_unitary(len(eigenvalues), dtype, seed)
    a = (q * np.asarray(eigenvalues, np.float64)) @ q.conj().T
    return ((a + a.conj().T) / 2).astype(dtype)


def vector(n, dtype=np.float64, seed=7):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal(n) + (1j * rng.standard_normal(n) if np.dtype(dtype).kind == "c" else 0)
    ).astype(dtype)


def poisson(m, dtype=np.float64):
    """Five-point Laplacian on an m by m grid."""
    line = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    grid = sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line)
    return sp.csr_array(grid.astype(dtype))


def spd(dtype, n=40, condition=100.0):
    return with_spectrum(np.geomspace(1 / condition, 1, n), dtype)


def scaled_spd(dtype, n=40):
    """Badly scaled rows and columns: what a diagonal preconditioner repairs."""
    d = np.geomspace(1, 100, n)
    a = spd(np.result_type(dtype, np.float64), n, 10.0) * d * d[:, None]
    return a.astype(dtype)


def indefinite(dtype, n=30):
    return with_spectrum([-3.0, -0.5, *np.linspace(1, 5, n - 2)], dtype)


def convection(dtype, n=60):
    """Convection and diffusion on a line: not symmetric, eigenvalues with positive real parts."""
    diagonal = (2.5 + (0.3j if np.dtype(dtype).kind == "c" else 0)) * np.ones(n)
    a = sp.diags_array(
        [-1.4 * np.ones(n - 1), diagonal, -0.6 * np.ones(n - 1)], offsets=[-1, 0, 1], dtype=dtype
    )
    return sp.csr_array(a)


def nonsymmetric(dtype, n=40):
    rng = np.random.default_rng(3)
    a = 3 * np.eye(n) + rng.standard_normal((n, n)) / np.sqrt(n)
    return (a + (0.5j * np.eye(n) if np.dtype(dtype).kind == "c" else 0)).astype(dtype)


DEFINITE = {
    "spd": spd,
    "scaled": scaled_spd,
    "poisson": lambda dtype: poisson(8, dtype),
    "diagonal": lambda dtype: np.diag(np.arange(1, 11)).astype(dtype),
    "one": lambda dtype: np.full((1, 1), 3, dtype),
}
GENERAL = {"nonsymmetric": nonsymmetric, "convection": convection, **DEFINITE}


def dense(a):
    return a.toarray() if sp.issparse(a) else np.asarray(a)


def exact(a, b):
    """Solution in double precision."""
    wide = np.result_type(a.dtype, np.float64)
    return np.linalg.solve(dense(a).astype(wide), b.astype(wide))


def condition(a):
    return np.linalg.cond(dense(a).astype(np.result_type(a.dtype, np.float64)))


def residual_norm(a, b, x):
    """|b - A x| in double precision."""
    wide = np.result_type(a.dtype, np.float64)
    return np.linalg.norm(b.astype(wide) - dense(a).astype(wide) @ np.asarray(x).astype(wide))


def epsilon(dtype):
    return float(np.finfo(dtype).eps)


def tolerance(dtype):
    """A relative tolerance that the precision allows."""
    return 1e-4 if epsilon(dtype) > 1e-10 else 1e-9
