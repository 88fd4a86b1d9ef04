"""The native sparse product against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from krylov import _core


def random_csr(rows, columns, density, dtype, seed=0):
    rng = np.random.default_rng(seed)
    A = sp.random_array((rows, columns), density=density, format="csr", rng=rng)
    if np.dtype(dtype).kind == "c":
        A.data = A.data + 1j * rng.standard_normal(A.nnz)
    return A.astype(dtype)


def random_vector(n, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal(n) + (1j * rng.standard_normal(n) if dtype.kind == "c" else 0)
    ).astype(dtype)


def native(A, index=np.int32):
    return _core.CsrMatrix(A.shape[1], A.indptr.astype(index), A.indices.astype(index), A.data)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [
        (1, 1, 1.0),
        (7, 7, 0.4),
        (50, 30, 0.1),
        (30, 50, 1.0),
        (1023, 1023, 0.01),
        (1025, 1024, 0.01),
        (3000, 3000, 0.01),
    ],
)
def test_product_and_dot(dtype, index, rows, columns, density):
    A = random_csr(rows, columns, density, dtype)
    x, w, y = (
        random_vector(columns, dtype),
        random_vector(rows, dtype, 2),
        np.full(rows, np.nan, dtype),
    )
    dot = native(A, index).multiply(x, y, w)
    wide = np.result_type(dtype, np.float64)
    truth = A.astype(wide) @ x.astype(wide)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y, truth, rtol=4 * eps, atol=4 * eps * abs(truth).max())
    scale = np.linalg.norm(w.astype(wide)) * np.linalg.norm(truth)
    assert abs(dot - np.vdot(w.astype(wide), truth)) <= 1e-13 * scale + 1e-300


def test_unsorted_and_duplicate_entries_add_up():
    indptr, indices = np.array([0, 3, 4], np.int32), np.array([1, 0, 1, 0], np.int32)
    y = np.empty(2)
    _core.CsrMatrix(2, indptr, indices, np.array([1.0, 2.0, 3.0, 4.0])).multiply(
        np.array([10.0, 1.0]), y
    )
    assert y.tolist() == [24.0, 40.0]


def test_empty_rows_and_empty_matrix():
    y = np.ones(3)
    A = sp.csr_array((3, 3))
    assert native(A).multiply(np.ones(3), y, np.ones(3)) == 0
    assert not y.any()
    assert native(sp.csr_array((1, 5))[:0]).multiply(np.ones(5), np.empty(0)) == 0


def test_matrix_keeps_its_arrays_alive():
    A = random_csr(200, 200, 0.1, np.float64)
    x, y = np.ones(200), np.empty(200)
    matrix = native(A.copy())
    junk = [np.full(2000, np.nan) for _ in range(20)]
    matrix.multiply(x, y)
    np.testing.assert_allclose(y, A @ x)
    del junk


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1, 2], [0, 2], "out of range"),
        ([0, 1, 2], [0, -1], "out of range"),
        ([0, 2, 1], [0, 1], "out of range"),
        ([1, 1, 2], [0, 1], "out of range"),
        ([0, 1, 3], [0, 1], "out of range"),
        ([], [0, 1], "at least one entry"),
        ([0, 1, 2], [0], "same length"),
    ],
)
def test_corrupt_structure_is_refused(indptr, indices, message):
    with pytest.raises(ValueError, match=message):
        _core.CsrMatrix(2, np.array(indptr, np.int32), np.array(indices, np.int32), np.ones(2))


@pytest.mark.parametrize(
    "args",
    [
        (np.ones(3), np.ones(2)),
        (np.ones(2), np.ones(3)),
        (np.ones(2, "f4"), np.ones(2)),
        (np.ones(4)[::2], np.ones(2)),
        (np.ones(2), np.broadcast_to(1.0, 2)),
        (np.ones(2), np.ones(2), np.ones(3)),
    ],
)
def test_vectors_that_do_not_fit_are_refused(args):
    with pytest.raises(ValueError, match="contiguous vector"):
        native(sp.eye_array(2, format="csr")).multiply(*args)
