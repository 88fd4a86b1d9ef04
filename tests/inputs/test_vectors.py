"""Vectors of every make: shapes, dtypes, strides, devices, read-only memory, no entries at all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from inputs.common import DTYPES, METHODS, Counted, assert_truthful, random, spd

import krylov

N = 6
methods = pytest.mark.parametrize("method", METHODS)


def says(message, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) is not None


def refuse(method, error, words, A, b, x0=None, **options):
    """The call raises, says these words, and never multiplies."""
    counted = Counted(A)
    with pytest.raises(error) as caught:
        METHODS[method](counted, b, x0, **options)
    message = str(caught.value)
    missing = [word for word in words if not says(message, word)]
    assert not missing, f"{message!r} lacks {missing}"
    assert counted.count == 0


# -------------------------------------------------------------------------------------------------
# Refused, before any product

BAD_B = {
    "scalar": (3.0, ValueError, ["b", "shape", "()"]),
    "none": (None, (ValueError, TypeError), ["b"]),
    "string": ("rhs", (ValueError, TypeError), ["b"]),
    "too short": (np.ones(N - 1), ValueError, ["A", "(6, 6)", "b", "(5,)"]),
    "too long": (np.ones(N + 1), ValueError, ["A", "(6, 6)", "b", "(7,)"]),
    "empty": (np.ones(0), ValueError, ["A", "(6, 6)", "b", "(0,)"]),
    "row": (np.ones((1, N)), ValueError, ["b", "(1, 6)", "(6, 1)"]),
    "several columns": (np.ones((N, 2)), ValueError, ["b", "(6, 2)", "(6,)"]),
    "three axes": (np.ones((N, 1, 1)), ValueError, ["b", "(6, 1, 1)", "(6,)"]),
    "ragged": ([[1.0], [2.0, 3.0]], (ValueError, TypeError), ["b"]),
    "strings": (np.array(["1"] * N), TypeError, ["b", "not numbers"]),
    "objects": (np.array([1.0] * N, object), TypeError, ["b", "object", "not numbers"]),
    "dates": (np.zeros(N, "M8[s]"), TypeError, ["b", "not numbers"]),
    "record": (np.zeros(N, [("re", "f8")]), TypeError, ["b", "not numbers"]),
    "NaN": (np.array([1, 1, np.nan, 1, 1, 1]), ValueError, ["b", "nan", "index 2", "finite"]),
    "infinite": (
        np.array([1, 1, 1, -np.inf, 1, 1]),
        ValueError,
        ["b", "-inf", "index 3", "finite"],
    ),
    "NaN, complex": (np.array([1, 1j * np.nan, 1, 1, 1, 1]), ValueError, ["b", "nan", "index 1"]),
    "NaN, float32": (np.full(N, np.nan, "f4"), ValueError, ["b", "nan", "index 0"]),
    "sparse": (sp.csr_array(np.ones((N, 1))), (TypeError, ValueError), ["b", "sparse"]),
}


@methods
@pytest.mark.parametrize("case", BAD_B)
def test_bad_right_hand_side(method, case):
    b, error, words = BAD_B[case]
    refuse(method, error, words, spd(N), b)


BAD_X0 = {
    "scalar": (3.0, ValueError, ["x0", "()", "(6,)"]),
    "too short": (np.ones(N - 1), ValueError, ["x0", "(5,)", "(6,)"]),
    "row": (np.ones((1, N)), ValueError, ["x0", "(1, 6)", "(6,)"]),
    "several columns": (np.ones((N, 2)), ValueError, ["x0", "(6, 2)", "(6,)"]),
    "complex": (np.ones(N) * 1j, TypeError, ["x0", "complex128", "real"]),
    "another word": ("Mr", ValueError, ["x0", "'Mb'", "'Mr'"]),
    "strings": (np.array(["one"] * N), TypeError, ["x0", "not numbers"]),
    "objects": (np.array([None] * N), TypeError, ["x0", "object", "not numbers"]),
    "NaN": (np.array([1, np.nan, 1, 1, 1, 1]), ValueError, ["x0", "nan", "index 1", "finite"]),
    "infinite": (np.array([np.inf, 1, 1, 1, 1, 1]), ValueError, ["x0", "inf", "index 0", "finite"]),
}


@methods
@pytest.mark.parametrize("case", BAD_X0)
def test_bad_start(method, case):
    x0, error, words = BAD_X0[case]
    refuse(method, error, words, spd(N), np.ones(N), x0)


def read_only(n=N):
    values = np.zeros(n)
    values.flags.writeable = False
    return values


BAD_OUT = {
    "list": ([0.0] * N, (TypeError, ValueError), ["out"]),
    "too short": (np.zeros(N - 1), ValueError, ["out", "(6,)", "(5,)"]),
    "column": (np.zeros((N, 1)), ValueError, ["out", "(6,)", "(6, 1)"]),
    "dtype": (np.zeros(N, "f4"), ValueError, ["out", "float64", "float32"]),
    "byte order": (np.zeros(N, ">f8"), ValueError, ["out", "float64"]),
    "strided": (np.zeros(2 * N)[::2], ValueError, ["out", "contiguous"]),
    "read-only": (read_only(), ValueError, ["out", "writable"]),
}


@methods
@pytest.mark.parametrize("case", BAD_OUT)
def test_bad_out(method, case):
    out, error, words = BAD_OUT[case]
    refuse(method, error, words, spd(N), np.ones(N), out=out)


@methods
def test_out_must_not_be_the_right_hand_side(method):
    b = np.ones(N)
    refuse(method, ValueError, ["out", "memory", "b"], spd(N), b, out=b)
    memory = np.ones(2 * N)
    refuse(method, ValueError, ["out", "memory", "b"], spd(N), memory[2 : 2 + N], out=memory[:N])
    assert (b == 1).all()


@methods
def test_out_may_be_the_start(method):
    """Then x0 is overwritten, as asked."""
    A, b = spd(N), random(N)
    memory = random(N, seed=1)
    result = METHODS[method](A, b, memory.copy())
    again = METHODS[method](A, b, memory, out=memory)
    assert again.x is memory
    np.testing.assert_array_equal(memory, result.x)


@methods
def test_out_that_overlaps_the_start_in_part(method):
    A, b = spd(N), random(N)
    memory = random(N + 2, seed=1)
    expected = METHODS[method](A, b, memory[:N].copy()).x
    got = METHODS[method](A, b, memory[:N], out=memory[2:]).x
    np.testing.assert_array_equal(got, expected)


BAD_MATRICES = {
    "list": ([[1.0, 0.0], [0.0, 1.0]], TypeError, ["A", "list", "array"]),
    "none": (None, TypeError, ["A", "NoneType"]),
    "number": (2.0, TypeError, ["A", "float"]),
    "string": ("matrix", TypeError, ["A", "str"]),
    "vector": (np.ones(N), ValueError, ["A", "square", "(6,)"]),
    "tall": (np.ones((N, 2)), ValueError, ["A", "square", "(6, 2)"]),
    "three axes": (np.ones((N, N, 1)), ValueError, ["A", "square", "(6, 6, 1)"]),
    "wrong size": (np.eye(N + 1), ValueError, ["A", "(7, 7)", "b", "(6,)"]),
    "strings": (np.full((N, N), "1"), TypeError, ["A", "not numbers"]),
    "objects": (np.eye(N).astype(object), TypeError, ["A", "object", "not numbers"]),
    "sparse, tall": (sp.csr_array(np.ones((N, 2))), ValueError, ["A", "square", "(6, 2)"]),
    "sparse, wrong size": (sp.eye_array(N - 1), ValueError, ["A", "(5, 5)", "b", "(6,)"]),
    "sparse, one axis": (sp.coo_array(np.ones(N)), ValueError, ["A", "square", "(6,)"]),
}


@methods
@pytest.mark.parametrize("case", BAD_MATRICES)
def test_bad_matrix(method, case):
    A, error, words = BAD_MATRICES[case]
    with pytest.raises(error) as caught:
        METHODS[method](A, np.ones(N))
    assert all(says(str(caught.value), word) for word in words), str(caught.value)


@methods
@pytest.mark.parametrize("case", BAD_MATRICES)
def test_bad_preconditioner(method, case):
    M, error, words = BAD_MATRICES[case]
    if M is None:
        pytest.skip("no preconditioner")
    words = ["M" if word == "A" else word for word in words]
    if case in ("vector", "sparse, one axis"):
        words = ["M", "JacobiPreconditioner"]
    refuse(method, error, words, spd(N), np.ones(N), M=M)


@methods
def test_complex_preconditioner_of_a_real_system(method):
    M = sp.diags_array(np.full(N, 1 + 1j)).tocsr()
    refuse(method, TypeError, ["M", "complex128", "float64"], spd(N), np.ones(N), M=M)
    refuse(method, TypeError, ["M", "complex128", "float64"], spd(N), np.ones(N), M=M.toarray())


# -------------------------------------------------------------------------------------------------
# Unusual, and solved all the same

NUMBERS = (
    "?",
    "i1",
    "u2",
    "i8",
    "f2",
    "f4",
    "f8",
    "g",
    "c8",
    "c16",
    "G",
    ">i4",
    ">f4",
    ">f8",
    ">c8",
    ">c16",
)


def solved_dtype(*codes):
    kind = np.result_type(*(np.dtype(code).newbyteorder("=") for code in codes))
    if kind in (np.dtype(code) for code in DTYPES):
        return kind
    return np.dtype("c16" if kind.kind == "c" else "f8")


@methods
@pytest.mark.parametrize("code", NUMBERS)
@pytest.mark.parametrize("where", ["A", "b", "x0", "both", "M"])
def test_every_kind_of_number(method, code, where):
    A, b, x0, M = np.diag(np.arange(1, N + 1.0)), np.ones(N), np.ones(N), None
    if code == "?":
        A = np.eye(N)
    A = A.astype(code) if where in ("A", "both") else A
    b = b.astype(code) if where in ("b", "both") else b
    x0 = x0.astype(code) if where == "x0" else x0
    M = np.eye(N).astype(code) if where == "M" else M
    complex_late = np.dtype(code).kind == "c" and where in ("x0", "M")
    if complex_late:
        with pytest.raises(TypeError, match=f"(?s){where}.*complex"):
            METHODS[method](A, b, x0, M=M)
        return
    result = METHODS[method](A, b, x0, M=M)
    assert result.outcome is krylov.Outcome.CONVERGED
    assert result.x.dtype == solved_dtype(A.dtype.str, b.dtype.str)
    assert result.x.dtype.isnative
    assert_truthful(A, b, result)


@methods
@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "dia", "lil", "dok", "bsr"])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_every_sparse_layout(method, layout, index):
    A, b = spd(N), random(N)
    S = sp.coo_array(A)
    S.coords = tuple(c.astype(index) for c in S.coords)
    expected = METHODS[method](sp.csr_array(A), b)
    for made in (S.asformat(layout), sp.csr_matrix(S).asformat(layout)):
        result = METHODS[method](made, b)
        assert result.niter == expected.niter
        np.testing.assert_allclose(result.x, expected.x, rtol=1e-12)


@methods
def test_sparse_matrix_that_is_not_canonical(method):
    """Unsorted indices, duplicate entries, explicit zeros."""
    data = np.array([1.0, 0.0, 1.0, 3.0, 1.0, 4.0])
    A = sp.csr_array((data, np.array([0, 2, 0, 1, 0, 2]), np.array([0, 3, 4, 6])), shape=(3, 3))
    A.data[4] = 0.0
    dense = A.toarray()
    b = np.ones(3)
    result = METHODS[method](A, b)
    assert result.outcome is krylov.Outcome.CONVERGED
    assert_truthful(dense, b, result)
    assert A.nnz == 6, "the caller's matrix was changed"


def strided_forms(values):
    """The same vector in memory of every shape."""
    n = values.size
    yield "every other", np.repeat(values, 2)[::2]
    yield "backwards", values[::-1].copy()[::-1]
    yield "column of C order", np.asarray(np.stack([values, values], 1), order="C")[:, 0]
    yield "column of Fortran order", np.asarray(np.stack([values, values], 1), order="F")[:, 1]
    yield "(n, 1)", values.reshape(n, 1)
    yield "(n, 1), strided", np.repeat(values, 3).reshape(n, 3)[:, :1]
    yield "list", values.tolist()
    yield "tuple", tuple(values.tolist())
    yield "matrix", np.asmatrix(values).T
    raw = np.zeros(values.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(values.dtype)
    unaligned[:] = values
    yield "unaligned", unaligned
    frozen = values.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "memory of bytes", np.frombuffer(values.tobytes(), values.dtype)


@methods
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_strides_of_vectors(method):
    A, b, x0 = spd(N), random(N), random(N, seed=1)
    expected = METHODS[method](A, b, x0)
    for name, form in strided_forms(b):
        before = np.array(form)
        result = METHODS[method](A, form, x0)
        np.testing.assert_array_equal(result.x, expected.x, err_msg=f"b: {name}")
        assert result.x.shape == (N,)
        assert result.x.flags.c_contiguous
        assert type(result.x) is np.ndarray
        np.testing.assert_array_equal(np.array(form), before, err_msg=f"b was changed: {name}")
    for name, form in strided_forms(x0):
        before = np.array(form)
        result = METHODS[method](A, b, form)
        np.testing.assert_array_equal(result.x, expected.x, err_msg=f"x0: {name}")
        np.testing.assert_array_equal(np.array(form), before, err_msg=f"x0 was changed: {name}")


@methods
def test_one_number_repeated_by_a_stride_of_zero(method):
    A = spd(N)
    expected = METHODS[method](A, np.ones(N), np.full(N, 2.0))
    b, x0 = np.broadcast_to(np.float64(1), N), np.broadcast_to(np.float64(2), N)
    np.testing.assert_array_equal(METHODS[method](A, b, x0).x, expected.x)
    assert (b == 1).all()
    assert (x0 == 2).all()


@methods
def test_strides_of_matrices(method):
    A, b = spd(N), random(N)
    expected = METHODS[method](A, b).x
    big = np.zeros((2 * N, 3 * N))
    big[::2, ::3] = A
    frozen = A.copy()
    frozen.flags.writeable = False
    forms = {
        "Fortran order": np.asfortranarray(A),
        "strided": big[::2, ::3],
        "backwards": A[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": frozen,
        "transposed": A.T.copy().T,
    }
    for name, form in forms.items():
        np.testing.assert_allclose(METHODS[method](form, b).x, expected, rtol=1e-10, err_msg=name)


@methods
def test_read_only_sparse_matrix(method):
    S = sp.csr_array(spd(N))
    for part in (S.data, S.indices, S.indptr):
        part.flags.writeable = False
    assert METHODS[method](S, np.ones(N), maxiter=200).outcome.ok


@methods
def test_masked_array_loses_no_mask_in_silence(method):
    b = np.ma.array(np.ones(N), mask=[0, 1, 0, 0, 0, 0])
    with pytest.raises((TypeError, ValueError), match="mask"):
        METHODS[method](spd(N), b)


@methods
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_unknowns(method, dtype):
    for A in (np.zeros((0, 0), dtype), sp.csr_array((0, 0), dtype=dtype), lambda v: v):
        result = METHODS[method](A, np.zeros(0, dtype))
        assert result.x.shape == (0,)
        assert result.x.dtype == dtype
        assert (result.info, result.niter) == (0, 0)
        assert result.outcome is krylov.Outcome.CONVERGED


@methods
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_unknown(method, dtype):
    for A in (np.array([[4.0]], dtype), sp.csr_array(np.array([[4.0]], dtype)), lambda v: 4 * v):
        for x0 in (None, np.array([0.5], dtype), np.array([7.0], dtype), "Mb"):
            result = METHODS[method](A, np.array([2.0], dtype), x0, rtol=1e-6)
            assert result.outcome is krylov.Outcome.CONVERGED
            np.testing.assert_allclose(result.x, [0.5], rtol=1e-5)


@methods
def test_zero_right_hand_side_gives_zeros(method):
    b = np.zeros(N)
    for A in (spd(N), np.full((N, N), np.nan), np.zeros((N, N))):
        result = METHODS[method](A, b, random(N))
        assert not result.x.any()
        assert not np.shares_memory(result.x, b)
        assert result.outcome is krylov.Outcome.CONVERGED


@methods
def test_long_double_beyond_the_range_of_double(method):
    b = np.ones(N, np.longdouble)
    b[3] = np.longdouble("1e400")
    with pytest.raises(ValueError, match=r"\bb\b.*index 3.*finite"):
        METHODS[method](spd(N), b)
