from __future__ import annotations

import time

import numpy as np
import pytest
from cases import poisson, residual_norm, spd, vector

import krylov
from krylov import Outcome
from krylov.stopping import FixedIterations, QuadraticProgress, Residual, Rule, TimeLimit

SOLVERS = [krylov.cg, krylov.flexible_cg, krylov.bicgstab, krylov.neumann]
A, B = poisson(12), vector(144)


@pytest.fixture(params=SOLVERS, ids=lambda s: s.__name__)
def solver(request):
    return request.param


def test_fixed_iterations(solver):
    res = solver(A, B, rtol=0, stop=FixedIterations(5))
    assert (res.outcome, res.niter, res.true_residual_norm) == (Outcome.STOPPED_BY_RULE, 5, None)
    assert res.outcome.ok
    assert res.residual_norm == pytest.approx(residual_norm(A, B, res.x))


def test_residual_rule_is_the_tolerance(solver):
    keywords = {"maxiter": 2000}
    by_rule, by_tolerance = (
        solver(A, B, rtol=0, stop=Residual(1e-3), **keywords),
        solver(A, B, rtol=1e-3, **keywords),
    )
    assert by_rule.niter == by_tolerance.niter
    assert np.array_equal(by_rule.x, by_tolerance.x)
    assert solver(A, B, rtol=0, stop=Residual(0, atol=0.5), **keywords).residual_norm < 0.5


def test_time_limit(solver):
    def slow(v):
        time.sleep(0.01)
        return A @ v

    keywords = {"scale": 0.1} if solver is krylov.neumann else {}
    res = solver(slow, B, rtol=0, stop=TimeLimit(0.05), **keywords)
    assert res.outcome is Outcome.TIME_LIMIT
    assert not res.outcome.ok
    assert res.info == res.niter
    assert 1 <= res.niter <= 5


def martens(values, epsilon, minimum, fraction):
    """First iteration at which the rule of Martens (2010) holds, from all quadratic values."""
    for i in range(1, len(values)):
        k = max(minimum, int(fraction * i))
        if i > k and values[i] < 0 and (values[i] - values[i - k]) / values[i] < k * epsilon:
            return i
    raise AssertionError


@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg, krylov.neumann])
@pytest.mark.parametrize("parameters", [(5e-4, 10, 0.1), (1e-2, 3, 0.5), (1e-6, 1, 0.0)])
def test_quadratic_progress(solver, parameters):
    values = solver(A, B, rtol=0, maxiter=1000, stop=FixedIterations(600)).quadratic_values
    res = solver(A, B, rtol=0, maxiter=1000, stop=QuadraticProgress(*parameters))
    assert res.outcome is Outcome.STOPPED_BY_RULE
    assert res.niter == martens(values, *parameters)
    assert np.array_equal(res.quadratic_values, values[: res.niter + 1])


def test_quadratic_progress_of_bicgstab_tracks():
    res = krylov.bicgstab(A, B, rtol=0, stop=FixedIterations(1000) | QuadraticProgress(1e-6))
    assert res.outcome is Outcome.STOPPED_BY_RULE
    assert res.niter < 1000
    assert np.isfinite(res.quadratic_values).all()


@pytest.mark.parametrize(
    "rule", [FixedIterations(9) | FixedIterations(4), FixedIterations(4) | (lambda trace: False)]
)
def test_either_rule_ends_the_run(rule):
    assert isinstance(rule, Rule)
    assert krylov.cg(A, B, rtol=0, stop=rule).niter == 4


def test_a_function_joins_from_the_left():
    rule = (lambda trace: trace.niter >= 3) | FixedIterations(9)
    assert krylov.cg(A, B, rtol=0, stop=rule).niter == 3


def test_the_tolerance_still_counts(solver):
    res = solver(A, B, rtol=0.5, maxiter=1000, stop=FixedIterations(999))
    assert res.outcome is Outcome.CONVERGED


def test_any_callable_sees_the_trace(solver):
    seen = []

    def rule(trace):
        seen.append((trace.niter, trace.residual_norm, trace.b_norm, trace.elapsed))
        assert trace.residual_norms.size == trace.quadratic_values.size == trace.niter + 1
        assert (
            trace.residual_norm == trace.residual_norms[-1] == trace.residual_norm_at(trace.niter)
        )
        assert trace.quadratic_value_at(0) == 0
        return trace.niter == 3

    res = solver(A, B, rtol=0, stop=rule)
    assert [s[0] for s in seen] == [1, 2, 3]
    assert [s[1] for s in seen] == list(res.residual_norms[1:])
    assert seen[0][2] == pytest.approx(np.linalg.norm(B))
    assert sorted(s[3] for s in seen) == [s[3] for s in seen]


def test_a_rule_chooses_the_outcome(solver):
    res = solver(A, B, rtol=0, stop=lambda trace: trace.niter == 2 and Outcome.STAGNATION)
    assert (res.outcome, res.niter, res.info) == (Outcome.STAGNATION, 2, 2)


def test_stop_iteration_from_the_callback(solver):
    def callback(x):
        raise StopIteration

    res = solver(A, B, rtol=0, callback=callback)
    assert (res.outcome, res.niter, res.info) == (Outcome.STOPPED_BY_CALLBACK, 1, 1)
    assert not res.outcome.ok


@pytest.mark.parametrize("every", [1, 3, 7])
def test_check_every(solver, every):
    seen, called = [], []
    solver(
        A,
        B,
        rtol=0,
        maxiter=20,
        check_every=every,
        callback=lambda x: called.append(1),
        stop=lambda trace: seen.append(trace.niter),
    )
    assert seen == list(range(every, 21, every))
    assert len(called) == len(seen)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedIterations(0),
        lambda: TimeLimit(0),
        lambda: TimeLimit(float("nan")),
        lambda: QuadraticProgress(epsilon=0),
        lambda: QuadraticProgress(minimum=0),
        lambda: QuadraticProgress(fraction=-1),
    ],
)
def test_impossible_rules_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|must not be"):
        make()


def test_residual_of_a_stopped_run_is_the_recurrences():
    res = krylov.cg(spd(float), vector(40), rtol=0, stop=FixedIterations(3))
    assert res.residual_norm == res.residual_norms[-1]
    assert res.nmatvec == 3
