"""Low-rank preconditioners with torch CPU tensors in every place where a vector may stand."""

from __future__ import annotations

import numpy as np
import pytest
from cases import epsilon, vector
from preconditioners.common import matrix_of, operator, pairs

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, RitzPreconditioner

torch = pytest.importorskip("torch")

N = 30


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def spd(dtype):
    return operator(N, dtype, 50.0).astype(dtype)


def taught(kind, dtype, convert):
    M = {
        "lbfgs": lambda: LBFGSPreconditioner(N, 5, dtype=dtype),
        "two_loop": lambda: LBFGSPreconditioner(N, 5, dtype=dtype, apply="two_loop"),
        "ritz": lambda: RitzPreconditioner(N, 4, dtype=dtype),
    }[kind]()
    for s, y in pairs(spd(dtype), 9, dtype):
        M.update(convert(s), convert(y))
    return M


kinds = pytest.mark.parametrize("kind", ["lbfgs", "two_loop", "ritz"])


@kinds
def test_updates_with_tensors(kind, dtype):
    first, second = (taught(kind, dtype, convert) for convert in (np.asarray, tensor))
    assert np.array_equal(matrix_of(first), matrix_of(second))


def test_updates_with_lists_columns_and_views():
    s, y = vector(N), vector(N) * 2
    made = []
    for a, b in (
        (s, y),
        (s.tolist(), y.tolist()),
        (s[:, None], y[:, None]),
        (np.repeat(s, 2)[::2], np.repeat(y, 3)[::3]),
        (tensor(np.repeat(s, 2))[::2], torch._neg_view(tensor(-y))),
        (tensor(s).requires_grad_(), tensor(y)),
        (s.astype(">f8"), y.astype(np.longdouble)),
    ):
        M = LBFGSPreconditioner(N, 2)
        assert M.update(a, b)
        made.append(matrix_of(M))
    assert all(np.array_equal(m, made[0]) for m in made)


def test_integers_and_single_precision_are_widened():
    M = LBFGSPreconditioner(3, 2)
    assert M.update([1, 0, 0], np.array([2, 0, 0], np.int8))
    np.testing.assert_allclose(M @ np.array([1, 1, 1], np.float32), [0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("s", "y", "error", "words"),
    [
        (np.ones(N - 1), np.ones(N), ValueError, ["s ", "(30,)", "(29,)"]),
        (np.ones(N), np.ones(N + 1), ValueError, ["y ", "(30,)", "(31,)"]),
        (np.ones((N, 2)), np.ones(N), ValueError, ["s "]),
        (np.ones((1, N)), np.ones(N), ValueError, ["s ", "(1, 30)"]),
        (1.0, np.ones(N), ValueError, ["s "]),
        (np.ones(N), np.ones(N) * 1j, TypeError, ["y ", "complex128"]),
        (["a"] * N, np.ones(N), TypeError, ["s "]),
        (None, np.ones(N), TypeError, ["s "]),
        (np.ones(N), np.ones(N, object), TypeError, ["y ", "object"]),
        (torch.ones(N, device="meta"), np.ones(N), TypeError, ["s ", "meta"]),
        (torch.ones(N).to_sparse(), np.ones(N), TypeError, ["s ", "sparse"]),
        (torch.ones(N, dtype=torch.bfloat16), np.ones(N), TypeError, ["s "]),
    ],
)
@pytest.mark.parametrize("kind", ["LBFGS", "Ritz"])
def test_updates_that_do_not_fit(kind, s, y, error, words):
    M = getattr(krylov, f"{kind}Preconditioner")(N, 3)
    with pytest.raises(error) as caught:
        M.update(s, y)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(M) == 0
    assert M.update(np.ones(N), np.ones(N))


@kinds
def test_tensor_in_tensor_out(kind, dtype):
    M, r = taught(kind, dtype, np.asarray), vector(N, dtype)
    for z in (M.matvec(tensor(r)), M @ tensor(r), M.dot(tensor(r))):
        assert type(z) is torch.Tensor
        assert np.array_equal(z.numpy(), M @ r)
    assert type(M @ r) is np.ndarray
    assert type(M @ r.tolist()) is np.ndarray


@pytest.mark.parametrize("bad", [np.ones(N - 1), np.ones((2, N)), np.ones(N) * 1j, "r", None])
def test_vectors_that_do_not_fit(bad):
    M = taught("lbfgs", np.dtype("f8"), np.asarray)
    with pytest.raises((ValueError, TypeError)):
        M.matvec(bad)
    with pytest.raises((ValueError, TypeError)):
        M.matvec(torch.ones(N + 1))


@kinds
@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg, krylov.bicgstab])
def test_solves_with_tensors(kind, solver, dtype):
    A, b = spd(dtype), vector(N, dtype)
    M, t, seen = taught(kind, dtype, np.asarray), tensor(A), []

    def multiply(v):
        seen.append(v)
        return t @ v

    res = solver(multiply, tensor(b), M=M, rtol=1e-4)
    plain = solver(lambda v: (t @ torch.from_numpy(v)).numpy(), b, M=M, rtol=1e-4)
    assert type(res.x) is torch.Tensor
    assert np.array_equal(res.x.numpy(), plain.x)
    assert res.niter == plain.niter
    assert all(type(v) is torch.Tensor for v in seen)
    start = solver(multiply, tensor(b), "Mb", M=M, rtol=1e-4)
    assert start.outcome.ok


@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
def test_learning_from_a_run_with_tensors(solver, dtype):
    A, b = spd(dtype), vector(N, dtype)
    t = tensor(A)
    made = []
    for multiply, rhs in (
        (lambda v: t @ v, tensor(b)),
        (lambda v: (t @ torch.from_numpy(v)).numpy(), b),
    ):
        for M in (
            LBFGSPreconditioner(N, 4, dtype=dtype, harvest=True),
            RitzPreconditioner(N, 4, dtype=dtype, harvest=True),
        ):
            solver(multiply, rhs, M=M, rtol=1e-3)
            made.append(matrix_of(M))
    assert np.array_equal(made[0], made[2])
    assert np.array_equal(made[1], made[3])


def test_a_learner_that_computes_with_tensors_hears_arrays():
    """Pairs come as NumPy views whatever b is; `torch.from_numpy` makes tensors of them without a copy."""
    heard = []

    class Listener:
        harvest = True
        shape = (N, N)

        def matvec(self, r):
            return r * 0.5

        def begin_run(self, fixed):
            pass

        def learn(self, p, Ap):
            heard.append(torch.from_numpy(p).norm() + torch.from_numpy(Ap).norm())

        def end_run(self, complete):
            pass

    t = tensor(spd(np.float64))
    assert krylov.cg(lambda v: t @ v, tensor(vector(N)), M=Listener()).outcome.ok
    assert all(type(value) is torch.Tensor for value in heard)


def test_operators_of_tensors(dtype):
    A = spd(dtype)
    first, second = (NystromPreconditioner(a, 4) for a in (A, tensor(A)))
    np.testing.assert_allclose(matrix_of(first), matrix_of(second), rtol=1e4 * epsilon(dtype))
    M = taught("ritz", dtype, np.asarray)
    values = M.ritz_values
    M.renew(tensor(A))
    np.testing.assert_allclose(M.ritz_values, values, rtol=0.5)
