"""Equal bits for any number of threads; forks, concurrent and nested solves, signals."""

from __future__ import annotations

import hashlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from cases import nonsymmetric, on_the_fast_table, poisson, residual_norm, spd, vector
from threadpoolctl import threadpool_limits

import krylov
from krylov import _core

METHODS = ["cg", "flexible_cg", "bicgstab", "neumann"]
SOLVE = """
import hashlib, sys, warnings
import numpy as np, scipy.sparse as sp, krylov
n = 40_000
A = sp.csr_array(sp.diags_array([-np.ones(n - 1), np.linspace(2.1, 4, n), -0.7 * np.ones(n - 1)], offsets=[-1, 0, 1]))
b = np.sin(np.arange(n))
def bits():
    return krylov.bicgstab(A, b, rtol=1e-12, maxiter=50).x.tobytes()
"""


def digest(method, A, M=None):
    b = vector(A.shape[0], A.dtype)
    keywords = {"scale": 0.1} if method == "neumann" else {}
    res = getattr(krylov, method)(A, b, M=M, rtol=0, maxiter=5, **keywords)
    history = res.residual_norms.tobytes() + res.quadratic_values.tobytes()
    return hashlib.sha1(res.x.tobytes() + history).hexdigest()


@on_the_fast_table
@pytest.mark.parametrize("M", [None, "jacobi", "general"])
@pytest.mark.parametrize("method", METHODS)
def test_a_solve_has_the_same_bits_for_any_number_of_threads(method, M, dtype):
    A = poisson({4: 170, 8: 120, 16: 90}[dtype.itemsize], dtype)  # large enough for threads
    d = np.linspace(1, 2, A.shape[0]).astype(dtype)
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": sp.diags_array(1 / d) + 0 * A}.get(M)
    results = set()
    for threads in (1, 2, 3, 4):
        with threadpool_limits(threads, user_api="openmp"):
            results.add(digest(method, A, M))
    assert len(results) == 1


@on_the_fast_table
def test_environment_governs_threads_and_leaves_the_bits(python):
    program = SOLVE + "print(krylov._core.threads(), hashlib.sha1(bits()).hexdigest())"
    results = [python(program, OMP_NUM_THREADS=str(k)).split() for k in (1, 3)]
    assert [r[0] for r in results] == ["1", "3"] or _core.thread_backend() != "OpenMP"
    assert results[0][1] == results[1][1]


@on_the_fast_table
@pytest.mark.parametrize("isa", ["reference", "baseline", "auto"])
def test_environment_chooses_the_table(python, isa):
    name = python("import krylov; print(krylov.build_config()['isa'])", KRYLOV_ISA=isa)
    assert name == (isa if isa in ("reference", "baseline") else _core.tables()[-1])


@on_the_fast_table
def test_an_unknown_table_is_refused(python):
    with pytest.raises(
        AssertionError, match=r"ImportError: KRYLOV_ISA=nonsense: usable here are auto"
    ):
        python("import krylov", KRYLOV_ISA="nonsense")


@on_the_fast_table
@pytest.mark.parametrize(
    "imports", ["", "import torch; torch.ones(10**6).sum()"], ids=["plain", "with torch"]
)
def test_solve_after_a_fork(python, imports):
    if imports:
        pytest.importorskip("torch")
    program = f"""
{imports}
{SOLVE}
import os
warnings.simplefilter("ignore")
before = bits()
child = os.fork()
if child == 0:
    os._exit(0 if bits() == before and krylov._core.threads() == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bits() == before)
"""
    assert python(program, OMP_NUM_THREADS="3") == "0 True"


@pytest.mark.parametrize("method", METHODS)
def test_concurrent_solves(method):
    A = poisson(60)
    expected = digest(method, A)
    with ThreadPoolExecutor(6) as pool:
        assert {f.result() for f in [pool.submit(digest, method, A) for _ in range(12)]} == {
            expected
        }


def test_concurrent_solves_with_python_operators():
    A, b = spd(float), vector(40)
    expected = krylov.cg(lambda v: A @ v, b, rtol=1e-9).x
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(krylov.cg, lambda v: A @ v, b, rtol=1e-9) for _ in range(24)]
    assert all(np.array_equal(f.result().x, expected) for f in futures)


@on_the_fast_table
def test_the_gil_is_released():
    """Another thread goes on while a native solve runs."""
    A, ticks, done = poisson(300), [], threading.Event()

    def tick():
        while not done.wait(0.002):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    krylov.cg(A, vector(90_000), rtol=0, maxiter=100)
    done.set()
    thread.join()
    assert len(ticks) >= 5


def test_nested_solves(dtype):
    A, B = spd(dtype, condition=10), nonsymmetric(dtype)
    b = vector(40, dtype)
    inner = lambda v: krylov.bicgstab(B, A @ v, rtol=1e-6).x  # noqa: E731
    res = krylov.bicgstab(inner, b, rtol=1e-3)
    assert res.outcome.ok
    assert residual_norm(np.linalg.solve(B, A), b, res.x) < 1e-2 * np.linalg.norm(b)


def test_a_native_solve_inside_an_openmp_sized_solve():
    A, b = poisson(60), vector(3600)
    res = krylov.flexible_cg(
        lambda v: A @ v, b, M=lambda r: krylov.cg(A, r, rtol=0, maxiter=5).x, rtol=1e-3
    )
    assert res.outcome.ok


# -------------------------------------------------------------------------------------------------
# Exceptions and signals pass through, and leave everything reusable


class Failure(Exception):
    pass


def failing(after, function):
    count = iter(range(1000))

    def call(*args):
        if next(count) >= after:
            raise Failure
        return function(*args)

    return call


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("where", ["A", "M", "callback", "stop"])
@pytest.mark.parametrize("method", METHODS)
def test_exceptions_pass_through_and_the_workspace_is_reusable(method, where, after):
    A, b, workspace = spd(float), vector(40), krylov.Workspace(method, 40)
    solver = getattr(krylov, method)
    keywords = {"scale": 0.5} if method == "neumann" else {}
    identity = lambda r: r.copy()  # noqa: E731
    parts = {
        "A": lambda v: A @ v,
        "M": identity,
        "callback": lambda x: None,
        "stop": lambda trace: None,
    }
    good = {"M": parts["M"], "rtol": 0, "maxiter": 20, **keywords}
    expected = solver(parts["A"], b, **good).x
    parts[where] = failing(after, parts[where])
    operator = parts.pop("A")
    with pytest.raises(Failure):
        solver(operator, b, workspace=workspace, **good | parts)
    again = solver(lambda v: A @ v, b, workspace=workspace, **good)
    assert np.array_equal(again.x, expected)


@pytest.mark.parametrize("where", ["A", "callback"])
def test_keyboard_interrupt_from_python(where):
    A, workspace, count = spd(float), krylov.Workspace("cg", 40), iter(range(100))

    def interrupt(value):
        if next(count) == 3:
            signal.raise_signal(signal.SIGINT)
        return A @ value

    keywords = {"callback": interrupt} if where == "callback" else {}
    with pytest.raises(KeyboardInterrupt):
        krylov.cg(
            interrupt if where == "A" else A, vector(40), rtol=0, workspace=workspace, **keywords
        )
    assert krylov.cg(A, vector(40), workspace=workspace).outcome.ok


@on_the_fast_table
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals")
@pytest.mark.parametrize("method", ["cg", "bicgstab"])
def test_keyboard_interrupt_ends_a_long_native_run(method):
    A, workspace = poisson(200), krylov.Workspace(method, 40_000)

    def solve_for_ever():
        while True:
            getattr(krylov, method)(A, vector(40_000), rtol=0, maxiter=10**7, workspace=workspace)

    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            solve_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert getattr(krylov, method)(A, vector(40_000), rtol=1e-2, workspace=workspace).outcome.ok
