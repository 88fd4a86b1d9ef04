"""Vectors moved by runs with a low-rank M, counted from what they launch; nothing allocated; bits for any threads."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from cases import on_the_fast_table, poisson, vector
from solvers.test_traffic import COST, Meter
from threadpoolctl import threadpool_limits

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, RitzPreconditioner, _core

pytestmark = on_the_fast_table
A = poisson(20)
N = 400


def lbfgs(m, A=A, dtype=np.float64, **keywords):
    M = LBFGSPreconditioner(A.shape[0], m, dtype=dtype, **keywords)
    for k in range(m):
        s = vector(A.shape[0], dtype, k)
        assert M.update(s, A @ s)
    return M


def ritz(m, A=A, dtype=np.float64, **keywords):
    M = RitzPreconditioner(A.shape[0], m, window=m, dtype=dtype, **keywords)
    for k in range(2 * m):
        s = vector(A.shape[0], dtype, k)
        assert M.update(s, A @ s)
    _ = M.ritz_values
    return M


def nystrom(m):
    return NystromPreconditioner(A, m)


def moved(run):
    """Elements moved over n, columns of M among them; a column counts one whatever its storage."""
    return sum(
        count * (1 if name == "panel_column" else COST[name])
        for name, count in run.launches().items()
        if name != "copy"
    )


def per_iteration(runs, solver, operator, M, **keywords):
    for maxiter in (5, 15):
        solver(operator, vector(N), M=M, rtol=0, maxiter=maxiter, **keywords)
    return (moved(runs[-1]) - moved(runs[-2])) / 10


@pytest.mark.parametrize("m", [1, 4, 7])
@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
def test_a_fused_iteration_moves_2k_plus_10(runs, solver, m):
    def multiply(v):
        return A @ v

    assert per_iteration(runs, solver, multiply, lbfgs(m)) == 4 * m + 10
    assert per_iteration(runs, solver, A, lbfgs(m)) == 4 * m + 8
    M = ritz(m)
    assert per_iteration(runs, solver, multiply, M) == 2 * len(M) + 10
    assert per_iteration(runs, solver, multiply, nystrom(m)) == 2 * m + 10
    assert "panel_column" in runs[-1].launches()


def test_columns_that_do_not_exist_yet_cost_nothing(runs):
    assert per_iteration(runs, krylov.cg, A, LBFGSPreconditioner(N, 8)) == 8
    assert "panel_column" not in runs[-1].launches()


def test_storage_does_not_change_the_count(runs):
    for storage in ("float32", "bfloat16"):
        assert per_iteration(runs, krylov.cg, A, lbfgs(3, storage=storage)) == 4 * 3 + 8


def test_the_general_way_forms_z(runs):
    """The textbook's recursion is not fused: the recurrence of a general M."""
    M = lbfgs(3, apply="two_loop")
    assert per_iteration(runs, krylov.cg, A, M) == 10
    assert per_iteration(runs, krylov.flexible_cg, A, M) == 11


def test_refreshing_costs_a_sweep_only_where_m_has_changed(runs):
    """r.r and the columns once more after every pair that is taken; "first" takes none after the second iteration."""
    for select, extra in (("first", 0), ("last", 2 + 4)):
        for maxiter in (5, 15):
            M = LBFGSPreconditioner(N, 2, select=select, harvest=True)
            krylov.flexible_cg(A, vector(N), M=M, rtol=0, maxiter=maxiter)
        assert (moved(runs[-1]) - moved(runs[-2])) / 10 == 4 * 2 + 8 + extra


# -------------------------------------------------------------------------------------------------
# Nothing is allocated in the loop


@pytest.mark.parametrize("kind", ["lbfgs", "ritz"])
@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
def test_nothing_is_allocated_per_iteration(method, kind, dtype):
    n = 3_000
    meter = Meter(n, dtype)
    M = (LBFGSPreconditioner if kind == "lbfgs" else RitzPreconditioner)(n, 3, dtype=dtype)
    for k in range(6):
        M.update(vector(n, dtype, k), meter.d * vector(n, dtype, k))
    workspace, out = krylov.Workspace(method, n, dtype), np.empty(n, dtype)
    try:
        getattr(krylov, method)(
            meter, vector(n, dtype), M=M, rtol=0, maxiter=450, workspace=workspace, out=out
        )
    finally:
        tracemalloc.stop()
    assert meter.heap[210] - meter.heap[20] < n
    assert meter.python < n


@pytest.mark.parametrize("kind", ["lbfgs", "ritz"])
def test_harvesting_keeps_nothing_but_small_matrices(kind):
    """Memory of a long run that learns does not grow with its length, beyond the vectors that pass by."""
    n, seen = 20_000, {}
    d, target = np.geomspace(1, 1e4, n), np.empty(n)
    M = (LBFGSPreconditioner if kind == "lbfgs" else RitzPreconditioner)(n, 4, harvest=True)

    def callback(x):
        seen["count"] = seen.get("count", 0) + 1
        if seen["count"] in (30, 60):
            seen[seen["count"]] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        krylov.cg(
            lambda v: np.multiply(d, v, out=target),
            vector(n),
            M=M,
            rtol=0,
            maxiter=60,
            callback=callback,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen[60] - seen[30] < n
    assert peak < 15 * 8 * n  # the workspace, x, and less than the columns, which were there before


# -------------------------------------------------------------------------------------------------
# Bits


def digest(*arrays):
    return hashlib.sha1(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


@pytest.mark.parametrize("kind", ["lbfgs", "two_loop", "ritz", "nystrom"])
def test_same_bits_for_any_number_of_threads(kind, dtype):
    """From harvesting to the solves that use it, the fused and the general ones."""
    A = poisson({4: 130, 8: 95, 16: 70}[dtype.itemsize], dtype)  # large enough for threads
    n, results = A.shape[0], set()
    for threads in (1, 2, 3, 4):
        with threadpool_limits(threads, user_api="openmp"):
            if kind == "nystrom":
                M = NystromPreconditioner(A, 4)
            elif kind == "ritz":
                M = RitzPreconditioner(n, 3, dtype=dtype, harvest=True)
            else:
                apply = "two_loop" if kind == "two_loop" else "compact"
                M = LBFGSPreconditioner(n, 3, dtype=dtype, harvest=True, apply=apply)
            parts = []
            for solver in (krylov.flexible_cg, krylov.cg, krylov.bicgstab):
                res = solver(A, vector(n, dtype), M=M, rtol=0, maxiter=7)
                parts += [res.x, res.residual_norms]
            results.add(digest(*parts, M @ vector(n, dtype, 1)))
    assert len(results) == 1


def test_wide_tables_agree_to_the_bit(dtype):
    if "avx512" not in _core.tables():
        pytest.skip("this CPU has no AVX-512")
    A, results = poisson(30, dtype), set()
    for table in ("avx2", "avx512"):
        _core.use_table(table)
        M = RitzPreconditioner(900, 4, dtype=dtype, harvest=True)
        runs = [
            krylov.cg(lambda v: A @ v, vector(900, dtype), M=M, rtol=0, maxiter=20)
            for _ in range(2)
        ]
        results.add(digest(*(run.x for run in runs), M @ vector(900, dtype)))
    assert len(results) == 1
