"""Torch tensors in every place where a vector or a matrix may stand, without copies."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cases import on_the_fast_table, poisson, spd, vector

import krylov

torch = pytest.importorskip("torch")

METHODS = ["cg", "flexible_cg", "bicgstab", "neumann"]


@pytest.fixture(params=METHODS)
def solver(request):
    return getattr(krylov, request.param)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def test_tensor_in_tensor_out(solver, dtype):
    A, b, x0 = spd(dtype, condition=10), vector(40, dtype), vector(40, dtype, 1)
    res, expected = solver(tensor(A), tensor(b), tensor(x0), rtol=1e-3), solver(A, b, x0, rtol=1e-3)
    assert type(res.x) is torch.Tensor
    assert np.array_equal(res.x.numpy(), expected.x)
    assert res.niter == expected.niter


@pytest.mark.parametrize("layout", ["to_sparse_csr", "to_sparse_csc", "to_sparse_coo"])
def test_sparse_tensor(solver, layout, dtype):
    if layout == "to_sparse_csc" and not hasattr(torch.Tensor, "to_sparse_csc"):
        pytest.skip("this torch has no CSC")
    A, b = poisson(6, dtype), vector(36, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own compressed layouts beta
        res = solver(getattr(tensor(A.toarray()), layout)(), tensor(b), rtol=1e-3, maxiter=500)
    assert np.array_equal(res.x.numpy(), solver(A, b, rtol=1e-3, maxiter=500).x)


def test_callables_take_and_return_tensors(solver, dtype):
    A, b, seen = tensor(spd(dtype, condition=10)), tensor(vector(40, dtype)), []

    def multiply(v):
        seen.append(v)
        return A @ v

    res = solver(multiply, b, rtol=1e-3, M=lambda r: r * 0.5, callback=lambda x: seen.append(x))
    assert res.outcome.ok
    assert all(type(v) is torch.Tensor and v.dtype == b.dtype and v.shape == (40,) for v in seen)


def test_nothing_is_copied(solver):
    """The operator sees the same few addresses, writes into its own buffer, and x is the caller's memory."""
    n = 1000
    d, target, out = (
        torch.linspace(1, 5, n, dtype=torch.float64),
        torch.empty(n, dtype=torch.float64),
        torch.zeros(n, dtype=torch.float64),
    )
    sources, iterates = set(), set()

    def multiply(v):
        sources.add(v.data_ptr())
        return torch.mul(d, v, out=target)

    keywords = {"scale": 0.2} if solver is krylov.neumann else {}
    res = solver(
        multiply,
        tensor(vector(n)),
        rtol=0,
        maxiter=60,
        out=out,
        callback=lambda x: iterates.add(x.data_ptr()),
        **keywords,
    )
    assert res.x is out
    assert iterates == {out.data_ptr()}
    assert len(sources) <= 3
    np.testing.assert_allclose((d * out).numpy(), vector(n), atol=1e-2)


def test_b_is_read_in_place_and_left_alone(solver):
    b = tensor(vector(40))
    kept, version = b.clone(), b._version
    solver(tensor(spd(float)), b, rtol=1e-2)
    assert torch.equal(b, kept)
    assert b._version == version


def test_out_bumps_its_version():
    out = torch.zeros(40, dtype=torch.float64)
    version = out._version
    krylov.cg(tensor(spd(float)), tensor(vector(40)), out=out)
    assert out._version > version


def test_direction_candidates_and_mixed_operands():
    b = tensor(vector(40))
    res = krylov.cg(-spd(float), b, curvature="stop")
    assert type(res.direction) is torch.Tensor
    res = krylov.cg(
        spd(float), b, candidates="all", M=krylov.JacobiPreconditioner(tensor(np.diag(spd(float))))
    )
    assert all(type(c[1]) is torch.Tensor for c in res.candidates)
    assert type(krylov.cg(tensor(spd(float)), vector(40)).x) is np.ndarray


def test_gradients_do_not_matter(solver):
    A, b = tensor(spd(float)).requires_grad_(), tensor(vector(40)).requires_grad_()
    for operator in (A, lambda v: A @ v):
        res = solver(operator, b, rtol=1e-2)
        assert res.outcome.ok
        assert not res.x.requires_grad


@pytest.mark.parametrize("view", ["conj", "neg", "strided", "column", "expanded"])
def test_unusual_views(view):
    A, b = spd(complex, 10, 5.0), vector(10, complex)
    t = tensor(b)
    made, expected = {
        "conj": (t.conj(), b.conj()),
        "neg": (torch._neg_view(t), -b),
        "strided": (torch.stack([t, t], 1).reshape(-1)[::2], b),
        "column": (t[:, None], b),
        "expanded": (t[:1].expand(10), np.full(10, b[0])),
    }[view]
    np.testing.assert_allclose(krylov.cg(A, made).x.numpy(), krylov.cg(A, expected).x)
    np.testing.assert_allclose(
        krylov.cg(lambda v: tensor(A) @ v, made.contiguous().resolve_neg()).x.numpy(),
        krylov.cg(A, expected).x,
    )


def test_an_answer_with_the_neg_or_conj_bit():
    A, b = tensor(spd(complex, 10, 5.0)), tensor(vector(10, complex))
    expected = krylov.cg(A, b).x
    for function in (lambda v: torch._neg_view(A @ -v), lambda v: (A.conj() @ v.conj()).conj()):
        np.testing.assert_allclose(krylov.cg(function, b).x.numpy(), expected.numpy(), rtol=1e-10)


def test_lanczos_with_tensors(dtype):
    A, v0 = spd(dtype), vector(40, dtype)
    expected = krylov.lanczos(A, 8, v0).alpha
    assert np.array_equal(krylov.lanczos(tensor(A), 8, tensor(v0)).alpha, expected)
    t = tensor(A)
    np.testing.assert_allclose(
        krylov.lanczos(lambda v: t @ v, 8, tensor(v0)).alpha, expected, atol=1e-5
    )
    assert krylov.extremal_eigenvalues(tensor(A)).max == krylov.extremal_eigenvalues(A).max


@pytest.mark.parametrize("device", ["meta"])
def test_other_devices_are_refused(device):
    with pytest.raises(TypeError, match=device):
        krylov.cg(np.eye(3), torch.ones(3, device=device))


def test_a_sparse_right_hand_side_is_refused():
    with pytest.raises(TypeError, match="sparse"):
        krylov.cg(np.eye(3), torch.ones(3).to_sparse())


@on_the_fast_table
def test_nothing_imports_torch_on_its_own(python):
    program = """
import sys, numpy as np, krylov
krylov.cg(np.eye(3), np.ones(3)); krylov.lanczos(np.eye(3), 2); krylov.neumann(lambda v: v, np.ones(3))
print("torch" in sys.modules)
"""
    assert python(program) == "False"
