"""Candidates of a truncated run on the quadratic model, against dense truth."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from networks import classifier
from quadratic_models import DEFINITE, INDEFINITE, Dense, model, symmetric, vector

from krylov import JacobiPreconditioner, Outcome
from krylov.stopping import FixedIterations, QuadraticProgress
from krylov.torch.optim.solvers.directions import ModelSolver

SOLVERS = ["cg", "flexible_cg", "bicgstab"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("values", [DEFINITE, INDEFINITE], ids=["definite", "indefinite"])
@pytest.mark.parametrize("preconditioned", [False, True], ids=["plain", "M"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_candidates_report_their_value_in_the_model(solver, preconditioned, values, warm, dtype):
    A, g = symmetric(values, dtype=dtype), vector(20, dtype=dtype)
    M = None
    if preconditioned:
        M = JacobiPreconditioner(A.diagonal().abs().numpy(), 0.75, 0.3)
    solve = ModelSolver(solver, FixedIterations(8), 100)
    start = 0.3 * vector(20, 2, dtype) if warm else None
    found = solve(Dense(A, 0.3), g, start, M)
    precision = 1e-9 if dtype == torch.float64 else 1e-4
    iterations = [c.iteration for c in found.candidates]
    assert iterations == sorted(set(iterations))
    for c in found.candidates:
        assert c.step.dtype == dtype
        if c.iteration == 0:
            assert math.isnan(c.value)
        else:
            wanted = model(A, g, c.step, 0.3)
            assert c.value == pytest.approx(wanted, rel=precision, abs=precision)
    if found.candidates[-1].iteration:
        assert found.candidates[-1].iteration == found.iterations


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_candidate_has_memory_of_its_own(solver):
    A, g = symmetric(DEFINITE), vector(20)
    solve = ModelSolver(solver, FixedIterations(8), 100)
    first = solve(Dense(A, 0.3), g, None, None)
    copies = [c.step.clone() for c in first.candidates]
    solve(Dense(2 * A, 0.1), vector(20, 5), None, None)  # in the same workspace
    assert len({c.step.data_ptr() for c in first.candidates}) == len(copies)
    for c, copy in zip(first.candidates, copies, strict=True):
        assert torch.equal(c.step, copy)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_last_candidate_of_a_long_run_is_the_solution(solver):
    A, g = symmetric(DEFINITE), vector(20)
    found = ModelSolver(solver, QuadraticProgress(epsilon=1e-16), 200)(Dense(A, 0.3), g, None, None)
    wanted = torch.linalg.solve(A + 0.3 * torch.eye(20), -g)
    torch.testing.assert_close(found.candidates[-1].step, wanted, rtol=1e-6, atol=1e-6)
    assert not found.negative_curvature


def test_bicgstab_gives_descent_directions_of_either_curvature():
    for seed in range(10):
        A, g = symmetric(INDEFINITE, seed), vector(20, seed + 100)
        found = ModelSolver("bicgstab", FixedIterations(12), 100)(Dense(A), g, None, None)
        curvatures = []
        for c in found.candidates:
            assert float(g @ c.step) <= 0
            curvatures.append(float(c.step @ A @ c.step))
        assert found.negative_curvature == (min(curvatures) < 0)


@pytest.mark.parametrize("solver", ["cg", "flexible_cg"])
def test_conjugate_gradients_stop_before_negative_curvature(solver):
    seen = set()
    for seed in range(10):
        A, g = symmetric(INDEFINITE, seed), vector(20, seed + 100)
        found = ModelSolver(solver, FixedIterations(30), 100)(Dense(A), g, None, None)
        assert found.negative_curvature
        assert found.outcome is Outcome.NEGATIVE_CURVATURE
        for c in found.candidates:
            assert float(g @ c.step) < 0
            assert float(c.step @ A @ c.step) > 0
        seen.add(found.iterations)
    assert len(seen) > 1


@pytest.mark.parametrize("solver", ["cg", "flexible_cg"])
def test_negative_curvature_at_once_gives_the_steepest_descent(solver):
    A, g = symmetric([-4.0] * 6), vector(6)
    found = ModelSolver(solver, FixedIterations(30), 100)(Dense(A), g, None, None)
    (c,) = found.candidates
    assert (c.iteration, found.iterations, found.negative_curvature) == (0, 0, True)
    assert math.isnan(c.value)
    torch.testing.assert_close(c.step, -g / 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_products_that_are_not_finite_give_what_was_found_before(solver, bad):
    class Breaks(Dense):
        def matvec(self, v):
            product = super().matvec(v)
            return product * bad if self.count > self.good else product

        __matmul__ = matvec
        __call__ = matvec

    for good in range(7):
        A, g = symmetric(DEFINITE), vector(20)
        operator = Breaks(A, 0.3)
        operator.good = good
        found = ModelSolver(solver, FixedIterations(8), 100)(operator, g, None, None)
        assert found.candidates
        for c in found.candidates:
            assert torch.isfinite(c.step).all()
            assert float(g @ c.step) < 0
            if c.iteration:
                assert c.value == pytest.approx(model(A, g, c.step, 0.3), rel=1e-9)


def test_the_iteration_limit_ends_a_run():
    found = ModelSolver("cg", QuadraticProgress(), 3)(
        Dense(symmetric(DEFINITE)), vector(20), None, None
    )
    assert found.iterations == 3
    assert found.outcome is Outcome.ITERATION_LIMIT


@pytest.mark.parametrize("solver", SOLVERS)
def test_on_the_curvature_of_a_network(solver):
    import krylov.torch as kt

    problem = classifier()
    point = problem.read()
    operator = kt.HessianOperator(lambda: problem()[0], problem.parameters, shift=0.01)
    H, g = problem.hessian(point), problem.gradient(point)
    found = ModelSolver(solver, FixedIterations(5), 100)(operator, g, None, None)
    for c in found.candidates:
        if c.iteration:
            assert c.value == pytest.approx(model(H, g, c.step, 0.01), rel=1e-8)
