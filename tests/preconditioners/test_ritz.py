"""Ritz vectors from runs: exact where they must be, renewed, shifted, bounded in memory."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from cases import epsilon, on_the_fast_table, vector, with_spectrum
from preconditioners.common import (
    KINDS,
    assert_positive_definite,
    columns_are_accounted_for,
    matrix_of,
    operator,
    outliers,
    pairs,
    wide,
)
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import krylov
from krylov import RitzPreconditioner

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
SPECTRUM = [50.0, 20.0, 9.0, 4.0, 2.0, 1.0]


def taught(A, m, **keywords):
    """After one run on A to its end."""
    M = RitzPreconditioner(len(A), m, dtype=A.dtype, harvest=True, **keywords)
    krylov.flexible_cg(A, vector(len(A), A.dtype), M=M, rtol=10 * epsilon(A.dtype), maxiter=len(A))
    return M


def kept_vectors(M):
    return np.stack([wide(M._columns.read(c)) for c in M._kept], axis=1) @ M._root


def test_a_full_run_gives_the_eigenvectors(dtype):
    """All of the Krylov space in one window: Ritz pairs are eigenpairs, and M inverts A on them."""
    A = with_spectrum(SPECTRUM, dtype)
    M = taught(A, 6, window=6)
    size, eps = 50.0, epsilon(dtype)
    k = len(M)
    assert k >= 4
    np.testing.assert_allclose(M.ritz_values, SPECTRUM[:k], atol=300 * eps * size)
    V = kept_vectors(M)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(k), atol=30 * eps)
    np.testing.assert_allclose(A @ V, V * M.ritz_values, atol=1e3 * eps * size)
    np.testing.assert_allclose(matrix_of(M) @ A @ V, V, atol=1e3 * eps * size)


def test_is_the_spectral_formula(dtype):
    """M = gamma I + V ((Theta + shift)^-1 - gamma) V^H with gamma = 1 / (shift + first discarded)."""
    A = operator(30, dtype, 1e3).astype(dtype)
    M = taught(A, 5, window=8)
    V = kept_vectors(M)
    for shift in (0.0, 3.0, 200.0):
        M.shift = shift
        gamma = 1 / (shift + M._discarded)
        assert 1 / gamma - shift <= M.ritz_values[-1]
        middle = 1 / (M.ritz_values + shift) - gamma
        dense = gamma * np.eye(30) + (V * middle) @ V.conj().T
        np.testing.assert_allclose(matrix_of(M), dense, atol=100 * epsilon(dtype) * gamma)


def test_leading_values_are_found_in_a_long_run(dtype):
    """Thick restarts over many windows: the outliers of a spectrum, in bounded memory."""
    A = outliers(80, 4, 1.0, dtype)
    M = RitzPreconditioner(80, 6, window=3, dtype=dtype, harvest=True)
    for seed in range(3):
        krylov.flexible_cg(A, vector(80, dtype, seed), M=M, rtol=1e-5)
    true = np.linalg.eigvalsh(wide(A))[::-1][:4]
    np.testing.assert_allclose(M.ritz_values[:4], true, rtol=0.1)


def test_changing_the_shift_is_exact(dtype):
    """Eigenpairs of A are those of A + shift I: M (A + shift I) V = V for any shift."""
    A = with_spectrum(SPECTRUM, dtype)
    M = taught(A, 6, window=6)
    V = kept_vectors(M)
    for shift in (0.5, 1e3, 0.0):
        M.shift = shift
        shifted = wide(A) + shift * np.eye(6)
        np.testing.assert_allclose(
            matrix_of(M) @ shifted @ V, V, atol=2e3 * epsilon(dtype) * np.linalg.cond(shifted)
        )


def test_a_run_with_a_shift_teaches_the_operator_without_it():
    A = with_spectrum(SPECTRUM)
    M = RitzPreconditioner(6, 6, window=6, shift=3.0, harvest=True)
    krylov.flexible_cg(lambda v: A @ v + 3.0 * v, vector(6), M=M, rtol=1e-14, maxiter=6)
    np.testing.assert_allclose(M.ritz_values, SPECTRUM[: len(M)], rtol=1e-8)


# -------------------------------------------------------------------------------------------------
# Memory


@on_the_fast_table
@pytest.mark.parametrize("window", [1, None])
@pytest.mark.parametrize("carry", [True, False])
def test_memory_is_bounded_over_long_runs(window, carry):
    A = operator(150, float, 1e6)
    M = RitzPreconditioner(150, 4, window=window, harvest=True, carry=carry)
    bytes_before = M.nbytes
    assert bytes_before >= 8 * 150 * (2 * 4 + (window or 4))
    assert bytes_before <= 1.2 * 8 * 150 * (2 * 4 + (window or 4))
    for seed in range(3):
        krylov.cg(A, vector(150, seed=seed), M=M, rtol=0, maxiter=50)
        assert M.nbytes == bytes_before
        assert columns_are_accounted_for(M)
        assert 1 <= len(M) <= 4
        assert M._fresh == []
    M.clear()
    assert len(M) == 0
    assert columns_are_accounted_for(M)
    assert np.array_equal(M @ vector(150), vector(150))


def test_storage_is_a_fraction_of_the_memory(dtype):
    sizes = []
    for storage in (None, "float32", "bfloat16"):
        sizes.append(RitzPreconditioner(1000, 4, dtype=dtype, storage=storage).nbytes)
    own = 8 if dtype in (np.dtype("f8"), np.dtype("c16")) else 4
    assert sizes[0] / sizes[1] == own / 4
    assert sizes[0] / sizes[2] == own / 2


@on_the_fast_table
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_gamma_is_of_the_size_of_the_spectrum_however_small_the_window(window, shift):
    """The first discarded value comes from the operator: it does not shrink from merge to merge."""
    A, counts = operator(100, float, 1e3), []
    M = RitzPreconditioner(100, 4, window=window, shift=shift, harvest=True)
    for seed in range(3):
        res = krylov.cg(lambda v: A @ v + shift * v, vector(100, seed=seed), M=M, rtol=1e-4)
        counts.append(res.niter)
        assert M._discarded >= 1.0  # the smallest eigenvalue of A
    assert max(counts) <= 1.5 * counts[0], counts


# -------------------------------------------------------------------------------------------------
# Carrying


def test_carrying_keeps_what_a_preconditioned_run_no_longer_sees():
    """The second run meets little of the outliers: with carry they stay known, without they are forgotten."""
    A, found = outliers(100, 4, 1.0), {}
    for carry in (True, False):
        M = RitzPreconditioner(100, 4, harvest=True, carry=carry)
        for seed in (0, 1):
            before = len(M)
            krylov.cg(A, vector(100, seed=seed), M=M, rtol=1e-4)
        assert before > 0
        found[carry] = abs(np.linalg.eigvalsh(A)[::-1][:2] - M.ritz_values[:2]).max()
    assert found[True] < 0.02 * found[False]


def test_without_carry_only_the_last_run_counts():
    A, B = operator(30, float, 50.0), operator(30, float, 50.0, seed=5)
    M = RitzPreconditioner(30, 4, harvest=True, carry=False)
    fresh = RitzPreconditioner(30, 4, harvest=True)
    krylov.cg(A, vector(30), M=M, rtol=1e-8)
    M.clear()
    for preconditioner in (M, fresh):
        krylov.cg(B, vector(30), M=preconditioner, rtol=1e-8)
    np.testing.assert_allclose(matrix_of(M), matrix_of(fresh), atol=1e-12)


# -------------------------------------------------------------------------------------------------
# Renewal

FORMS = {
    "ndarray": lambda A: A,
    "sparse": sp.csr_array,
    "matrix operator": aslinearoperator,
    "LinearOperator": lambda A: LinearOperator(A.shape, lambda v: A @ v, dtype=A.dtype),
    "callable": lambda A: lambda v: A @ v,
}


@pytest.mark.parametrize("form", FORMS)
def test_renew_is_the_dense_projection(form, dtype):
    """Ritz values of the new operator on the old span, whatever the operator was before."""
    A, B = operator(40, dtype, 1e3).astype(dtype), operator(40, dtype, 1e3, seed=9).astype(dtype)
    M = taught(A, 11, shift=0.5)
    V = np.linalg.qr(kept_vectors(M))[0]
    k = len(M)
    assert M.renew(FORMS[form](B)) == k == len(M)
    projected = np.linalg.eigvalsh(V.conj().T @ wide(B) @ V)[::-1]
    np.testing.assert_allclose(M.ritz_values, projected, rtol=0, atol=1e3 * 1e3 * epsilon(dtype))
    new = kept_vectors(M)
    np.testing.assert_allclose(V @ (V.conj().T @ new), new, atol=100 * epsilon(dtype))
    np.testing.assert_allclose(
        new.conj().T @ wide(B) @ new,
        np.diag(M.ritz_values),
        atol=1e3 * 1e3 * epsilon(dtype),
    )
    assert columns_are_accounted_for(M)
    assert_positive_definite(M)


@kinds
def test_renew_with_rounded_columns(kind):
    dtype, storage = kind
    A, B = operator(40, dtype, 1e2).astype(dtype), operator(40, dtype, 1e2, seed=9).astype(dtype)
    M = taught(A, 6, storage=storage)
    V = np.linalg.qr(kept_vectors(M))[0]
    M.renew(B)
    projected = np.linalg.eigvalsh(V.conj().T @ wide(B) @ V)[::-1]
    np.testing.assert_allclose(M.ritz_values, projected, atol=1.0)
    assert_positive_definite(M)


def test_renew_counts_its_products():
    A, count = operator(40, float), [0]
    M = taught(A, 5)

    def multiply(v):
        count[0] += 1
        return A @ v

    assert M.renew(multiply) == count[0] == len(M)
    assert RitzPreconditioner(40, 5).renew(multiply) == 0
    assert count[0] == len(M)


def test_a_shift_taken_away_leaves_m_positive_definite():
    """What has only the shift for an eigenvalue: without it there is nothing to divide by."""
    A = np.diag([4.0, 2.0, 0.0, 0.0, 0.0])
    M = RitzPreconditioner(5, 5, shift=1.0, harvest=True)
    krylov.cg(lambda v: A @ v + v, vector(5), M=M, rtol=1e-12)
    for shift in (1.0, 0.1, 0.0):
        M.shift = shift
        assert_positive_definite(M)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_renew_with_an_indefinite_operator_leaves_m_positive_definite(shift):
    M = taught(operator(30, float), 5, shift=shift)
    for B in (with_spectrum(np.linspace(-3, 5, 30)), -operator(30, float), np.zeros((30, 30))):
        M.renew(B)
        assert_positive_definite(M)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_renew_with_an_operator_that_is_not_finite(value):
    M = taught(operator(30, float), 5)
    before = matrix_of(M)
    with pytest.raises(ValueError, match="NaN or infinity"):
        M.renew(lambda v: v * value)
    assert np.array_equal(matrix_of(M), before)
    assert columns_are_accounted_for(M)


@pytest.mark.parametrize(
    ("B", "error"), [(np.eye(29), ValueError), (np.eye(30) * 1j, TypeError), (5, TypeError)]
)
def test_renew_with_an_operator_that_does_not_fit(B, error):
    M = taught(operator(30, float), 5)
    before = matrix_of(M)
    with pytest.raises(error):
        M.renew(B)
    assert np.array_equal(matrix_of(M), before)


# -------------------------------------------------------------------------------------------------
# Pairs by hand


@kinds
def test_updates_by_hand(kind):
    dtype, storage = kind
    A = operator(20, dtype, 50.0)
    M = RitzPreconditioner(20, 4, dtype=dtype, storage=storage)
    for s, y in pairs(A, 11, dtype):
        assert M.update(s, y)
        assert columns_are_accounted_for(M)
        assert_positive_definite(M)
    assert 1 <= len(M) <= 4


def test_scale_of_a_pair_cancels(dtype):
    A = operator(20, dtype)
    single = np.finfo(dtype).bits == 32
    results = []
    for factor in (1.0, *((1e-25, 1e25) if single else (1e-200, 1e200))):
        M = RitzPreconditioner(20, 4, dtype=dtype)
        for s, y in pairs(A, 6, dtype):
            assert M.update((s * factor).astype(dtype), (y * factor).astype(dtype))
        results.append(matrix_of(M))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e3 * epsilon(dtype))
