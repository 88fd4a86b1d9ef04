"""The randomised Nystroem preconditioner against its dense formula."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from cases import epsilon, random_unitary, vector, with_spectrum
from preconditioners.common import assert_positive_definite, matrix_of, operator, wide
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import krylov
from krylov import NystromPreconditioner, _core

N = 30
FORMS = {
    "ndarray": lambda A: A,
    "sparse": sp.csr_array,
    "matrix operator": aslinearoperator,
    "LinearOperator": lambda A: LinearOperator(A.shape, lambda v: A @ v, dtype=A.dtype),
}


def low_rank(rank, dtype, n=N):
    return with_spectrum([*np.geomspace(1, 100, rank), *np.zeros(n - rank)], dtype)


def vectors_of(M):
    return np.stack([wide(M._columns.read(c)) for c in M._kept], axis=1) @ M._root


def directions(m, seed, dtype):
    """Those that it multiplies."""
    columns = np.empty((m, N), dtype)
    for j, column in enumerate(columns):
        _core.fill_random(column, (seed << 20) + j)
    return wide(columns.T) / np.linalg.norm(wide(columns.T), axis=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m", [1, 6, 13])
def test_is_the_dense_formula(form, m, dtype):
    """V Theta V^H = Y (Omega^H Y)^-1 Y^H, and M from it."""
    A = operator(N, dtype, 1e4).astype(dtype)
    M = NystromPreconditioner(FORMS[form](A), m, seed=3, shift=0.5)
    omega = directions(m, 3, dtype)
    Y = wide(A) @ omega
    truth = Y @ np.linalg.solve(omega.conj().T @ Y, Y.conj().T)
    V = vectors_of(M)
    assert V.shape == (N, m)
    slack = 1e4 * 1e3 * epsilon(dtype)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(m), atol=1e3 * epsilon(np.float64))
    np.testing.assert_allclose((V * M.eigenvalues) @ V.conj().T, truth, atol=slack)
    np.testing.assert_allclose(M.eigenvalues, np.linalg.eigvalsh(truth)[::-1][:m], atol=slack)
    assert (np.diff(M.eigenvalues) <= 0).all()
    gamma = 1 / (0.5 + M.eigenvalues[-1])
    dense = gamma * np.eye(N) + (V * (1 / (M.eigenvalues + 0.5) - gamma)) @ V.conj().T
    np.testing.assert_allclose(matrix_of(M), dense, atol=1e3 * epsilon(dtype) * gamma)


@pytest.mark.parametrize("m", [5, 7, 9, 20, N])
def test_a_low_rank_operator_is_recovered(m, dtype):
    """Also where the images depend on each other: what is beyond the rank is noise, and is dropped."""
    A = low_rank(5, dtype)
    # With as many test vectors as the rank the errors of the images are magnified the most.
    slack = (1e5 if m > 5 else 1e6) * epsilon(dtype)
    for shift in (0.0, 0.1):
        M = NystromPreconditioner(A, m, shift=shift)
        np.testing.assert_allclose(M.eigenvalues[:5], np.geomspace(100, 1, 5), atol=slack)
        assert (M.eigenvalues[5:] < slack).all()
        V = vectors_of(M)
        np.testing.assert_allclose((V * M.eigenvalues) @ V.conj().T, wide(A), atol=slack)
        assert_positive_definite(M)


@pytest.mark.parametrize("m", [9, N])
def test_beyond_the_rank_only_the_shift_is_left(m):
    """gamma comes from the m-th eigenvalue of the approximation, which is zero here, not from the last one kept."""
    A = low_rank(5, float)
    M = NystromPreconditioner(A, m, shift=0.1)
    truth = np.linalg.inv(A + 0.1 * np.eye(N))
    np.testing.assert_allclose(matrix_of(M), truth, atol=1e-8)


def test_with_every_direction_it_is_the_inverse(dtype):
    A = operator(8, dtype, 10.0).astype(dtype)
    M = NystromPreconditioner(A, 8)
    np.testing.assert_allclose(matrix_of(M), np.linalg.inv(wide(A)), atol=3e3 * epsilon(dtype))
    M.shift = 2.5
    np.testing.assert_allclose(
        matrix_of(M), np.linalg.inv(wide(A) + 2.5 * np.eye(8)), atol=1e3 * epsilon(dtype)
    )


def test_seed():
    A = operator(N, float, 1e4)
    first, again, zero, other = (
        matrix_of(NystromPreconditioner(A, 4, seed=seed)) for seed in (None, None, 0, 1)
    )
    assert np.array_equal(first, again)
    assert np.array_equal(first, zero)
    assert not np.allclose(first, other)


def test_large_seeds():
    A = operator(N, float)
    assert_positive_definite(NystromPreconditioner(A, 2, seed=2**44 - 1))
    for seed in (2**44, 2**64, 10**30):
        with pytest.raises(ValueError, match=r"seed must be below 2\*\*44"):
            NystromPreconditioner(A, 2, seed=seed)


def test_products_are_counted(dtype):
    A, seen = operator(N, dtype).astype(dtype), []

    def multiply(v):
        seen.append(v.dtype)
        return A @ v

    NystromPreconditioner(LinearOperator(A.shape, multiply, dtype=dtype), 7)
    assert seen == [dtype] * 7


def test_dtype_of_the_vectors(dtype):
    A = operator(N, np.float64)
    if np.finfo(dtype).bits == 64:
        assert NystromPreconditioner(A, 3, dtype=dtype).dtype == dtype
    assert NystromPreconditioner(A.astype(np.float32), 3, dtype=dtype).dtype == dtype
    assert NystromPreconditioner(np.eye(4, dtype=int), 3).dtype == np.float64


def test_it_helps():
    q = random_unitary(200, float)
    spectrum = 1e-2 + np.concatenate([np.geomspace(100, 1, 20), np.zeros(180)])
    A, b = (q * spectrum) @ q.T, vector(200)
    plain = krylov.cg(A, b, rtol=1e-8).niter
    for solver in (krylov.cg, krylov.flexible_cg):
        M = NystromPreconditioner(A - 1e-2 * np.eye(200), 25, shift=1e-2)
        assert solver(A, b, M=M, rtol=1e-8).niter <= 4 < plain


# -------------------------------------------------------------------------------------------------
# Refusals


def test_an_indefinite_operator_is_refused(dtype):
    for spectrum in ([-5.0, *np.ones(N - 1)], [*np.full(3, -1.0), *np.linspace(1, 2, N - 3)]):
        with pytest.raises(ValueError, match="not positive semidefinite"):
            NystromPreconditioner(with_spectrum(spectrum, dtype), N)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        NystromPreconditioner(-np.eye(N, dtype=dtype), 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_operator_that_is_not_finite_is_refused(value):
    for A in (np.full((5, 5), value), LinearOperator((5, 5), lambda v: v * value, dtype=float)):
        with (
            np.errstate(invalid="ignore"),
            pytest.raises(ValueError, match="A gives NaN or infinity"),
        ):
            NystromPreconditioner(A, 2)


def test_zero_operator(dtype):
    M = NystromPreconditioner(np.zeros((6, 6), dtype), 3, shift=4.0)
    assert_positive_definite(M)
    M.shift = 0.0
    assert_positive_definite(M)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: NystromPreconditioner(lambda v: v, 2), ValueError, ["A", "shape", "callable"]),
        (lambda: NystromPreconditioner(np.eye(3), 4), ValueError, ["m = 4", "3 rows"]),
        (lambda: NystromPreconditioner(np.eye(3), 0), ValueError, ["m", "at least 1"]),
        (lambda: NystromPreconditioner(np.eye(3), 2.5), TypeError, ["m", "2.5"]),
        (lambda: NystromPreconditioner(np.eye(3), None), TypeError, ["m", "None"]),
        (lambda: NystromPreconditioner(np.ones((2, 3)), 1), ValueError, ["A", "square"]),
        (lambda: NystromPreconditioner(np.zeros((0, 0)), 1), ValueError, ["m = 1", "0 rows"]),
        (lambda: NystromPreconditioner(5, 1), TypeError, ["A", "int"]),
        (lambda: NystromPreconditioner(np.eye(3), 1, seed=-1), ValueError, ["seed"]),
        (lambda: NystromPreconditioner(np.eye(3), 1, seed=0.5), TypeError, ["seed", "0.5"]),
        (lambda: NystromPreconditioner(np.eye(3), 1, seed=""), TypeError, ["seed"]),
        (lambda: NystromPreconditioner(np.eye(3), 1, shift=-1), ValueError, ["shift", "negative"]),
        (lambda: NystromPreconditioner(np.eye(3), 1, dtype="f2"), TypeError, ["dtype", "float16"]),
        (lambda: NystromPreconditioner(np.eye(3) * 1j, 1, dtype="f8"), TypeError, ["complex"]),
        (lambda: NystromPreconditioner(np.eye(300), 257), ValueError, ["514", "512"]),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_matvec_that_takes_only_vectors_of_shape_n():
    d = np.linspace(1, 2, 30)
    A = LinearOperator((30, 30), matvec=lambda v: d * v, dtype=np.float64)
    M = krylov.NystromPreconditioner(A, 30)
    np.testing.assert_allclose(M @ (d * vector(30)), vector(30), rtol=1e-9)


def test_products_are_batched_where_the_operator_takes_matrices():
    d, widths = np.linspace(1, 2, 30), []

    def matmat(block):
        widths.append(block.shape[1])
        return d[:, None] * block

    A = LinearOperator((30, 30), matvec=lambda v: 1 / 0, matmat=matmat, dtype=np.float64)
    krylov.NystromPreconditioner(A, 12)
    assert widths == [8, 4]
