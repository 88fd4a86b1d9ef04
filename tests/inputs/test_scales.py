"""Huge and tiny numbers: every scale that the dtype can hold is solved like scale one, or refused in honest words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from inputs.common import METHODS, assert_truthful, norm, random, residual_norm, spd, wide

import krylov

# A dense product that overflows is NumPy's to warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered in (dot|matmul|multiply)"
)
N = 8
TRUTHFUL_FAILURES = {
    krylov.Outcome.NON_FINITE,
    krylov.Outcome.BREAKDOWN,
    krylov.Outcome.STAGNATION,
    krylov.Outcome.ITERATION_LIMIT,
    krylov.Outcome.INDEFINITE_PRECONDITIONER,
    krylov.Outcome.DIVERGENCE,
}
RANGES = {"f8": (1e-300, 1e-160, 1.0, 1e160, 1e300), "f4": (1e-30, 1.0, 1e30)}
RANGES |= {"c16": RANGES["f8"], "c8": RANGES["f4"]}
FORMS = {
    "dense": lambda A: A,
    "sparse": sp.csr_array,
    "callable": lambda A: lambda v: A @ v,
}


def system(dtype, scale, nonsymmetric=False):
    A = spd(N, dtype, condition=20.0)
    if nonsymmetric:
        A = A + np.triu(random(N, N, dtype=dtype, seed=5), 1) * 0.05
    return (A * A.dtype.type(scale)).astype(dtype)


def representable(dtype, *values):
    info = np.finfo(dtype)
    return all(
        float(info.smallest_normal) * 1e3 < abs(value) < float(info.max) * 1e-3 for value in values
    )


def preconditioner(kind, A):
    if kind == "none":
        return None
    diagonal = np.diagonal(A).copy()
    if kind == "jacobi":
        return krylov.JacobiPreconditioner(diagonal)
    inverse = 1 / diagonal
    return lambda v: inverse * v


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["none", "jacobi", "callable M"])
@pytest.mark.parametrize("dtype", RANGES)
def test_scales(method, kind, dtype):
    wrong = []
    for a, b_scale in itertools.product(RANGES[dtype], RANGES[dtype]):
        for form, make in FORMS.items():
            A = system(dtype, a, method == "bicgstab")
            b = (random(N, dtype=dtype, seed=2) * A.real.dtype.type(b_scale)).astype(dtype)
            M = preconditioner(kind, A)
            result = METHODS[method](make(A), b, rtol=1e-4, M=M, maxiter=1000)
            try:
                check_scaled(method, A, b, result, a, b_scale, kind)
            except AssertionError as error:
                wrong.append((form, a, b_scale, result, str(error).split("\n")[0]))
    assert not wrong, "\n".join(map(str, wrong))


def check_scaled(method, A, b, result, a, b_scale, kind):
    assert_truthful(A, b, result, rtol=1e-4)
    x_scale = b_scale / a if 1e-320 < b_scale / a < 1e307 else 0.0
    needed = (x_scale,) if kind == "none" else (x_scale, 1 / a)
    if representable(A.real.dtype, *needed):
        assert result.outcome is krylov.Outcome.CONVERGED
        assert residual_norm(A, b, result.x) < 1.1e-4 * norm(b)
        assert result.niter <= (2 * N if method != "neumann" else 1000)
    else:
        assert result.outcome.ok or result.outcome in TRUTHFUL_FAILURES
    assert result.residual_norms[0] == pytest.approx(float(norm(b)), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "scale"), [(d, s) for d, r in RANGES.items() for s in r])
def test_scale_of_the_system_changes_no_iterate(method, dtype, scale):
    """c A x = c b has the same solution, found in the same number of iterations."""
    A = system(dtype, 1.0, method == "bicgstab")
    b = random(N, dtype=dtype, seed=2)
    power = A.real.dtype.type(2.0 ** np.round(np.log2(scale)))
    expected = METHODS[method](A, b, maxiter=1000)
    result = METHODS[method]((A * power).astype(dtype), (b * power).astype(dtype), maxiter=1000)
    assert result.outcome is krylov.Outcome.CONVERGED
    assert abs(result.niter - expected.niter) <= 1
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "scale"), [(d, s) for d, r in RANGES.items() for s in r])
def test_scales_of_the_start(method, dtype, scale):
    """A start of any size: solved, or given up in honest words with an x that is not worse."""
    A, b = system(dtype, 1.0), random(N, dtype=dtype, seed=2)
    x0 = (random(N, dtype=dtype, seed=3) * A.real.dtype.type(scale)).astype(dtype)
    result = METHODS[method](A, b, x0, maxiter=2000)
    assert_truthful(A, b, result)
    if scale <= 1:
        assert result.outcome is krylov.Outcome.CONVERGED
    assert residual_norm(A, b, result.x) <= residual_norm(A, b, x0) * (1 + 1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "tiny"),
    [
        ("f8", 5e-324),
        ("f8", 1e-318),
        ("f8", 1e-316),
        ("f8", 1e-310),
        ("f8", 2e-308),
        ("f4", 1e-45),
        ("f4", 1e-39),
    ],
)
def test_subnormal_right_hand_side(method, dtype, tiny):
    """It is no zero: x solves the system or the outcome does not claim that it does."""
    A, b = np.diag(np.arange(1, N + 1)).astype(dtype), np.full(N, tiny, dtype)
    assert b.all()
    result = METHODS[method](A, b, maxiter=500)
    x = result.x
    assert np.isfinite(x).all()
    if result.outcome.name.startswith("CONVERGED"):
        # Half a unit of the smallest number is all that x can be wrong by.
        quantum = wide(np.nextafter(np.zeros(1, dtype), np.ones(1, dtype)))[0]
        assert norm(wide(b) - wide(A) @ wide(x)) <= 1e-5 * norm(b) + norm(A) * np.sqrt(N) * quantum


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_right_hand_side_whose_norm_overflows(method, dtype):
    big = np.finfo(dtype).max
    A, b = np.eye(N, dtype=dtype), np.full(N, big * np.dtype(dtype).type(0.9))
    result = METHODS[method](A, b, maxiter=50)
    assert np.isfinite(result.x).all()
    if result.outcome.ok:
        assert residual_norm(A, b, result.x) <= 1.1e-5 * norm(b)


@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("kind", ["none", "jacobi", "callable M"])
def test_curvature_is_judged_relatively(method, dtype, kind):
    """A positive definite matrix shows no negative curvature at any scale, an indefinite one always does."""
    for a, b_scale in itertools.product(RANGES[dtype], RANGES[dtype]):
        scale = np.dtype(dtype).type(a)
        b = (random(N, dtype=dtype, seed=2) * np.dtype(dtype).type(b_scale)).astype(dtype)
        if not representable(dtype, a, 1 / a, b_scale / a if b_scale / a < 1e307 else 0.0):
            continue
        A = system(dtype, a)
        result = METHODS[method](A, b, curvature="stop", rtol=1e-4, M=preconditioner(kind, A))
        assert result.outcome is krylov.Outcome.CONVERGED, (a, b_scale, result)
        D = np.diag(np.array([1, 2, 3, 4, 5, 6, 7, -8], dtype) * scale)
        M = None if kind == "none" else preconditioner(kind, np.abs(D))
        result = METHODS[method](D, b, curvature="stop", rtol=1e-4, M=M)
        assert result.outcome is krylov.Outcome.NEGATIVE_CURVATURE, (a, b_scale, result)
        p = wide(result.direction)
        assert float(norm(p)) == pytest.approx(1, rel=1e-5)
        assert p @ (wide(D) @ p) < 0
        assert result.direction_curvature == pytest.approx(float(p @ (wide(D) @ p)), rel=1e-3)


@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
@pytest.mark.parametrize("scale", [1e-138, 1e-60, 1.0, 1e60, 1e138])
def test_radius_of_any_size(method, scale):
    A, b = system("f8", 1.0), random(N, seed=2) * scale
    whole = norm(METHODS[method](A, b, rtol=1e-10).x)
    for radius in (0.1, 0.5, 2.0):
        result = METHODS[method](A, b, radius=float(radius * whole), rtol=1e-10)
        reached = norm(result.x) / whole
        if radius < 1:
            assert result.outcome is krylov.Outcome.TRUST_RADIUS
            assert float(reached) == pytest.approx(radius, rel=1e-6)
        else:
            assert result.outcome is krylov.Outcome.CONVERGED
            assert float(reached) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_spectrum_of_any_size(scale):
    A = np.diag(np.arange(1.0, N + 1)) * scale
    result = krylov.lanczos(A, N, np.ones(N) * scale)
    np.testing.assert_allclose(result.ritz_values, np.arange(1.0, N + 1) * scale, rtol=1e-10)
    ends = krylov.extremal_eigenvalues(A, N)
    assert ends.min == pytest.approx(scale, rel=1e-10)
    assert ends.max == pytest.approx(N * scale, rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_very_different_size(method):
    """Badly scaled, and Jacobi repairs it."""
    d = np.geomspace(1e-150, 1e150, N)
    A, b = np.diag(d), d.copy()
    M = krylov.JacobiPreconditioner(d)
    result = METHODS[method](A, b, M=M)
    assert_truthful(A, b, result)
    assert result.outcome.ok or result.outcome in TRUTHFUL_FAILURES
    result = METHODS[method](A, b)
    assert_truthful(A, b, result)
