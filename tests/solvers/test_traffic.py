"""Vector reads and writes of an iteration, counted from what real runs launch; nothing is allocated by them."""

from __future__ import annotations

import ctypes
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from cases import on_the_fast_table, poisson, vector

import krylov
from krylov import _core

COST = {p["name"]: p["reads"] + p["writes"] for p in _core.passes()}


def moved(run):
    """Elements moved over n. Copies of the best iterate, made where the residual turns up, come on top."""
    return sum(COST[name] * count for name, count in run.launches().items() if name != "copy")


def per_iteration(runs, solver, A, n, **keywords):
    for maxiter in (10, 20):
        solver(A, vector(n), rtol=0, maxiter=maxiter, **keywords)
    return (moved(runs[-1]) - moved(runs[-2])) / 10


A = poisson(20)
D = krylov.JacobiPreconditioner(np.linspace(1, 2, 400))


def general(r):
    return r / 2


@pytest.mark.parametrize(
    ("method", "sparse", "M", "count"),
    [
        ("cg", False, None, 10),
        ("cg", True, None, 8),
        ("cg", False, D, 12),
        ("cg", True, D, 10),
        ("cg", False, general, 12),
        ("flexible_cg", False, None, 10),
        ("flexible_cg", False, D, 12),
        ("flexible_cg", False, general, 13),
        ("flexible_cg", True, general, 11),
        ("bicgstab", False, None, 16),
        ("bicgstab", True, None, 14),
        ("bicgstab", False, general, 18),
        ("neumann", False, None, 5),
        ("neumann", False, general, 6),
    ],
)
def test_traffic(runs, method, sparse, M, count):
    solver = getattr(krylov, method)
    keywords = {"scale": 0.1} if method == "neumann" else {}
    operator = A if sparse else lambda v: A @ v
    assert per_iteration(runs, solver, operator, 400, M=M, **keywords) == count


def test_traffic_of_tracking(runs):
    assert per_iteration(runs, krylov.bicgstab, lambda v: A @ v, 400, curvature="track") == 19


@pytest.mark.parametrize("method", ["cg", "flexible_cg", "neumann"])
def test_no_copies_while_the_residual_falls(runs, method):
    keywords = {"scale": 0.1} if method == "neumann" else {}
    A = sp.diags_array(np.linspace(1, 1.5, 400))
    for maxiter in (5, 8):
        getattr(krylov, method)(A, vector(400), rtol=0, maxiter=maxiter, **keywords)
    assert runs[-1].launches()["copy"] == runs[-2].launches()["copy"]


def test_traffic_of_lanczos(monkeypatch):
    started, make = [], _core.Run.lanczos
    monkeypatch.setattr(
        _core.Run, "lanczos", lambda *args: started.append(make(*args)) or started[-1]
    )
    for k in (10, 20):
        krylov.lanczos(lambda v: A @ v, k, vector(400), reorthogonalize="none")
    assert (moved(started[1]) - moved(started[0])) / 10 == 8


# -------------------------------------------------------------------------------------------------
# Zero allocation per iteration


class Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo is not None:
    mallinfo.restype = Mallinfo


def heap():
    """Bytes that malloc has handed out, in its arenas and by mmap."""
    if mallinfo is None:
        pytest.skip("this C library has no mallinfo2")
    info = mallinfo()
    return info.uordblks + info.hblkhd


class Meter:
    """An operator that works in its own memory and looks at the heap during some of its products."""

    def __init__(self, n, dtype):
        self.d, self.target = np.geomspace(1, 1e5, n).astype(dtype), np.empty(n, dtype)
        self.count, self.heap, self.python = 0, {}, None

    def __call__(self, v):
        self.count += 1
        if self.count in (20, 210):
            self.heap[self.count] = heap()
        if self.count == 210:
            tracemalloc.start()
        elif self.count == 400:
            self.python = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        np.multiply(self.d, v, out=self.target)
        return self.target


@on_the_fast_table
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("method", ["cg", "flexible_cg", "bicgstab", "neumann"])
def test_nothing_is_allocated_per_iteration(method, preconditioned, dtype):
    n = 3_000
    meter, buffer = Meter(n, dtype), np.empty(n, dtype)
    keywords = {"scale": 1e-5} if method == "neumann" else {}
    if preconditioned:
        keywords["M"] = lambda r: np.multiply(r, 0.5, out=buffer)
    workspace, out = krylov.Workspace(method, n, dtype), np.empty(n, dtype)
    try:
        getattr(krylov, method)(
            meter, vector(n, dtype), rtol=0, maxiter=450, workspace=workspace, out=out, **keywords
        )
    finally:
        tracemalloc.stop()
    assert meter.heap[210] - meter.heap[20] < n
    assert meter.python < n


def test_a_callback_and_a_rule_allocate_nothing_large():
    n, seen, peak = 10_000, [], []

    def callback(x):
        if len(seen) == 20:
            tracemalloc.start()
        if len(seen) == 150:
            peak.append(tracemalloc.get_traced_memory()[1])
        seen.append(x)

    d, target = np.geomspace(1, 1e4, n), np.empty(n)
    try:
        krylov.cg(
            lambda v: np.multiply(d, v, out=target),
            vector(n),
            rtol=0,
            maxiter=200,
            callback=callback,
            stop=krylov.stopping.QuadraticProgress(epsilon=1e-300) | krylov.stopping.TimeLimit(100),
        )
    finally:
        tracemalloc.stop()
    assert peak[0] < 8 * n
    assert all(x is seen[0] for x in seen)
