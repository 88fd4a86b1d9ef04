"""Every product of SciPy's LinearOperator, with vectors and matrices of torch: what goes in comes out."""

from __future__ import annotations

import numpy as np
import pytest
from cases import vector
from preconditioners.common import operator, pairs

from krylov import (
    JacobiPreconditioner,
    LBFGSPreconditioner,
    NystromPreconditioner,
    RitzPreconditioner,
)

torch = pytest.importorskip("torch")

N = 20


def made(kind, dtype):
    A = operator(N, dtype, 50.0).astype(dtype)
    if kind == "jacobi":
        return JacobiPreconditioner(np.diag(A) + np.asarray(1j if dtype.kind == "c" else 0, dtype))
    if kind == "nystrom":
        return NystromPreconditioner(A, 4, seed=0)
    learner = {"lbfgs": LBFGSPreconditioner, "ritz": RitzPreconditioner}[kind](N, 4, dtype=dtype)
    for s, y in pairs(A, 6, dtype):
        learner.update(s, y)
    return learner


PRODUCTS = {
    "@ vector": (lambda M, v, V: M @ v, lambda D, v, V: D @ v),
    "@ column": (lambda M, v, V: M @ v[:, None], lambda D, v, V: D @ v[:, None]),
    "@ matrix": (lambda M, v, V: M @ V, lambda D, v, V: D @ V),
    "vector @": (lambda M, v, V: v @ M, lambda D, v, V: v @ D),
    "matrix @": (lambda M, v, V: V.T @ M, lambda D, v, V: V.T @ D),
    "matvec": (lambda M, v, V: M.matvec(v), lambda D, v, V: D @ v),
    "rmatvec": (lambda M, v, V: M.rmatvec(v), lambda D, v, V: D.conj().T @ v),
    "matmat": (lambda M, v, V: M.matmat(V), lambda D, v, V: D @ V),
    "rmatmat": (lambda M, v, V: M.rmatmat(V), lambda D, v, V: D.conj().T @ V),
    "dot": (lambda M, v, V: M.dot(V), lambda D, v, V: D @ V),
    "call": (lambda M, v, V: M(v), lambda D, v, V: D @ v),
    "transpose": (lambda M, v, V: M.T @ np.asarray(v), lambda D, v, V: D.T @ v),
    "adjoint": (lambda M, v, V: M.H @ v, lambda D, v, V: D.conj().T @ v),
}


@pytest.mark.parametrize("kind", ["jacobi", "lbfgs", "ritz", "nystrom"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_what_goes_in_comes_out(kind, product, dtype):
    M, (apply, truth) = made(kind, dtype), PRODUCTS[product]
    v, V = vector(N, dtype), np.stack([vector(N, dtype, k) for k in range(3)], 1)
    dense = M @ np.eye(N, dtype=dtype)
    expected = apply(M, v, V)
    assert type(expected) is np.ndarray
    np.testing.assert_allclose(expected, truth(dense, v, V), rtol=1e-3, atol=1e-4)
    answer = apply(M, torch.from_numpy(v), torch.from_numpy(V))
    if product != "transpose":
        assert type(answer) is torch.Tensor
        answer = answer.numpy()
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("kind", ["jacobi", "lbfgs"])
def test_the_transpose_of_a_real_one_takes_tensors_too(kind):
    M, v = made(kind, np.dtype("f8")), torch.ones(N, dtype=torch.float64)
    for operator_ in (M.T, M.H):
        assert torch.equal(operator_ @ v, M @ v)


@pytest.mark.parametrize("kind", ["jacobi", "lbfgs"])
def test_tensors_that_are_refused(kind):
    M = made(kind, np.dtype("f8"))
    for bad, error, words in (
        (torch.ones(N, device="meta"), TypeError, "device 'meta'"),
        (torch.ones(N).to_sparse(), TypeError, "sparse"),
        (torch.ones(N, dtype=torch.bfloat16), TypeError, "bfloat16"),
        (torch.ones(N + 1), ValueError, "dimension mismatch"),
        (torch.ones(N, 2, 2), ValueError, "expected 1-d or 2-d"),
    ):
        with pytest.raises(error, match=words):
            M @ bad
    assert torch.equal(M @ torch.ones(N).requires_grad_(), M @ torch.ones(N))
