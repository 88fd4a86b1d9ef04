from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg as sla
from cases import dense, epsilon, indefinite, poisson, spd, vector, with_spectrum

from krylov import extremal_eigenvalues, lanczos


@pytest.mark.parametrize("form", [lambda a: a, sla.aslinearoperator], ids=["matrix", "operator"])
@pytest.mark.parametrize("make", [spd, indefinite])
def test_all_steps_give_all_eigenvalues(make, form, dtype):
    A = make(dtype)
    res = lanczos(form(A), A.shape[0])
    truth = np.linalg.eigvalsh(A.astype(np.result_type(dtype, np.float64)))
    np.testing.assert_allclose(
        res.ritz_values, truth, rtol=0, atol=200 * epsilon(dtype) * abs(truth).max()
    )


def test_is_the_tridiagonal_of_an_orthonormal_basis(dtype):
    A, v0, k = spd(dtype, condition=10), vector(40, dtype), 12
    res = lanczos(A, k, v0)
    wide = np.result_type(dtype, np.float64)
    basis = [v0.astype(wide) / np.linalg.norm(v0.astype(wide))]
    for _ in range(k - 1):  # Gram-Schmidt on the Krylov space
        w = A.astype(wide) @ basis[-1]
        for v in basis * 2:
            w -= np.vdot(v, w) * v
        basis.append(w / np.linalg.norm(w))
    V = np.array(basis).T
    T = (V.conj().T @ A @ V).real
    eps = 1e3 * epsilon(dtype)
    np.testing.assert_allclose(res.alpha, np.diag(T), atol=eps)
    np.testing.assert_allclose(res.beta[:-1], np.diag(T, 1), atol=eps)
    np.testing.assert_allclose(res.ritz_values, np.linalg.eigvalsh(T), atol=eps)


def test_residuals_bound_the_distance_to_an_eigenvalue(dtype):
    A = with_spectrum(np.geomspace(0.01, 10, 60), dtype)
    res, truth = lanczos(A, 15), np.linalg.eigvalsh(A)
    distances = abs(res.ritz_values[:, None] - truth).min(1)
    assert (distances <= res.residuals + 1e3 * epsilon(dtype)).all()
    assert res.residuals[-1] < 1e-3


def test_full_reorthogonalisation_has_no_ghosts():
    spectrum = [*np.linspace(0, 1, 60), 100.0]
    full, none = (
        lanczos(with_spectrum(spectrum), 50, reorthogonalize=r).ritz_values
        for r in ("full", "none")
    )
    assert (full > 50).sum() == 1
    assert (none > 50).sum() > 1


def test_both_ways_agree_while_nothing_has_converged(dtype):
    A = spd(dtype)
    full, none = (lanczos(A, 6, reorthogonalize=r).ritz_values for r in ("full", "none"))
    np.testing.assert_allclose(full, none, atol=1e3 * epsilon(dtype))


@pytest.mark.parametrize("dimension", [1, 3])
@pytest.mark.parametrize("reorthogonalize", ["full", "none"])
def test_ends_in_an_invariant_subspace(dimension, reorthogonalize, dtype):
    A = np.diag(np.arange(1.0, 21.0)).astype(dtype)
    v0 = np.zeros(20, dtype)
    v0[:dimension] = 1
    res = lanczos(A, 20, v0, reorthogonalize=reorthogonalize)
    np.testing.assert_allclose(res.ritz_values, np.arange(1, dimension + 1), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_multiple_of_the_identity_needs_one_step(value):
    res = lanczos(value * np.eye(10), 5)
    np.testing.assert_allclose(res.ritz_values, [value], atol=1e-14)


def test_seed_makes_the_start():
    A = spd(float)
    assert np.array_equal(lanczos(A, 5).alpha, lanczos(A, 5, seed=0).alpha)
    assert not np.array_equal(lanczos(A, 5).alpha, lanczos(A, 5, seed=1).alpha)


def test_start_vector_is_left_alone(dtype):
    v0 = vector(40, dtype)
    kept = v0.copy()
    lanczos(spd(dtype), 5, v0)
    assert np.array_equal(v0, kept)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e150])
def test_scale_of_operator_and_start(scale):
    A, v0 = spd(float), vector(40)
    expected = lanczos(A, 8, v0).ritz_values
    np.testing.assert_allclose(lanczos(A * scale, 8, v0).ritz_values / scale, expected, rtol=1e-8)
    np.testing.assert_allclose(lanczos(A, 8, v0 * scale).ritz_values, expected, rtol=1e-8)


def test_operator_may_return_its_input_or_its_buffer():
    A, v0, buffer = spd(float), vector(40), np.empty(40)
    np.testing.assert_allclose(lanczos(lambda v: v, 5, v0).ritz_values, [1.0])
    shared = lanczos(lambda v: np.matmul(A, v, out=buffer), 9, v0)
    np.testing.assert_array_equal(shared.alpha, lanczos(lambda v: A @ v, 9, v0).alpha)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.eye(3), 0), "k must be"),
        ((np.eye(3), 2, np.zeros(3)), "v0 must be finite and not zero"),
        ((np.eye(3), 2, np.array([1, np.nan, 1])), "v0 must be finite"),
        ((np.eye(3), 2, np.ones(4)), r"v0 must have shape \(3,\)"),
        ((np.full((3, 3), np.nan), 2), "NaN or infinity"),
        ((lambda v: v, 2), "give a start vector"),
        ((np.empty((0, 0)), 2), "empty"),
    ],
)
def test_misuse_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        lanczos(*args)


@pytest.mark.parametrize(
    "make",
    [spd, indefinite, lambda dtype: poisson(12, dtype)],
    ids=["spd", "indefinite", "poisson"],
)
def test_extremal_eigenvalues(make, dtype):
    A = make(dtype)
    truth = np.linalg.eigvalsh(dense(A).astype(np.result_type(dtype, np.float64)))
    spread, slack = truth[-1] - truth[0], 1e3 * epsilon(dtype) * abs(truth).max()
    smallest, largest, vectors = extremal_eigenvalues(A, 25)
    assert vectors is None
    assert -slack <= truth[-1] - largest <= 1e-3 * spread + slack
    assert -slack <= smallest - truth[0] <= 2e-2 * spread + slack


def test_extremal_eigenvectors(dtype):
    A = indefinite(dtype)
    ends = extremal_eigenvalues(A, 30, vectors=True)
    for value, v in zip((ends.min, ends.max), ends.vectors, strict=True):
        assert np.linalg.norm(v) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(A @ v - value * v) < 2e3 * epsilon(dtype)


def test_extremal_eigenvalues_from_the_vectors_of_a_similar_matrix(dtype):
    A = indefinite(dtype)
    truth = np.linalg.eigvalsh(A)[[0, -1]]
    start = sum(extremal_eigenvalues(A, 40, vectors=True).vectors)
    assert start.dtype == dtype
    near = A + 1e-3 * np.diag(np.linspace(-1, 1, len(A))).astype(dtype)
    cold, warm = extremal_eigenvalues(near, 4), extremal_eigenvalues(near, 4, start)
    assert warm[:2] == pytest.approx(truth, rel=1e-3)
    assert cold.max < 0.97 * truth[1]
    with pytest.raises(ValueError, match="v0"):
        extremal_eigenvalues(A, 4, start[1:])


def test_smallest_by_the_shift_beats_plain_lanczos():
    A = with_spectrum([-1.0, *np.geomspace(1, 1e3, 100)])
    truth = scipy.linalg.eigvalsh(A)[0]
    assert extremal_eigenvalues(A, 20).min - truth <= lanczos(A, 20).ritz_values[0] - truth
