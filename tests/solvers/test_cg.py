from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg as sla
from cases import (
    DEFINITE,
    dense,
    epsilon,
    exact,
    indefinite,
    poisson,
    residual_norm,
    scaled_spd,
    spd,
    tolerance,
    vector,
    with_spectrum,
)

import krylov
from krylov import Outcome, cg


@pytest.mark.parametrize("case", DEFINITE)
def test_solves(case, dtype):
    A = DEFINITE[case](dtype)
    b, rtol = vector(A.shape[0], dtype), tolerance(dtype)
    res = cg(A, b, rtol=rtol, maxiter=500)
    x, info = res
    assert (info, res.outcome, x.dtype, x.shape) == (0, Outcome.CONVERGED, dtype, b.shape)
    assert residual_norm(A, b, x) < 1.05 * rtol * np.linalg.norm(b)
    assert abs(x - exact(A, b)).max() < 100 * np.linalg.cond(dense(A)) * rtol * abs(x).max()


@pytest.mark.parametrize(
    "form",
    [dense, lambda a: a, sla.aslinearoperator, lambda a: lambda v: a @ v],
    ids=["dense", "csr", "operator", "function"],
)
def test_follows_the_textbook(form, dtype):
    A, iterates, truth = poisson(6, dtype), [], []
    b, x0 = vector(36, dtype), vector(36, dtype, 1)
    cg(form(A), b, x0, rtol=0, maxiter=8, callback=lambda x: iterates.append(x.copy()))
    wide = np.result_type(dtype, np.float64)
    sla.cg(A.astype(wide), b, x0, rtol=0, maxiter=8, callback=lambda x: truth.append(x.copy()))
    np.testing.assert_allclose(iterates, truth, rtol=0, atol=200 * epsilon(dtype))


@pytest.mark.parametrize(
    "form",
    [krylov.JacobiPreconditioner, np.diag, lambda d: lambda r: r / d],
    ids=["jacobi", "matrix", "function"],
)
def test_follows_the_textbook_with_a_preconditioner(form, dtype):
    A, iterates, truth = scaled_spd(dtype), [], []
    b, d = vector(40, dtype), np.diag(A).real.astype(np.float64)
    M = form(1 / d) if form is np.diag else form(d.astype(np.dtype(dtype).type(0).real.dtype))
    cg(A, b, M=M, rtol=0, maxiter=6, callback=lambda x: iterates.append(x.copy()))
    wide = np.result_type(dtype, np.float64)
    sla.cg(
        A.astype(wide),
        b,
        M=np.diag(1 / d),
        rtol=0,
        maxiter=6,
        callback=lambda x: truth.append(x.copy()),
    )
    np.testing.assert_allclose(
        iterates, truth, rtol=0, atol=1000 * epsilon(dtype) * abs(truth[-1]).max()
    )


def test_a_preconditioner_saves_iterations(dtype):
    A, b = scaled_spd(dtype), vector(40, dtype)
    plain, jacobi = (
        cg(A, b, M=M, rtol=1e-4, maxiter=1000)
        for M in (None, krylov.JacobiPreconditioner(np.diag(A)))
    )
    assert jacobi.outcome.ok
    assert jacobi.niter < 0.7 * plain.niter


def test_exact_preconditioner_needs_one_iteration(dtype):
    A, b = spd(dtype, condition=10), vector(40, dtype)
    res = cg(A, b, M=np.linalg.inv(A), rtol=1e-4)
    assert (res.outcome, res.niter) == (Outcome.CONVERGED, 1)


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_as_many_iterations_as_distinct_eigenvalues(distinct):
    A, b = with_spectrum(np.repeat(np.arange(1.0, distinct + 1), 6)), vector(6 * distinct)
    res = cg(A, b, rtol=1e-10)
    assert (res.outcome, res.niter) == (Outcome.CONVERGED, distinct)


# -------------------------------------------------------------------------------------------------
# Negative curvature and the trust radius


def steihaug(A, b, radius, x=None):
    """Steihaug's (1983) path in NumPy: (how it ends, x, direction)."""
    x = np.zeros_like(b) if x is None else x.astype(b.dtype)
    r = b - A @ x
    p = r.copy()
    for _ in range(5 * b.size):
        curvature = np.vdot(p, A @ p).real
        rr, xp, pp = np.vdot(r, r).real, np.vdot(x, p).real, np.vdot(p, p).real
        if curvature <= 0 or np.linalg.norm(x + rr / curvature * p) >= radius:
            tau = (-xp + np.sqrt(xp**2 + pp * (radius**2 - np.vdot(x, x).real))) / pp
            return ("negative" if curvature <= 0 else "radius"), x + tau * p, x, p
        x, r = x + rr / curvature * p, r - rr / curvature * (A @ p)
        if np.linalg.norm(r) < 1e-10 * np.linalg.norm(b):
            return "converged", x, x, p
        p = r + np.vdot(r, r).real / rr * p
    raise AssertionError


@pytest.mark.parametrize("radius", [1e-3, 0.5, 3.0, 1e6])
@pytest.mark.parametrize("make", [spd, indefinite])
def test_boundary_follows_steihaugs_path(make, radius, dtype):
    A = make(dtype)
    b = vector(A.shape[0], dtype)
    wide = np.result_type(dtype, np.float64)
    end, truth, _, _ = steihaug(A.astype(wide), b.astype(wide), radius)
    res = cg(A, b, radius=radius, curvature="boundary", rtol=tolerance(dtype), maxiter=500)
    assert res.outcome is (Outcome.CONVERGED if end == "converged" else Outcome.TRUST_RADIUS)
    assert res.outcome.ok
    eps = epsilon(dtype)
    if end != "converged":
        assert np.linalg.norm(res.x) == pytest.approx(radius, rel=20 * eps)
        assert np.linalg.norm(res.x - truth) <= 1e4 * eps * radius
    phi = (0.5 * np.vdot(res.x, A @ res.x) - np.vdot(b, res.x)).real
    assert res.quadratic_values[-1] == pytest.approx(phi, rel=1e4 * eps, abs=1e4 * eps)
    assert res.curvature == pytest.approx(
        np.vdot(res.x, A @ res.x).real, rel=1e4 * eps, abs=1e4 * eps * radius
    )
    assert (res.direction_curvature < 0) == (end == "negative")


@pytest.mark.parametrize("scale", [1e-90, 1e-60, 1e60, 1e90])
def test_radius_at_any_scale(scale):
    A, b = indefinite(float), vector(30)
    for radius in (1e-2, 2.0):
        res = cg(A, b * scale, radius=radius * scale, curvature="boundary")
        expected = cg(A, b, radius=radius, curvature="boundary")
        assert res.outcome is expected.outcome is Outcome.TRUST_RADIUS
        np.testing.assert_allclose(res.x / scale, expected.x, rtol=1e-9, atol=1e-12)


def test_radius_with_a_start_inside():
    A, b, x0 = indefinite(float), vector(30), vector(30, seed=9) / 20
    _, truth, _, _ = steihaug(A, b, 2.0, x0)
    res = cg(A, b, x0, radius=2.0, curvature="boundary")
    np.testing.assert_allclose(res.x, truth, atol=1e-10)


def test_stop_returns_the_direction_and_the_iterate_before_it(dtype):
    A, b = indefinite(dtype), vector(30, dtype)
    wide = np.result_type(dtype, np.float64)
    end, _, x, p = steihaug(A.astype(wide), b.astype(wide), np.inf)
    res = cg(A, b, curvature="stop")
    assert (end, res.outcome) == ("negative", Outcome.NEGATIVE_CURVATURE)
    assert not res.outcome.ok
    assert res.info > 0
    eps = 1e4 * epsilon(dtype)
    np.testing.assert_allclose(res.x, x, atol=eps)
    np.testing.assert_allclose(res.direction, p / np.linalg.norm(p), atol=eps)
    assert np.linalg.norm(res.direction) == pytest.approx(1, abs=eps)
    assert np.vdot(res.direction, A @ res.direction).real == pytest.approx(
        res.direction_curvature, abs=eps
    )
    assert res.direction_curvature < 0


def test_negative_curvature_at_once():
    b = vector(5)
    res = cg(-np.eye(5), b, curvature="stop")
    assert (res.outcome, res.niter) == (Outcome.NEGATIVE_CURVATURE, 0)
    assert not res.x.any()
    assert abs(np.vdot(res.direction, b)) == pytest.approx(np.linalg.norm(b))
    assert res.direction_curvature == pytest.approx(-1)


def test_ignored_negative_curvature_is_named(dtype):
    A, b = indefinite(dtype), vector(30, dtype)
    res = cg(A, b, rtol=1e-3, maxiter=200)
    assert res.outcome is Outcome.CONVERGED_INDEFINITE
    assert res.info == 0
    assert res.direction_curvature < 0
    assert residual_norm(A, b, res.x) < 1.1e-3 * np.linalg.norm(b)


def test_the_best_iterate_is_returned_after_negative_curvature():
    A, b, norms = indefinite(float), vector(30), []
    res = cg(A, b, rtol=0, maxiter=5, callback=lambda x: norms.append(np.linalg.norm(b - A @ x)))
    assert residual_norm(A, b, res.x) == pytest.approx(min([*norms, np.linalg.norm(b)]))
    assert res.true_residual_norm == pytest.approx(residual_norm(A, b, res.x))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_curvature_test_is_relative(scale):
    A, b = indefinite(float) * scale, vector(30)
    assert cg(A, b, curvature="stop").niter == cg(indefinite(float), b, curvature="stop").niter
    assert cg(spd(float) * scale, vector(40), curvature="stop").outcome is Outcome.CONVERGED


def test_singular_but_consistent_system_converges():
    A = with_spectrum([0.0, 0.0, *np.linspace(1, 2, 20)])
    b = A @ vector(22)
    res = cg(A, b, rtol=1e-8, curvature="stop")
    assert res.outcome is Outcome.CONVERGED


def test_null_vector_is_a_direction_of_no_curvature():
    A = with_spectrum([0.0, *np.linspace(1, 2, 20)])
    res = cg(A, vector(21), curvature="stop", rtol=1e-12)
    assert res.outcome is Outcome.NEGATIVE_CURVATURE
    assert np.linalg.norm(A @ res.direction) < 1e-6


def test_indefinite_preconditioner_is_named(dtype):
    A, b = spd(dtype), vector(40, dtype)
    M = -np.eye(40, dtype=dtype)
    assert cg(A, b, M=M, curvature="stop").outcome is Outcome.INDEFINITE_PRECONDITIONER
    assert cg(A, b, M=M, rtol=1e-3).outcome is Outcome.CONVERGED_INDEFINITE


# -------------------------------------------------------------------------------------------------
# What a run leaves behind


@pytest.mark.parametrize("M", [None, "jacobi", "general"])
def test_quadratic_values_curvature_and_candidates(M, dtype):
    A, b, x0 = spd(dtype), vector(40, dtype), vector(40, dtype, 3)
    M = {
        "jacobi": krylov.JacobiPreconditioner(np.diag(A)),
        "general": np.linalg.inv(A + np.eye(40, dtype=dtype)),
    }.get(M)
    res = cg(A, b, x0, M=M, rtol=1e-4, candidates="all")
    assert [c[0] for c in res.candidates] == list(range(1, res.niter + 1))
    assert len(res.residual_norms) == len(res.quadratic_values) == res.niter + 1
    eps = 1e4 * epsilon(dtype)
    for k, x, value, curvature in res.candidates:
        assert curvature == pytest.approx(np.vdot(x, A @ x).real, rel=eps, abs=eps)
        assert value == pytest.approx(
            (0.5 * np.vdot(x, A @ x) - np.vdot(b, x)).real, rel=eps, abs=eps
        )
        assert value == res.quadratic_values[k]
        assert res.residual_norms[k] == pytest.approx(np.linalg.norm(b - A @ x), rel=eps, abs=eps)
    assert (np.diff(res.quadratic_values) < eps).all()
    assert res.curvature == pytest.approx(np.vdot(res.x, A @ res.x).real, rel=eps)
    assert np.array_equal(res.candidates[-1][1], res.x)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("all", range(1, 13)),
        ("geometric", [1, 2, 3, 4, 5, 7, 9, 11, 12]),
        ([5, 2], [2, 5, 12]),
        ([], [12]),
    ],
)
def test_which_candidates_are_kept(wanted, kept):
    res = cg(spd(float), vector(40), rtol=0, maxiter=12, candidates=wanted)
    assert [c[0] for c in res.candidates] == list(kept)


def test_candidates_are_truthful_about_the_best_iterate():
    A, b = indefinite(float), vector(30)
    for maxiter in range(1, 12):
        for _, x, value, curvature in cg(
            A, b, rtol=0, maxiter=maxiter, candidates="all"
        ).candidates:
            assert curvature == pytest.approx(x @ A @ x, abs=1e-8)
            assert value == pytest.approx(0.5 * x @ A @ x - b @ x, abs=1e-8)


@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
def test_ritz_values_are_eigenvalues(solver, dtype):
    spectrum = [1.0, 2.0, 4.0, 7.0, 11.0]
    A, b = with_spectrum(np.repeat(spectrum, 8), dtype), vector(40, dtype)
    res = solver(A, b, rtol=1e-5)
    np.testing.assert_allclose(res.ritz_values(), spectrum, rtol=1e4 * epsilon(dtype))


@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
def test_ritz_values_of_a_preconditioned_run(solver):
    A, b = scaled_spd(float, 12), vector(12)
    d = np.diag(A)
    for M in (krylov.JacobiPreconditioner(d), np.diag(1 / d)):
        ritz = solver(A, b, M=M, rtol=1e-11).ritz_values()
        np.testing.assert_allclose(ritz, np.linalg.eigvalsh(A / np.sqrt(np.outer(d, d))), rtol=1e-5)


def test_ritz_values_of_a_truncated_run_lie_inside_the_spectrum(dtype):
    A, b = spd(dtype), vector(40, dtype)
    res = cg(A, b, rtol=0, maxiter=7)
    eigenvalues = np.linalg.eigvalsh(A)
    ritz, slack = res.ritz_values(), 1e3 * epsilon(dtype)
    assert ritz.size == 7
    assert eigenvalues[0] - slack <= ritz[0] <= ritz[-1] <= eigenvalues[-1] + slack


def test_mb_starts_from_the_preconditioned_right_hand_side(dtype):
    A, b = spd(dtype), vector(40, dtype)
    d = np.linspace(1, 2, 40).astype(dtype)
    for M in (krylov.JacobiPreconditioner(d), np.diag(1 / d), lambda r: r / d):
        first, second = (
            cg(A, b, "Mb", M=M, maxiter=3, rtol=0),
            cg(A, b, b / d, M=M, maxiter=3, rtol=0),
        )
        np.testing.assert_allclose(first.x, second.x, rtol=0, atol=1e3 * epsilon(dtype))
