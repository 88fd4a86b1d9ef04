"""Exceptions, interrupts, nesting and concurrency leave a preconditioner usable, its columns all accounted for."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import on_the_fast_table, vector
from preconditioners.common import (
    assert_positive_definite,
    columns_are_accounted_for,
    matrix_of,
    outliers,
)

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, RitzPreconditioner

pytestmark = on_the_fast_table
N = 40
A = outliers(N, 5, 1.0)
CONJUGATE = [krylov.cg, krylov.flexible_cg]
LEARNERS = {
    "lbfgs": lambda m=6: LBFGSPreconditioner(N, m, harvest=True),
    "no refresh": lambda m=6: LBFGSPreconditioner(N, m, harvest=True, refresh=False),
    "two_loop": lambda m=6: LBFGSPreconditioner(N, m, harvest=True, apply="two_loop"),
    "ritz": lambda m=6: RitzPreconditioner(N, m, window=2, harvest=True),
    "forgetful": lambda m=6: RitzPreconditioner(N, m, window=2, harvest=True, carry=False),
}
learners = pytest.mark.parametrize("kind", LEARNERS)
solvers = pytest.mark.parametrize("solver", CONJUGATE)


class Failure(Exception):
    pass


class Listener:
    harvest = True
    shape = (N, N)

    def __init__(self):
        self.heard = []

    def matvec(self, r):
        return r.copy()

    def begin_run(self, fixed):
        self.heard.append("begin")

    def learn(self, p, Ap):
        pass

    def end_run(self, complete):
        self.heard.append(complete)


def failing(after, function, error=Failure):
    count = [0]

    def call(*args):
        count[0] += 1
        if count[0] > after:
            if error is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            else:
                raise error
        return function(*args)

    return call


def assert_usable(M, solver):
    assert columns_are_accounted_for(M)
    assert_positive_definite(M)
    for seed in (5, 6):
        assert solver(A, vector(N, seed=seed), M=M).outcome.ok
        assert len(M) > 0
        assert columns_are_accounted_for(M)


@learners
@solvers
@pytest.mark.parametrize("after", [0, 2, 9])
@pytest.mark.parametrize("where", ["A", "callback", "stop"])
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
def test_exceptions(kind, solver, after, where, error):
    M = LEARNERS[kind]()
    solver(A, vector(N), M=M, rtol=1e-1)
    parts = {"A": lambda v: A @ v, "callback": lambda x: None, "stop": lambda trace: None}
    parts[where] = failing(after, parts[where], error)
    multiply = parts.pop("A")
    with pytest.raises(error):
        solver(multiply, vector(N, seed=1), M=M, rtol=0, maxiter=20, **parts)
    assert_usable(M, solver)


@pytest.mark.parametrize("kind", ["lbfgs", "no refresh", "two_loop"])
@solvers
def test_pairs_of_a_run_that_failed_are_dropped(kind, solver):
    M = LEARNERS[kind]()
    solver(A, vector(N), M=M, rtol=1e-1)
    before = matrix_of(M)
    with pytest.raises(Failure):
        solver(failing(5, lambda v: A @ v), vector(N, seed=1), M=M, rtol=0)
    assert np.array_equal(matrix_of(M), before)


@solvers
def test_the_learner_hears_that_a_run_was_not_complete(solver):
    M = Listener()
    with pytest.raises(Failure):
        solver(failing(3, lambda v: A @ v), vector(N), M=M)
    solver(A, vector(N), M=M)
    assert M.heard == ["begin", False, "begin", True]


@pytest.mark.parametrize("part", ["begin_run", "learn", "end_run"])
@solvers
def test_a_learner_that_raises(part, solver):
    M, workspace = Listener(), krylov.Workspace(solver.__name__, N)

    def fail(*args, **keywords):
        raise Failure

    setattr(M, part, fail)
    with pytest.raises(Failure):
        solver(A, vector(N), M=M, workspace=workspace)
    assert M.heard == {"begin_run": [], "learn": ["begin", False], "end_run": ["begin"]}[part]
    assert solver(A, vector(N), workspace=workspace).outcome.ok


@learners
@solvers
def test_a_run_that_is_stopped_is_complete(kind, solver):
    for keywords in (
        {"stop": krylov.stopping.FixedIterations(5)},
        {"callback": failing(4, lambda x: None, StopIteration)},
        {"maxiter": 5},
    ):
        M = LEARNERS[kind]()
        solver(A, vector(N), M=M, rtol=0, **keywords)
        assert len(M) > 1
        assert_usable(M, solver)


def test_a_scale_that_needs_a_shift_is_refused_and_can_be_repaired():
    M = LBFGSPreconditioner(N, 4, scale="shift", harvest=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="positive shift"):
            krylov.cg(A, vector(N), M=M)
    M.shift = 0.5
    assert krylov.cg(A, vector(N), M=M).outcome.ok
    assert len(M) > 0


# -------------------------------------------------------------------------------------------------
# Nested and concurrent


@learners
@solvers
def test_a_nested_run_that_learns_with_the_same_m_is_refused(kind, solver):
    M = LEARNERS[kind]()

    def multiply(v):
        return krylov.cg(A, v, M=M).x

    with pytest.raises(RuntimeError, match="learning from another run"):
        solver(multiply, vector(N), M=M)
    assert_usable(M, solver)


def test_nested_runs_that_learn_nothing_share_m():
    M = LEARNERS["ritz"]()
    krylov.cg(A, vector(N), M=M)
    M.harvest = False

    def inner(r):
        return krylov.cg(A, r, M=M, rtol=1e-2).x

    res = krylov.flexible_cg(A, vector(N), M=inner, rtol=1e-8)
    assert res.outcome.ok
    res = krylov.cg(lambda v: A @ (krylov.cg(A, A @ v, M=M, rtol=1e-10).x), vector(N), M=M)
    assert res.outcome.ok


def test_an_inner_preconditioner_of_its_own():
    outer, inner = LEARNERS["lbfgs"](), LEARNERS["ritz"]()

    def multiply(v):
        return krylov.cg(A, A @ (A @ v), M=inner, rtol=1e-9).x

    assert krylov.flexible_cg(multiply, vector(N), M=outer, rtol=1e-4).outcome.ok
    assert columns_are_accounted_for(inner)
    assert columns_are_accounted_for(outer)


@pytest.mark.parametrize("kind", ["lbfgs", "ritz", "nystrom"])
def test_concurrent_solves_share_an_m_that_does_not_learn(kind):
    if kind == "nystrom":
        M = NystromPreconditioner(A, 6)
    else:
        M = LEARNERS[kind]()
        krylov.cg(A, vector(N), M=M)
        M.harvest = False
    expected = krylov.flexible_cg(A, vector(N), M=M, rtol=1e-8).x
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(krylov.flexible_cg, A, vector(N), M=M, rtol=1e-8) for _ in range(12)]
        assert all(np.array_equal(f.result().x, expected) for f in futures)


@learners
def test_repeated_solves_of_one_system_do_not_get_slower(kind):
    M, counts = LEARNERS[kind](m=12), []
    for seed in range(6):
        res = krylov.flexible_cg(A, vector(N, seed=seed), M=M, rtol=1e-6)
        assert res.outcome.ok
        counts.append(res.niter)
    if kind != "forgetful":  # every other one of its runs has nothing to learn
        assert max(counts[1:]) <= 0.7 * counts[0], counts


# -------------------------------------------------------------------------------------------------
# Changed by hand while a run learns


@learners
@solvers
@pytest.mark.parametrize("change", ["clear", "update", "renew"])
def test_changing_m_by_hand_within_its_run_is_refused(kind, solver, change):
    M, count = LEARNERS[kind](), [0]
    if change == "renew" and not hasattr(M, "renew"):
        return
    solver(A, vector(N), M=M, rtol=1e-1)
    deed = {
        "clear": lambda: M.clear(),
        "update": lambda: M.update(vector(N, seed=7), A @ vector(N, seed=7)),
        "renew": lambda: M.renew(A),
    }[change]

    def multiply(v):
        count[0] += 1
        if count[0] == 4:
            deed()
        return A @ v

    with pytest.raises(RuntimeError, match="learning from a run"):
        solver(multiply, vector(N, seed=1), M=M, rtol=0, maxiter=20)
    deed()
    assert_usable(M, solver)
