"""What holds for every small system, whatever its class, scale, dtype, preconditioner, method and options."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs.common import (
    METHODS,
    assert_truthful,
    norm,
    random,
    residual_norm,
    rounding,
    with_spectrum,
)

import krylov

pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"
)

KINDS = (
    "positive",
    "indefinite",
    "negative",
    "singular",
    "nonsymmetric",
    "triangular",
    "diagonal",
    "permutation",
    "zero",
)
FORMS = {
    "dense": lambda A: A,
    "sparse": sp.csr_array,
    "callable": lambda A: lambda v: A @ v,
}


@st.composite
def systems(draw):
    """A matrix, a right-hand side, a start, and what is needed to print them."""
    n = draw(st.integers(1, 12))
    dtype = draw(st.sampled_from(["f4", "f8", "c8", "c16"]))
    kind = draw(st.sampled_from(KINDS))
    seed = draw(st.integers(0, 1000))
    condition = draw(st.sampled_from([1.0, 10.0, 1e3, 1e6, 1e14]))
    reach = 300 if dtype in ("f8", "c16") else 30
    a_scale, b_scale, x_scale = (
        draw(st.sampled_from([0, 0, 0, -3, 3, -reach, reach])) for _ in range(3)
    )
    eigenvalues = np.geomspace(1 / condition, 1, n)
    signs = np.where(np.arange(n) % 3 == 0, -1, 1)
    A = {
        "positive": lambda: with_spectrum(eigenvalues, dtype, seed),
        "indefinite": lambda: with_spectrum(eigenvalues * signs, dtype, seed),
        "negative": lambda: with_spectrum(-eigenvalues, dtype, seed),
        "singular": lambda: with_spectrum(eigenvalues * (np.arange(n) > n // 2), dtype, seed),
        "nonsymmetric": lambda: random(n, n, dtype=dtype, seed=seed),
        "triangular": lambda: (
            np.triu(random(n, n, dtype=dtype, seed=seed)) + n * np.eye(n, dtype=dtype)
        ),
        "diagonal": lambda: np.diag(eigenvalues).astype(dtype),
        "permutation": lambda: np.eye(n, dtype=dtype)[np.random.default_rng(seed).permutation(n)],
        "zero": lambda: np.zeros((n, n), dtype),
    }[kind]()
    real = A.real.dtype.type
    A = A * real(10.0**a_scale)
    b = random(n, dtype=dtype, seed=seed + 1)
    if draw(st.booleans()):
        b = A @ b / max(np.abs(A).max(), real(1e-38))
    b = b * real(10.0**b_scale)
    if draw(st.integers(0, 9)) == 0:
        b[:] = 0
    x0 = draw(st.sampled_from([None, "Mb", "random", "zero"]))
    if x0 == "random":
        x0 = random(n, dtype=dtype, seed=seed + 2) * real(10.0**x_scale)
    elif x0 == "zero":
        x0 = np.zeros(n, dtype)
    return A.astype(dtype), b.astype(dtype), x0


@st.composite
def preconditioners(draw, A):
    kind = draw(
        st.sampled_from(["none", "none", "jacobi", "identity", "inverse", "random", "indefinite"])
    )
    n, d = len(A), np.abs(np.diagonal(A))
    if kind == "jacobi":
        ok = np.isfinite(1 / d) if d.all() else np.zeros(n, bool)
        return krylov.JacobiPreconditioner(np.where(ok, d, 1).astype(d.dtype))
    if kind == "identity":
        return draw(st.sampled_from([lambda v: v, lambda v: v.copy()]))
    if kind == "inverse":
        try:
            inverse = np.linalg.inv(A)
        except np.linalg.LinAlgError:
            return None
        return inverse if np.isfinite(inverse).all() else None
    if kind == "random":
        return random(n, n, dtype=A.dtype)
    if kind == "indefinite":
        return sp.diags_array(np.where(np.arange(n) % 2, 1.0, -1.0).astype(d.dtype)).tocsr()
    return None


@st.composite
def options(draw, method):
    chosen = {
        "rtol": draw(st.sampled_from([0.0, 1e-14, 1e-5, 0.1, 2.0])),
        "atol": draw(st.sampled_from([0.0, 0.0, 1e-3])),
        "maxiter": draw(st.sampled_from([0, 1, 2, 3, 7, 60])),
        "check_every": draw(st.sampled_from([1, 1, 3])),
    }
    if draw(st.booleans()):
        chosen["candidates"] = draw(st.sampled_from(["all", "geometric", [1, 5]]))
    if draw(st.booleans()):
        chosen["callback"] = lambda x: None
    if draw(st.integers(0, 3)) == 0:
        chosen["stop"] = draw(
            st.sampled_from(
                [
                    krylov.stopping.FixedIterations(2),
                    krylov.stopping.QuadraticProgress(),
                    lambda trace: False,
                ]
            )
        )
    if method in ("cg", "flexible_cg"):
        chosen["curvature"] = draw(st.sampled_from(["ignore", "ignore", "stop"]))
        if draw(st.integers(0, 4)) == 0:
            chosen |= {"radius": 1.0, "curvature": draw(st.sampled_from(["ignore", "boundary"]))}
    if method == "bicgstab":
        chosen["curvature"] = draw(st.sampled_from(["ignore", "track"]))
        chosen["max_restarts"] = draw(st.sampled_from([None, 0, 3]))
    if method == "neumann":
        chosen["scale"] = draw(st.sampled_from(["auto", "auto", 0.5, 3.0, -1.0]))
    return chosen


@pytest.mark.parametrize("method", METHODS)
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_every_solve_is_truthful(method, data):
    A, b, x0 = data.draw(systems())
    M = data.draw(preconditioners(A))
    chosen = data.draw(options(method))
    form = data.draw(st.sampled_from(list(FORMS)))
    if "radius" in chosen and (isinstance(x0, str) or (x0 is not None and norm(x0) >= 1)):
        x0 = None
    before = A.copy(), b.copy(), None if x0 is None or isinstance(x0, str) else x0.copy()
    try:
        result = METHODS[method](FORMS[form](A), b, x0, M=M, **chosen)
    except ValueError as error:
        # The only one: a start that was asked for and overflows.
        assert "x0='Mb'" in str(error)  # noqa: PT017
        return

    # Nothing that was given has changed.
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(b, before[1])
    if before[2] is not None:
        np.testing.assert_array_equal(x0, before[2])

    # The answer is of the right kind, and true.
    assert isinstance(result.outcome, krylov.Outcome)
    assert result.x.dtype == b.dtype
    assert result.x.shape == b.shape
    assert_truthful(A, b, result, chosen["rtol"], chosen["atol"])
    if result.info == 0:
        assert result.outcome.ok or chosen["maxiter"] == 0
    if result.outcome in (krylov.Outcome.CONVERGED, krylov.Outcome.CONVERGED_INDEFINITE):
        assert result.info == 0 or result.niter == chosen["maxiter"]

    # It is consistent with itself.
    assert 0 <= result.niter <= chosen["maxiter"]
    assert len(result.residual_norms) == result.niter + 1
    for iteration, x, _, _ in result.candidates:
        assert 1 <= iteration <= result.niter
        assert x.shape == b.shape
    if result.direction is not None:
        assert float(norm(result.direction)) == pytest.approx(1, rel=1e-4)

    # A failed run of these returns the best iterate, so nothing worse than the start.
    start = np.zeros_like(b) if x0 is None or isinstance(x0, str) else x0.astype(b.dtype)
    if method in ("bicgstab", "neumann") and not result.outcome.ok and not isinstance(x0, str):
        slack = rounding(A, b, result.x) + rounding(A, b, start)
        assert residual_norm(A, b, result.x) <= residual_norm(A, b, start) * (1 + 1e-3) + slack
