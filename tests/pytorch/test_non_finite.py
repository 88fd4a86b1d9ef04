"""A curvature that is not finite, where loss and gradient are, is told and changes nothing."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import krylov.torch as kt
from krylov.outcome import Outcome
from krylov.torch.optim.solvers.directions import Candidate, Directions

OPTIMIZERS = {
    "hf-cg": (kt.HessianFree, {"solver": "cg", "curvature": "hessian"}),
    "hf-flexible": (kt.HessianFree, {"curvature": "hessian"}),
    "hf-hybrid": (kt.HessianFree, {"curvature": "hybrid", "solver": "cg"}),
    "hf-bicgstab": (kt.HessianFree, {"solver": "bicgstab", "curvature": "hessian"}),
    "hf-subspace": (kt.HessianFree, {"solver": "subspace", "curvature": "hessian"}),
    "hf-lbfgs": (kt.HessianFree, {"curvature": "hessian", "preconditioner": "lbfgs"}),
    "hf-ritz": (kt.HessianFree, {"curvature": "hessian", "preconditioner": "ritz"}),
    "hf-fisher": (kt.HessianFree, {"curvature": "hessian", "preconditioner": "jacobi"}),
    "newton": (kt.NewtonCG, {}),
    "newton-flexible": (kt.NewtonCG, {"solver": "flexible_cg", "preconditioner": "ritz"}),
    "newton-bicgstab": (kt.NewtonCG, {"solver": "bicgstab"}),
    "newton-subspace": (kt.NewtonCG, {"solver": "subspace"}),
    "newton-judged": (kt.NewtonCG, {"damping": kt.LevenbergMarquardt(1.0)}),
}


def weights():
    return torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)


def cusp(w):
    """At the third entry's zero the gradient is finite, and the second derivative is not."""
    return w.square().sum() + 0.5 * w.abs().pow(1.5).sum() + w[:2].pow(4).sum()


def smooth(w):
    return w.square().sum() + w.pow(4).sum()


def picture(optimizer):
    own = {k: v for k, v in optimizer.state_dict().items() if k not in ("state", "param_groups")}
    (state,) = own.values()
    return str(state["memory"]), optimizer.last_step


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_product_that_is_not_finite_is_named(name, warm):
    kind, options = OPTIMIZERS[name]
    w = weights()
    optimizer = kind([w], **options, warm_start=0.9)
    if warm:
        optimizer.step(lambda: (smooth(w), w))
        with torch.no_grad():
            w[2] = 0
    before, state = w.tolist(), picture(optimizer)
    with pytest.raises(
        FloatingPointError, match="gradient are finite, but a product with the Hess"
    ):
        optimizer.step(lambda: (cusp(w), w))
    assert w.tolist() == before
    assert picture(optimizer) == state
    # Neither has anything been learnt that later steps would suffer from.
    for _ in range(3):
        optimizer.step(lambda: (smooth(w), w))
        assert optimizer.last_step.accepted
        assert optimizer.last_step.iterations > 0


@pytest.mark.parametrize("solver", ["flexible_cg", "subspace", "dense"])
def test_so_is_one_with_the_gauss_newton_matrix(solver):
    w = weights()

    def closure():
        """The outputs' own Hessian is infinite at zero."""
        outputs = 1.0 * w
        return cusp(outputs), outputs

    optimizer = kt.HessianFree([w], solver=solver, damping=1.0)
    before = w.tolist()
    with pytest.raises(FloatingPointError, match="product with the Gauss-Newton matrix is not"):
        optimizer.step(closure)
    assert w.tolist() == before
    assert optimizer.damping == 1
    assert optimizer.last_step is None


def broken(operator, gradient, *_):
    return Directions([Candidate(0, -gradient, math.nan)], Outcome.NON_FINITE, 0, False)


@pytest.mark.parametrize("kind", [kt.HessianFree, kt.NewtonCG])
def test_a_run_that_overflows_by_itself_is_told_too(kind):
    w = weights()
    optimizer = kind([w], curvature="hessian")
    object.__setattr__(optimizer._method, "solve", broken)
    with pytest.raises(FloatingPointError, match="the run of the solver overflows"):
        optimizer.step(lambda: smooth(w))


@pytest.mark.parametrize("kind", [kt.HessianFree, kt.NewtonCG])
def test_a_start_from_which_the_run_overflows_is_given_up(kind):
    w = weights()
    optimizer = kind([w], curvature="hessian", warm_start=0.9)
    optimizer.step(lambda: smooth(w))
    own, starts = optimizer._method.solve, []

    def solve(operator, gradient, start, M):
        starts.append(start is not None)
        return (broken if start is not None else own)(operator, gradient, start, M)

    object.__setattr__(optimizer._method, "solve", solve)
    optimizer.step(lambda: smooth(w))
    assert starts == [True, False]
    assert optimizer.last_step.accepted
