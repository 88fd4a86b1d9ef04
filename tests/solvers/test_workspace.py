from __future__ import annotations

import numpy as np
import pytest
from cases import nonsymmetric, spd, vector

import krylov
from krylov import Workspace

METHODS = ["cg", "flexible_cg", "bicgstab", "neumann"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_a_used_workspace_changes_no_bit(method, dtype):
    solver, workspace = getattr(krylov, method), Workspace(method, 40, dtype)
    for vector_ in workspace.vectors.values():
        vector_[:] = np.nan
    for seed in range(3):
        A = nonsymmetric(dtype) if method == "bicgstab" else spd(dtype)
        b, M = (
            vector(40, dtype, seed),
            (None, krylov.JacobiPreconditioner(np.full(40, 2.0, dtype)), lambda r: r / 2)[seed],
        )
        fresh, reused = (solver(A, b, M=M, rtol=1e-3, workspace=w) for w in (None, workspace))
        assert np.array_equal(fresh.x, reused.x)
        assert np.array_equal(fresh.residual_norms, reused.residual_norms)


def test_the_solution_is_not_in_the_workspace(method):
    workspace = Workspace(method, 40)
    res = getattr(krylov, method)(spd(float), vector(40), workspace=workspace)
    assert not any(np.may_share_memory(res.x, v) for v in workspace.vectors.values())


def test_vectors_are_aligned_and_staggered(method, dtype):
    for n in (1, 1000, 4096):
        addresses = [v.ctypes.data for v in Workspace(method, n, dtype).vectors.values()]
        assert all(a % 64 == 0 for a in addresses)
        assert len({a % 4096 for a in addresses}) == len(addresses)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("cg", 3, "f8", "cuda"), ValueError, "cuda"),
        (("cg", 3, "i4"), TypeError, "dtype"),
        (("cg", 3, "f2"), TypeError, "dtype"),
        (("cg", -1), ValueError, "at least 0"),
        (("gmres", 3), ValueError, "gmres"),
    ],
)
def test_impossible_workspaces_are_refused(args, error, message):
    with pytest.raises(error, match=message):
        Workspace(*args)


@pytest.mark.parametrize("other", [("bicgstab", 40, "f8"), ("cg", 39, "f8"), ("cg", 40, "f4")])
def test_a_workspace_that_does_not_fit_is_refused(other):
    with pytest.raises(ValueError, match="workspace is for"):
        krylov.cg(spd(float), vector(40), workspace=Workspace(*other))


def test_a_workspace_in_use_is_refused(method):
    A, workspace = spd(float), Workspace(method, 40)
    solver = getattr(krylov, method)
    with pytest.raises(RuntimeError, match="in use"):
        solver(lambda v: solver(A, v, workspace=workspace).x, vector(40), workspace=workspace)
    assert solver(A, vector(40), rtol=1e-2, workspace=workspace).niter > 0


def test_repr():
    assert repr(Workspace("cg", 5, "f4")) == "Workspace('cg', 5, 'float32', 'cpu')"
