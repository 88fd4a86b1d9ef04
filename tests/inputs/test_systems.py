"""Systems that a method is not made for: not finite, indefinite, singular, inconsistent; and bad preconditioners."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from inputs.common import (
    DTYPES,
    METHODS,
    assert_truthful,
    norm,
    random,
    residual_norm,
    rounding,
    with_spectrum,
)

import krylov

N = 12
Outcome = krylov.Outcome
methods = pytest.mark.parametrize("method", METHODS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
# A dense product with NaN or infinity is NumPy's to warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered in:RuntimeWarning"
)

FORMS = {
    "dense": lambda A: A,
    "sparse": sp.csr_array,
    "callable": lambda A: lambda v: A @ v,
}


def system(eigenvalues, dtype="f8"):
    return with_spectrum(np.asarray(eigenvalues, float), dtype), random(
        len(eigenvalues), dtype=dtype, seed=4
    )


# -------------------------------------------------------------------------------------------------
# NaN and infinity


@methods
@dtypes
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_matrix_with_an_entry_that_is_not_finite(method, dtype, form, value, everywhere):
    A, b = system(np.linspace(1, 2, N), dtype)
    if everywhere:
        A[:] = value
    else:
        A[3, 5] = value
    for x0 in (None, random(N, dtype=dtype)):
        result = METHODS[method](FORMS[form](A), b, x0)
        assert result.outcome is Outcome.NON_FINITE
        assert result.info != 0
        assert np.isfinite(result.x).all()


@methods
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_operator_that_fails_late(method, value):
    """NaN in the fourth product: x is the iterate before it."""
    A, b = system(np.geomspace(1e-4, 1, N))
    calls = []

    def multiply(v):
        calls.append(None)
        return A @ v if len(calls) != 8 else np.full(N, value)

    options = {"scale": 1.0} if method == "neumann" else {}
    result = METHODS[method](multiply, b, rtol=1e-12, **options)
    assert result.outcome is Outcome.NON_FINITE
    assert np.isfinite(result.x).all()
    assert residual_norm(A, b, result.x) < 10 * norm(b)
    assert len(result.residual_norms) == result.niter + 1


@methods
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_preconditioner_that_is_not_finite(method, form, value):
    A, b = system(np.linspace(1, 2, N))
    M = np.eye(N)
    M[2, 2] = value
    for x0 in (None, "Mb"):
        try:
            result = METHODS[method](A, b, x0, M=FORMS[form](M))
        except ValueError as error:
            assert "M" in str(error)  # noqa: PT017
            assert "finite" in str(error)  # noqa: PT017
        else:
            assert result.outcome is Outcome.NON_FINITE
            assert np.isfinite(result.x).all()


@methods
def test_preconditioner_that_fails_late(method):
    A, b = system(np.geomspace(1e-4, 1, N))
    calls = []

    def apply(v):
        calls.append(None)
        return v.copy() if len(calls) != 6 else np.full(N, np.nan)

    options = {"scale": 1.0} if method == "neumann" else {}
    result = METHODS[method](A, b, M=apply, rtol=1e-12, **options)
    assert result.outcome is Outcome.NON_FINITE
    assert np.isfinite(result.x).all()


# -------------------------------------------------------------------------------------------------
# Not positive definite, singular


SPECTRA = {
    "indefinite": np.r_[-np.linspace(1, 2, 3), np.linspace(1, 2, N - 3)],
    "one negative": np.r_[-1.0, np.linspace(1, 2, N - 1)],
    "symmetric about zero": np.r_[-np.linspace(1, 2, N // 2), np.linspace(1, 2, N // 2)],
    "negative definite": -np.linspace(1, 2, N),
    "tiny negative": np.r_[-1e-3, np.linspace(1, 2, N - 1)],
    "singular": np.r_[np.zeros(3), np.linspace(1, 2, N - 3)],
    "rank one": np.r_[np.zeros(N - 1), 1.0],
    "zero": np.zeros(N),
    "singular and indefinite": np.r_[0.0, -1.0, np.linspace(1, 2, N - 2)],
}


@methods
@dtypes
@pytest.mark.parametrize("case", SPECTRA)
@pytest.mark.parametrize("consistent", [True, False])
def test_hermitian_systems(method, dtype, case, consistent):
    A, b = system(SPECTRA[case], dtype)
    if consistent:
        b = A @ b
    result = METHODS[method](A, b, maxiter=300)
    assert_truthful(A, b, result)
    if result.outcome.ok:
        if method in ("cg", "flexible_cg") and np.min(SPECTRA[case]) < 0:
            assert result.outcome is Outcome.CONVERGED_INDEFINITE
    elif method in ("bicgstab", "neumann"):
        assert residual_norm(A, b, result.x) <= norm(b) * (1 + 1e-3)
    if method in ("cg", "flexible_cg") and case == "negative definite":
        assert result.outcome is Outcome.CONVERGED_INDEFINITE
        assert result.info == 0
    if consistent and method == "cg" and case in ("singular", "rank one"):
        assert result.outcome is Outcome.CONVERGED
    if not consistent and "singular" in case:
        assert not result.outcome.ok


@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
@dtypes
@pytest.mark.parametrize(
    "case", [c for c in SPECTRA if "negative" in c or "indefinite" in c or "about" in c]
)
def test_negative_curvature_ends_the_run(method, dtype, case):
    A, b = system(SPECTRA[case], dtype)
    for M in (None, krylov.JacobiPreconditioner(np.full(N, 3.0)), lambda v: v / 3):
        result = METHODS[method](A, b, M=M, rtol=1e-7, curvature="stop")
        assert_truthful(A, b, result, rtol=1e-7)
        if residual_norm(A, b, result.x) > 1e-6 * norm(b):
            assert result.outcome in (Outcome.NEGATIVE_CURVATURE, Outcome.STAGNATION)
        if result.outcome is Outcome.NEGATIVE_CURVATURE:
            p = result.direction
            assert norm(p) == pytest.approx(1, rel=1e-4)
            assert np.vdot(p, A @ p).real == pytest.approx(
                result.direction_curvature, rel=1e-2, abs=1e-5
            )
            assert result.direction_curvature < 1e-6
        bounded = METHODS[method](A, b, M=M, rtol=1e-7, curvature="boundary", radius=100.0)
        assert bounded.outcome in (Outcome.TRUST_RADIUS, Outcome.CONVERGED, Outcome.STAGNATION)
        assert_truthful(A, b, bounded, rtol=1e-7)
        if bounded.outcome is Outcome.TRUST_RADIUS:
            assert float(norm(bounded.x)) == pytest.approx(100, rel=1e-4)


NONSYMMETRIC = {
    "rotation": np.kron(np.eye(N // 2), np.array([[0.0, 1.0], [-1.0, 0.0]])),
    "shift": np.roll(np.eye(N), 1, axis=0),
    "nilpotent": np.diag(np.ones(N - 1), 1),
    "Jordan block": np.eye(N) + np.diag(np.ones(N - 1), 1),
    "upper triangular": np.triu(random(N, N)) + 3 * np.eye(N),
    "random": random(N, N),
    "swap": np.fliplr(np.eye(N)),
    "one row": np.outer(np.r_[1.0, np.zeros(N - 1)], random(N)),
    "ones": np.ones((N, N)),
    "Hilbert": 1 / (np.arange(N)[:, None] + np.arange(N) + 1.0),
}


@methods
@dtypes
@pytest.mark.parametrize("case", NONSYMMETRIC)
def test_nonsymmetric_systems(method, dtype, case):
    A = NONSYMMETRIC[case].astype(dtype)
    for b in (
        random(N, dtype=dtype, seed=4),
        A @ random(N, dtype=dtype, seed=4),
        np.eye(N, dtype=dtype)[0],
    ):
        for options in ({}, {"rtol": 1e-12}, {"x0": random(N, dtype=dtype)}):
            result = METHODS[method](A, b, maxiter=200, **options)
            assert_truthful(A, b, result, rtol=options.get("rtol", 1e-5))
            assert result.outcome is not Outcome.NON_FINITE
            if method in ("bicgstab", "neumann") and not result.outcome.ok:
                start = options.get("x0", np.zeros(N, dtype))
                slack = rounding(A, b, result.x)
                assert (
                    residual_norm(A, b, result.x) <= residual_norm(A, b, start) * (1 + 1e-3) + slack
                )


@dtypes
@pytest.mark.parametrize(
    "case", ["rotation", "shift", "swap", "random", "upper triangular", "Jordan block"]
)
def test_bicgstab_restarts_past_its_breakdowns(dtype, case):
    A = NONSYMMETRIC[case].astype(dtype)
    b = A @ random(N, dtype=dtype, seed=4)
    result = krylov.bicgstab(A, b, curvature="track", max_restarts=20, maxiter=400)
    assert_truthful(A, b, result)
    assert result.outcome.ok or result.outcome in (Outcome.BREAKDOWN, Outcome.STAGNATION)


# -------------------------------------------------------------------------------------------------
# Bad preconditioners of a good system

DIAGONALS = {
    "negative": -np.ones(N),
    "indefinite": np.r_[-1.0, np.ones(N - 1)],
    "singular": np.r_[0.0, np.ones(N - 1)],
    "zero": np.zeros(N),
    "huge": np.full(N, 1e12),
    "tiny": np.full(N, 1e-12),
    "badly scaled": np.geomspace(1e-8, 1e8, N),
}


@methods
@dtypes
@pytest.mark.parametrize("case", DIAGONALS)
@pytest.mark.parametrize("form", [*FORMS, "diagonal"])
def test_bad_preconditioners(method, dtype, case, form):
    A, b = system(np.linspace(1, 2, N), dtype)
    d = DIAGONALS[case].astype(A.real.dtype)
    if form == "diagonal":
        if not d.all():
            return
        M = krylov.JacobiPreconditioner(1 / d)
    else:
        M = FORMS[form](np.diag(d).astype(dtype))
    result = METHODS[method](A, b, M=M, maxiter=100)
    assert_truthful(A, b, result)
    assert result.outcome is not Outcome.NON_FINITE
    if method in ("cg", "flexible_cg"):
        if np.min(d) < 0:
            assert result.outcome.name in (
                "CONVERGED_INDEFINITE",
                "INDEFINITE_PRECONDITIONER",
                "ITERATION_LIMIT",
            )
            stopped = METHODS[method](A, b, M=M, maxiter=100, curvature="stop")
            assert_truthful(A, b, stopped)
            assert stopped.outcome is Outcome.INDEFINITE_PRECONDITIONER
        elif case in ("huge", "tiny"):
            assert result.outcome is Outcome.CONVERGED
        elif case == "zero":
            assert result.outcome is Outcome.INDEFINITE_PRECONDITIONER
    if not result.outcome.ok and method == "bicgstab":
        assert residual_norm(A, b, result.x) <= norm(b) * (1 + 1e-3)


@methods
def test_preconditioner_that_is_not_symmetric(method):
    A, b = system(np.linspace(1, 2, N))
    for M in (
        np.triu(random(N, N)),
        NONSYMMETRIC["shift"],
        NONSYMMETRIC["nilpotent"],
        random(N, N),
    ):
        result = METHODS[method](A, b, M=M, maxiter=100)
        assert_truthful(A, b, result)
        assert result.outcome is not Outcome.NON_FINITE


@methods
def test_preconditioner_that_changes_at_random(method):
    A, b = system(np.geomspace(0.1, 1, N))
    rng = np.random.default_rng(0)
    result = METHODS[method](A, b, M=lambda v: v * rng.uniform(0.5, 1.5, N), maxiter=300)
    assert_truthful(A, b, result)
    if method == "flexible_cg":
        assert result.outcome is Outcome.CONVERGED


@methods
@dtypes
def test_tolerance_that_cannot_be_met(method, dtype):
    """Zero and unreachable tolerances end, with the attainable accuracy, and do not claim more than was reached."""
    A, b = system(np.geomspace(1e-3, 1, N), dtype)
    for options in ({"rtol": 0.0}, {"rtol": 1e-30}, {"rtol": 0.0, "atol": 1e-300}):
        result = METHODS[method](A, b, maxiter=20000, **options)
        assert_truthful(A, b, result, rtol=options["rtol"])
        exact = residual_norm(A, b, result.x) == 0
        assert exact or result.outcome in (
            Outcome.STAGNATION,
            Outcome.ITERATION_LIMIT,
            Outcome.BREAKDOWN,
        )
        if method != "neumann":  # which would need more iterations
            attainable = np.finfo(dtype).eps * norm(b) * 1e3  # eps |A| |x|
            assert residual_norm(A, b, result.x) < attainable * (1e3 if method == "bicgstab" else N)


@methods
@dtypes
def test_start_that_is_the_solution(method, dtype):
    A, _ = system(np.linspace(1, 2, N), dtype)
    x = random(N, dtype=dtype)
    for options in (
        {},
        {"rtol": 0.0, "maxiter": 50},
        {"M": krylov.JacobiPreconditioner(np.ones(N))},
    ):
        result = METHODS[method](A, A @ x, x, **options)
        assert_truthful(A, A @ x, result, options.get("rtol", 1e-5))
        assert residual_norm(A, A @ x, result.x) <= 100 * np.finfo(dtype).eps * norm(A @ x)
        if not options:
            assert (result.niter, result.outcome) == (0, Outcome.CONVERGED)
    identity = METHODS[method](np.eye(N, dtype=dtype), x, x, rtol=0.0)
    assert identity.outcome is Outcome.CONVERGED
    np.testing.assert_array_equal(identity.x, x)
