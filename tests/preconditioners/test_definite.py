"""Whatever they have learnt, M is Hermitian positive definite: in every storage, for every shift."""

from __future__ import annotations

import numpy as np
import pytest
from cases import vector, with_spectrum
from preconditioners.common import KINDS, assert_positive_definite, pairs

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, RitzPreconditioner

N = 24
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
# theta / shift up to 1e8 for double precision, to 1e4 for single.
SPECTRA = {
    "geometric": lambda large: np.geomspace(1 / large, large, N),
    "outliers": lambda large: np.r_[np.full(20, 1 / large), np.geomspace(1, large, 4)],
    "clustered": lambda large: np.r_[np.full(12, large), np.full(12, 1 / large)],
    "singular": lambda large: np.r_[np.zeros(10), np.geomspace(1, large, 14)],
}
spectra = pytest.mark.parametrize("spectrum", SPECTRA)


def reach(dtype):
    return 1e4 if np.finfo(dtype).bits == 64 else 1e2


def system(spectrum, dtype):
    return with_spectrum(SPECTRA[spectrum](reach(dtype)), dtype)


def shifts(dtype):
    return [1.0, reach(dtype), 1 / reach(dtype)]


@kinds
@spectra
@pytest.mark.parametrize("apply", ["compact", "two_loop"])
def test_lbfgs(kind, spectrum, apply):
    dtype, storage = kind
    A = system(spectrum, dtype)
    M = LBFGSPreconditioner(N, 7, dtype=dtype, storage=storage, apply=apply)
    for s, y in pairs(A, 12, dtype):
        M.update(s, y)
    assert_positive_definite(M)
    for shift in shifts(dtype):
        M.shift = shift
        assert_positive_definite(M)


@kinds
@spectra
@pytest.mark.parametrize("kept", ["LBFGS", "Ritz"])
def test_after_runs(kind, spectrum, kept):
    """Dependent directions, directions of a preconditioned run, and those of a run beyond convergence."""
    dtype, storage = kind
    A, shift = system(spectrum, dtype), dtype.type(1 / reach(dtype))
    Preconditioner = getattr(krylov, f"{kept}Preconditioner")
    M = Preconditioner(N, 6, dtype=dtype, storage=storage, harvest=True, shift=float(shift.real))
    for seed in range(2):
        krylov.flexible_cg(
            lambda v: A @ v + shift * v, vector(N, dtype, seed), M=M, rtol=0, maxiter=N
        )
        assert_positive_definite(M)
    for other in shifts(dtype):
        M.shift = other
        assert_positive_definite(M)


@spectra
def test_nystrom(dtype, spectrum):
    A = system(spectrum, dtype)
    for m in (3, N):
        try:
            M = NystromPreconditioner(A, m)
        except ValueError:  # zero eigenvalues that rounding has made negative
            assert spectrum == "singular"
            continue
        for shift in shifts(dtype):
            M.shift = shift
            assert_positive_definite(M)


@kinds
@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e9])
def test_ritz_with_a_shift_far_below_its_values(kind, ratio):
    """A column rounded to 8 bits is orthogonal to the others to 8 bits: M must not become indefinite by it."""
    dtype, storage = kind
    A = with_spectrum(np.geomspace(1, 100, N), dtype)
    M = RitzPreconditioner(N, 6, dtype=dtype, storage=storage, harvest=True)
    krylov.cg(A, vector(N, dtype), M=M, rtol=1e-4)
    for shift in (1 / ratio, ratio):
        M.shift = shift
        dense = np.stack([M @ e for e in np.eye(N, dtype=dtype)], axis=1)
        smallest = np.linalg.eigvalsh((dense + dense.conj().T) / 2)[0]
        assert smallest > 0.3 / (100 + shift)
