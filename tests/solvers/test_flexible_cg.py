from __future__ import annotations

import numpy as np
import pytest
from cases import (
    DEFINITE,
    epsilon,
    indefinite,
    poisson,
    residual_norm,
    scaled_spd,
    spd,
    tolerance,
    vector,
)

import krylov
from krylov import Outcome, cg, flexible_cg


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
@pytest.mark.parametrize("case", DEFINITE)
def test_solves(case, M, dtype):
    A = DEFINITE[case](dtype)
    b, rtol = vector(A.shape[0], dtype), tolerance(dtype)
    d = np.asarray(A.diagonal())
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": lambda r: r / d}.get(M)
    res = flexible_cg(A, b, M=M, rtol=rtol, maxiter=500)
    assert res.outcome is Outcome.CONVERGED
    assert residual_norm(A, b, res.x) < 1.05 * rtol * np.linalg.norm(b)


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_with_a_fixed_preconditioner_it_is_cg(M, dtype):
    A, b = spd(dtype, condition=20), vector(40, dtype)
    d = np.linspace(1, 3, 40).astype(dtype)
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": np.diag(1 / d)}.get(M)
    first, second = (
        solver(A, b, M=M, rtol=0, maxiter=10, candidates="all") for solver in (cg, flexible_cg)
    )
    for one, other in zip(first.candidates, second.candidates, strict=True):
        np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e3 * epsilon(dtype))


def polak_ribiere(A, b, preconditioners):
    """The textbook in NumPy; one preconditioner an iteration."""
    x, r = np.zeros_like(b), b.copy()
    p = z = preconditioners[0](r)
    for M in preconditioners[1:]:
        v, rz = A @ p, np.vdot(r, z)
        alpha = rz / np.vdot(p, v)
        x, old, r = x + alpha * p, r, r - alpha * v
        z = M(r)
        p = z + np.vdot(r - old, z) / rz * p
        yield x


def test_follows_the_textbook_with_a_changing_preconditioner(dtype):
    wide = np.result_type(dtype, np.float64)
    A, b = spd(dtype, condition=20), vector(40, dtype)
    diagonals = [np.random.default_rng(k).uniform(0.5, 2, 40).astype(dtype) for k in range(9)]
    truth = list(
        polak_ribiere(A.astype(wide), b.astype(wide), [lambda r, d=d: d * r for d in diagonals])
    )
    remaining = iter([*diagonals, *diagonals])
    res = flexible_cg(A, b, M=lambda r: next(remaining) * r, rtol=0, maxiter=8, candidates="all")
    for (_, x, _, _), expected in zip(res.candidates, truth, strict=True):
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e3 * epsilon(dtype))


def test_an_inner_solve_as_preconditioner():
    A, b = poisson(16), vector(256)
    res = flexible_cg(A, b, M=lambda r: cg(A, r, rtol=0.1).x, rtol=1e-8, maxiter=40)
    assert res.outcome is Outcome.CONVERGED
    assert res.niter < 15


def test_a_changing_preconditioner_hurts_plain_cg_more():
    A, b = scaled_spd(float), vector(40)
    results = []
    for solver in (cg, flexible_cg):
        rng = np.random.default_rng(0)
        M = lambda r, rng=rng: r / np.diag(A) * rng.uniform(0.6, 1.6, 40)  # noqa: E731
        results.append(solver(A, b, M=M, rtol=1e-8, maxiter=2000).niter)
    assert results[1] < 0.8 * results[0]


def test_operator_and_preconditioner_may_share_their_buffer(dtype):
    A, b = spd(dtype, condition=20), vector(40, dtype)
    d, buffer = np.linspace(1, 3, 40).astype(dtype), np.empty(40, dtype)
    shared = flexible_cg(
        lambda v: np.matmul(A, v, out=buffer),
        b,
        M=lambda r: np.multiply(r, d, out=buffer),
        rtol=1e-4,
    )
    alone = flexible_cg(lambda v: A @ v, b, M=lambda r: r * d, rtol=1e-4)
    assert shared.niter == alone.niter
    assert np.array_equal(shared.x, alone.x)


def test_identity_that_returns_its_input(dtype):
    A, b = spd(dtype, condition=20), vector(40, dtype)
    first, second = (flexible_cg(A, b, M=M, rtol=0, maxiter=9) for M in (lambda r: r, None))
    np.testing.assert_allclose(first.x, second.x, rtol=0, atol=1e3 * epsilon(dtype))
    np.testing.assert_allclose(flexible_cg(lambda v: v, b).x, b, rtol=1e-5)


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_trust_radius_and_curvature(M, dtype):
    A, b = indefinite(dtype), vector(30, dtype)
    d = np.linspace(1, 2, 30).astype(dtype)
    M = {"jacobi": krylov.JacobiPreconditioner(d), "general": lambda r: r / d}.get(M)
    res = flexible_cg(A, b, M=M, curvature="stop")
    assert res.outcome is Outcome.NEGATIVE_CURVATURE
    assert np.vdot(res.direction, A @ res.direction).real < 0
    res = flexible_cg(A, b, M=M, curvature="boundary", radius=2.0)
    assert res.outcome is Outcome.TRUST_RADIUS
    assert np.linalg.norm(res.x) == pytest.approx(2, rel=20 * epsilon(dtype))
