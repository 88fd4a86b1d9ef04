"""Saddle-free Newton steps in a Krylov subspace, against dense truth."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest

torch = pytest.importorskip("torch")

from networks import classifier, regression
from quadratic_models import DEFINITE, INDEFINITE, Dense, model, symmetric, vector

import krylov.torch as kt
from krylov import Outcome
from krylov.stopping import FixedIterations, QuadraticProgress
from krylov.torch.optim.solvers.directions import ModelSolver
from krylov.torch.optim.solvers.factory import make_solver
from krylov.torch.optim.solvers.subspace import SubspaceSolver

DTYPES = [torch.float64, torch.float32]
PRECISION = {torch.float64: 1e-8, torch.float32: 1e-3}
#: Dampings of the candidates, in units of that of the operator.
FACTORS = [9, 3, 1, 1 / 3, 1 / 9]


def saddle_free(A, g, shift):
    t, U = torch.linalg.eigh(A.double())
    return -U @ ((U.T @ g.double()) / (t.abs() + shift))


def orthonormal(*vectors):
    return torch.linalg.qr(torch.stack([v.double() for v in vectors], 1))[0]


def krylov_basis(A, r, j):
    """Orthonormal, by QR at every step."""
    vectors = [r.double() / r.double().norm()]
    for _ in range(j - 1):
        Q = orthonormal(*vectors)
        w = A.double() @ vectors[-1]
        w = w - Q @ (Q.T @ w)
        vectors.append((w - Q @ (Q.T @ w)) / w.norm())
    return vectors


def step_within(A, g, Q, shift):
    t, U = torch.linalg.eigh(Q.T @ A.double() @ Q)
    V = Q @ U
    return -V @ ((V.T @ g.double()) / (t.abs() + shift))


def check_exact(found, A, g, shift, tolerance=1e-8):
    """All candidates are steps of the whole space."""
    for c, factor in zip(found.candidates, FACTORS, strict=True):
        wanted = saddle_free(A, g, factor * shift)
        torch.testing.assert_close(c.step.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("values", [DEFINITE, INDEFINITE], ids=["definite", "indefinite"])
def test_the_whole_space_gives_the_exact_step(values):
    A, g = symmetric(values), vector(20)
    found = SubspaceSolver(20)(Dense(A, 0.3), g, None)
    check_exact(found, A, g, 0.3)
    middle = found.candidates[2]
    assert (middle.iteration, found.iterations) == (20, 20)
    assert found.negative_curvature == (min(values) < 0)
    if min(values) > 0:
        newton = torch.linalg.solve(A + 0.3 * torch.eye(20, dtype=A.dtype), -g)
        torch.testing.assert_close(middle.step, newton, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("values", [DEFINITE, INDEFINITE], ids=["definite", "indefinite"])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_candidates_are_the_steps_in_the_span_with_five_dampings(k, values, warm, dtype):
    A, g = symmetric(values, dtype=dtype), vector(20, dtype=dtype)
    start = 0.3 * vector(20, 2, dtype) if warm else None
    operator = Dense(A, 0.3)
    found = SubspaceSolver(k)(operator, g, start)
    assert operator.count == k + warm
    assert operator.shift == 0.3
    assert found.outcome is Outcome.STOPPED_BY_RULE
    assert [c.iteration for c in found.candidates] == [k] * 5
    assert [c.damping for c in found.candidates] == pytest.approx([0.3 * f for f in FACTORS])
    r = -g if start is None else -g - A @ start - 0.3 * start
    Q = orthonormal(*krylov_basis(A, r, k), *([] if start is None else [start]))
    for c in found.candidates:
        wanted = step_within(A, g, Q, c.damping)
        precision = PRECISION[dtype]
        torch.testing.assert_close(c.step.double(), wanted, rtol=precision, atol=precision)
        assert c.step.dtype == dtype
        assert c.value == pytest.approx(model(A, g, c.step, c.damping), rel=precision)
        assert float(g @ c.step) < 0
    lengths = [float(c.step.norm()) for c in found.candidates]
    assert lengths == sorted(lengths)


def test_without_damping_there_is_one_candidate():
    A, g = symmetric(INDEFINITE), vector(20)
    (only,) = SubspaceSolver(20)(Dense(A), g, None).candidates
    torch.testing.assert_close(only.step, saddle_free(A, g, 0.0), rtol=1e-8, atol=1e-8)
    assert only.damping == 0


def test_no_candidate_is_worse_than_conjugate_gradients_with_as_many_products():
    A, g, start = symmetric(DEFINITE), vector(20), 0.3 * vector(20, 2)
    ours = SubspaceSolver(6)(Dense(A, 0.1), g, start)
    theirs = ModelSolver("cg", FixedIterations(6), 100)(Dense(A, 0.1), g, start, None)
    assert ours.candidates[2].damping == 0.1
    assert ours.candidates[2].value < theirs.candidates[-1].value


def test_the_last_direction_is_in_the_span():
    """One product more, and a start that solves the system is found again at once."""
    A, g = symmetric(DEFINITE), vector(20)
    newton = torch.linalg.solve(A + 0.3 * torch.eye(20, dtype=A.dtype), -g)
    found = SubspaceSolver(2)(Dense(A, 0.3), g, 0.5 * newton + 1e-3 * vector(20, 3))
    assert float((found.candidates[2].step - newton).norm()) < 0.02 * float(newton.norm())
    cold = SubspaceSolver(3)(Dense(A, 0.3), g, None)
    assert float((cold.candidates[2].step - newton).norm()) > 0.2 * float(newton.norm())


def test_a_direction_that_the_lanczos_vectors_span_already_adds_nothing():
    A, g = symmetric(INDEFINITE), vector(20)
    found = SubspaceSolver(20)(Dense(A, 0.3), g, 0.3 * vector(20, 2))
    check_exact(found, A, g, 0.3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_exact_start_does_not_become_the_residual(dtype):
    A, g = symmetric(DEFINITE, dtype=dtype), vector(20, dtype=dtype)
    newton = torch.linalg.solve(A.double() + 0.3 * torch.eye(20), -g.double()).to(dtype)
    found = SubspaceSolver(4)(Dense(A, 0.3), g, newton)
    for c in found.candidates:
        assert float(g @ c.step) < 0
        assert c.value == pytest.approx(model(A, g, c.step, c.damping), rel=PRECISION[dtype])


def test_another_damping_costs_no_product():
    A, g = symmetric(INDEFINITE), vector(20)
    solve, operator = SubspaceSolver(20), Dense(A, 0.1)
    solve(operator, g, None)
    for shift in (0.4, 10.0, 0.01):
        operator.shift = shift
        found = solve(operator, g, None)
        check_exact(found, A, g, shift)
        assert found.candidates[2].value == pytest.approx(
            model(A, g, saddle_free(A, g, shift), shift)
        )
    assert operator.count == 20


def test_another_gradient_or_operator_begins_anew():
    A, g = symmetric(INDEFINITE), vector(20)
    solve, operator = SubspaceSolver(20), Dense(A, 0.1)
    solve(operator, g, None)
    other = vector(20, 7)
    found = solve(operator, other, None)
    assert operator.count == 40
    check_exact(found, A, other, 0.1)
    found = solve(Dense(3 * A, 0.1), other, None)
    check_exact(found, 3 * A, other, 0.1)


def test_the_operator_is_not_kept_alive():
    solve, operator = SubspaceSolver(3), Dense(symmetric(DEFINITE), 0.1)
    solve(operator, vector(20), None)
    gone = weakref.ref(operator)
    del operator
    gc.collect()
    assert gone() is None
    copy.deepcopy(solve)(Dense(symmetric(DEFINITE), 0.1), vector(20), None)


def test_each_candidate_has_memory_of_its_own():
    solve = SubspaceSolver(8)
    first = solve(Dense(symmetric(DEFINITE), 0.3), vector(20), None)
    copies = [c.step.clone() for c in first.candidates]
    solve(Dense(symmetric(INDEFINITE), 0.1), vector(20, 5), None)  # in the same storage
    assert len({c.step.untyped_storage().data_ptr() for c in first.candidates}) == len(copies)
    for c, kept in zip(first.candidates, copies, strict=True):
        assert torch.equal(c.step, kept)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_invariant_subspace_ends_the_run(dtype):
    A = torch.diag(torch.tensor([2.0, 2.0, -1.0, -1.0, 5.0, 5.0], dtype=dtype))
    operator, g = Dense(A, 0.5), torch.ones(6, dtype=dtype)
    found = SubspaceSolver(6)(operator, g, None)
    assert found.outcome is Outcome.CONVERGED
    assert found.iterations == operator.count == 3
    assert found.negative_curvature
    wanted = -g / (A.diagonal().abs() + 0.5)
    torch.testing.assert_close(found.candidates[2].step, wanted)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_give_what_was_found_before(bad, warm):
    class Breaks(Dense):
        def matvec(self, v):
            product = super().matvec(v)
            return product * bad if self.count > self.good else product

    A, g = symmetric(INDEFINITE), vector(20)
    for good in range(7):
        operator = Breaks(A, 0.3)
        operator.good = good
        found = SubspaceSolver(8)(operator, g, 0.3 * vector(20, 2) if warm else None)
        assert found.outcome is Outcome.NON_FINITE
        assert found.iterations == max(good - warm, 0)
        for c in found.candidates:
            assert torch.isfinite(c.step).all()
            assert float(g @ c.step) < 0
            if c.iteration:
                assert c.value == pytest.approx(model(A, g, c.step, c.damping), rel=1e-9)


def test_an_exception_leaves_the_shift():
    class Raises(Dense):
        def matvec(self, v):
            raise RuntimeError("no second derivative")

    operator = Raises(symmetric(DEFINITE), 0.3)
    with pytest.raises(RuntimeError, match="no second derivative"):
        SubspaceSolver(3)(operator, vector(20), None)
    assert operator.shift == 0.3


@pytest.mark.parametrize("matrix", [torch.zeros(4, 4), -1e-30 * torch.eye(4)], ids=["0", "tiny"])
def test_no_curvature_and_no_damping_give_a_descent_direction_or_none(matrix):
    found = SubspaceSolver(4)(Dense(matrix), torch.ones(4), None)
    for c in found.candidates:
        assert torch.isfinite(c.step).all()
        assert float(c.step.sum()) < 0


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_the_scale_of_gradient_and_curvature_does_not_matter(scale):
    A, g = symmetric(INDEFINITE, dtype=torch.float32), vector(20, dtype=torch.float32)
    plain = SubspaceSolver(6)(Dense(A, 0.3), g, None)
    scaled = SubspaceSolver(6)(Dense(scale * A, scale * 0.3), scale * g, None)
    for a, b in zip(plain.candidates, scaled.candidates, strict=True):
        torch.testing.assert_close(a.step, b.step, rtol=1e-3, atol=1e-3)


def test_small_curvature_beside_large_damping_keeps_its_digits():
    """The basis is built without the shift, in which float32 would drown the matrix."""
    A, g = symmetric(INDEFINITE, dtype=torch.float32), vector(20, dtype=torch.float32)
    solve, operator = SubspaceSolver(20), Dense(A, 1e6)
    solve(operator, g, None)
    operator.shift = 0.3
    check_exact(solve(operator, g, None), A, g, 0.3, tolerance=1e-3)


@pytest.mark.parametrize("stop", [None, 4, FixedIterations(4)], ids=["default", "int", "rule"])
def test_stop_is_the_number_of_products(stop):
    problem = classifier()
    optimizer = kt.HessianFree(
        problem.parameters, curvature="hessian", solver="subspace", stop=stop, damping=0.1
    )
    optimizer.step(problem)
    record = optimizer.last_step
    assert record.iterations == record.products == (10 if stop is None else 4)
    optimizer.step(problem)
    assert optimizer.last_step.products == record.products + 1


@pytest.mark.parametrize(
    "stop", [QuadraticProgress(), FixedIterations(3) | QuadraticProgress(), lambda trace: True]
)
def test_other_rules_are_refused(stop):
    with pytest.raises(ValueError, match="fixed number of products: stop must be an integer"):
        make_solver("subspace", stop, 10)


def test_maxiter_is_a_limit_here_too():
    operator = Dense(symmetric(DEFINITE), 0.1)
    make_solver("subspace", 8, 3)(operator, vector(20), None, None)
    assert operator.count == 3


@pytest.mark.parametrize("name", ["lbfgs", "ritz", "nystrom", "jacobi"])
def test_preconditioners_are_refused(name):
    with pytest.raises(ValueError, match="takes no preconditioner"):
        kt.HessianFree(classifier().parameters, solver="subspace", preconditioner=name)


def test_a_quadratic_is_solved_by_one_step():
    problem = regression()
    start = problem.read()
    newton = start - torch.linalg.solve(problem.hessian(start), problem.gradient(start))
    kt.HessianFree(problem.parameters, solver="subspace", damping=1e-10, stop=50).step(problem)
    torch.testing.assert_close(problem.read(), newton, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_a_step_of_the_optimizer_is_the_dense_one(curvature):
    problem = classifier(1)
    point = problem.read()
    B, g = problem.curvature(curvature, point), problem.gradient(point)
    step = saddle_free(B, g, 0.5 / 9)  # the longest candidate is where the next run starts
    optimizer = kt.HessianFree(
        problem.parameters, curvature=curvature, solver="subspace", damping=0.5, stop=50
    )
    optimizer.step(problem)
    assert optimizer.last_step.accepted
    memory = optimizer.state_dict()["hessian_free"]["memory"]
    torch.testing.assert_close(memory["direction"], step, rtol=1e-6, atol=1e-6)


def test_rho_of_a_scaled_step_is_that_of_the_model_with_its_own_damping():
    problem = regression()
    point = problem.read()
    B, g = problem.hessian(point), problem.gradient(point)
    optimizer = kt.HessianFree(problem.parameters, solver="subspace", damping=0.5, lr=0.5, stop=50)
    before = float(problem()[0].detach())
    optimizer.step(problem)
    step = 0.5 * saddle_free(B, g, 0.5 / 9)
    torch.testing.assert_close(problem.read(), point + step, rtol=1e-7, atol=1e-7)
    wanted = (float(problem()[0].detach()) - before) / model(B, g, step, 0.5 / 9)
    assert optimizer.last_step.rho == pytest.approx(wanted, rel=1e-6)


def test_rejected_steps_are_tried_again_at_no_product():
    """The evaluation sample says that every step is uphill."""
    problem = classifier()
    before = problem.read()

    def closure(batch):
        loss, outputs = problem.closure()
        moved = float((problem.read() - before).abs().max() > 0)
        return (loss + 10 * moved if batch.numel() == 2 else loss), outputs

    optimizer = kt.HessianFree(
        problem.parameters, solver="subspace", stop=6, damping=1e-3, retries=5
    )
    optimizer.step_batches(closure, gradient=[torch.zeros(3)], evaluation=[torch.zeros(2)])
    record = optimizer.last_step
    assert not record.accepted
    assert record.products == 6
    assert record.damping == pytest.approx(1e-3 * 2**5)


def test_it_leaves_a_saddle():
    """From close to (1, 0) the way is along y, where the curvature is negative."""
    w = torch.nn.Parameter(torch.tensor([1.0, 1e-3], dtype=torch.float64))

    def closure():
        return w[0] ** 2 / 2 + w[1] ** 4 / 4 - w[1] ** 2 / 2

    optimizer = kt.HessianFree(
        [w], curvature="hessian", solver="subspace", damping=1e-2, escape=False
    )
    for _ in range(40):
        optimizer.step(closure)
    torch.testing.assert_close(
        w.detach().abs(), torch.tensor([0.0, 1.0]).double(), atol=1e-6, rtol=0
    )


def test_two_optimizers_do_the_same_and_a_restored_one_goes_on_bit_for_bit():
    def make(problem):
        return kt.HessianFree(
            problem.parameters, curvature="hessian", solver="subspace", stop=5, damping=0.1
        )

    first, second, third = classifier(), classifier(), classifier()
    a, b, c = make(first), make(second), make(third)
    for _ in range(3):
        a.step(first)
        b.step(second)
    assert torch.equal(first.read(), second.read())
    c.load_state_dict(a.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(third.parameters, first.parameters, strict=True):
            mine.copy_(theirs)
    a.step(first)
    c.step(third)
    assert torch.equal(first.read(), third.read())
