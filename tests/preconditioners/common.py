"""The formulas behind the low-rank preconditioners as dense matrices, and how to look at M itself."""

from __future__ import annotations

import numpy as np
from cases import random_unitary, vector, with_spectrum
from panels import KINDS, rounded, storages, wide

import krylov

__all__ = ["KINDS", "storages", "wide"]


def matrix_of(M):
    """M as a dense matrix in double precision."""
    n = M.shape[0]
    return wide(np.stack([M @ e for e in np.eye(n, dtype=M.dtype)], axis=1))


def assert_positive_definite(M):
    """Hermitian with positive eigenvalues, to the rounding of its vectors; and r.Mr, which solvers test, positive."""
    dense = matrix_of(M)
    assert np.isfinite(dense).all()
    values = np.linalg.eigvalsh((dense + dense.conj().T) / 2)
    slack = 8 * len(dense) * np.finfo(M.dtype).eps * values[-1]
    assert abs(dense - dense.conj().T).max() <= slack
    assert values[0] > -slack
    for seed in range(5):
        r = vector(len(dense), M.dtype, seed)
        assert np.vdot(wide(r), wide(M @ r)).real > 0


def operator(n, dtype, condition=100.0, seed=0):
    """A Hermitian positive definite matrix with eigenvalues from 1 to its condition."""
    return with_spectrum(np.geomspace(1, condition, n), np.result_type(dtype, "f8"), seed)


def pairs(A, count, dtype, seed=20):
    """Random directions with their products."""
    for k in range(count):
        s = vector(len(A), dtype, seed + k)
        yield s, (A @ wide(s)).astype(dtype)


def as_kept(s, y, storage):
    """A pair as the preconditioner stores it: divided by |s|, rounded."""
    norm = np.linalg.norm(wide(s))
    return rounded(wide(s) / norm, storage), rounded(wide(y) / norm, storage)


def bfgs_inverse(kept, gamma):
    """The textbook's BFGS update of the inverse, for one pair (s, y) after the other, from gamma I.

    H <- (I - s y^H / s.y) H (I - y s^H / s.y) + s s^H / s.y     (Nocedal and Wright 2006, equation 6.17)
    """
    n = len(kept[0][0])
    H = gamma * np.eye(n, dtype=np.result_type(*(s for s, _ in kept)))
    for s, y in kept:
        rho = np.vdot(s, y).real
        left = np.eye(n) - np.outer(s, y.conj()) / rho
        H = left @ H @ left.conj().T + np.outer(s, s.conj()) / rho
    return H


def largest_scale(kept):
    return max(np.vdot(s, y).real / np.vdot(y, y).real for s, y in kept)


def columns_are_accounted_for(M):
    """Every column of the pool is either free or used by M, once."""
    pool = M._columns
    used = list(pool._free)
    if isinstance(M, krylov.LBFGSPreconditioner):
        used += M._pairs.s + M._pairs.y
    else:
        used += M._kept + M._fresh
    return sorted(used) == list(range(len(pool._memory)))


def outliers(n, count, bulk, dtype=np.float64, seed=0):
    """A few large eigenvalues over a bulk at the shift: what low-rank preconditioners are for."""
    spectrum = np.concatenate([np.geomspace(1, 100, count), np.full(n - count, 0.0)]) + bulk
    return with_spectrum(spectrum, dtype, seed)


def slowly_changing(n, systems, dtype=np.float64, drift=0.03, bulk=1e-2):
    """A sequence of operators: k^-1.5 over a bulk, every eigenvalue and the eigenvectors drifting."""
    rng = np.random.default_rng(3)
    q = random_unitary(n, dtype)
    spectrum = np.where(np.arange(n) < n // 2, (1.0 + np.arange(n)) ** -1.5, 0.0)
    for _ in range(systems):
        a = (q * (spectrum + 0.3 * bulk * rng.uniform(size=n))) @ q.conj().T
        yield ((a + a.conj().T) / 2 + bulk * np.eye(n)).astype(dtype)
        spectrum = spectrum * (1 + drift * rng.uniform(-1, 1, n))
        generator = rng.standard_normal((n, n)) * (0.2 * drift / np.sqrt(n))
        q = np.linalg.qr(q + q @ (generator - generator.T))[0]
