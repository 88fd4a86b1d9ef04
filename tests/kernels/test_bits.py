"""Equal bits: for any number of threads, and for both wide instruction sets."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from cases import poisson
from formulas import COEFS
from threadpoolctl import threadpool_limits

from krylov import _core

PASSES = _core.passes()
THREADED = [t for t in _core.tables() if t != "reference"]


def run(table, row, n, dtype):
    """Bytes of everything that a pass leaves behind."""
    rng = np.random.default_rng(n)
    shape = row["vectors"], 2 * n
    vectors = list(rng.standard_normal(shape).astype(np.empty(0, dtype).real.dtype))
    vectors = [v.view(dtype) if dtype.kind == "c" else v[:n] for v in vectors]
    sums = _core.run_pass(table, row["name"], vectors, COEFS[: row["coefs"]])
    return np.array(sums).tobytes() + b"".join(v.tobytes() for v in vectors)


@pytest.fixture(params=PASSES, ids=lambda row: row["name"])
def row(request):
    return request.param


@pytest.mark.parametrize("table", THREADED)
def test_pass_has_the_same_bits_for_any_number_of_threads(table, row, dtype):
    results = set()
    for threads in (1, 2, 3, 4, 7):
        with threadpool_limits(threads, user_api="openmp"):
            results.add(run(table, row, 70_003, dtype))
    assert len(results) == 1


@pytest.mark.skipif("avx512" not in THREADED, reason="this CPU has no AVX-512")
def test_avx2_and_avx512_agree_to_the_bit(row, dtype):
    for n in (1, 7, 8, 15, 16, 17, 33, 100, 4097, 9001):
        assert run("avx2", row, n, dtype) == run("avx512", row, n, dtype), n


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_sparse_product_has_the_same_bits_for_any_number_of_threads(dtype, index):
    A = sp.csr_array(poisson(90), dtype=dtype)
    native = _core.CsrMatrix(A.shape[1], A.indptr.astype(index), A.indices.astype(index), A.data)
    x = np.random.default_rng(0).standard_normal(A.shape[0]).astype(dtype)
    results = set()
    for threads in (1, 2, 3, 4):
        y = np.empty_like(x)
        with threadpool_limits(threads, user_api="openmp"):
            dot = native.multiply(x, y, x)
        results.add((dot, y.tobytes()))
    assert len(results) == 1


def test_number_of_threads_follows_threadpoolctl():
    with threadpool_limits(3, user_api="openmp"):
        assert _core.threads() == (3 if _core.thread_backend() == "OpenMP" else _core.threads())
