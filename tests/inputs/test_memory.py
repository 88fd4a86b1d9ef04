"""Operators that hand out memory that is not theirs alone, and callbacks that write where they should not."""

from __future__ import annotations

import numpy as np
import pytest
from inputs.common import METHODS, WRAPPINGS, N, assert_truthful, random, residual_norm, spd

import krylov

methods = pytest.mark.parametrize("method", METHODS)
wrappings = pytest.mark.parametrize("wrapping", WRAPPINGS)


# -------------------------------------------------------------------------------------------------
# Memory that is not the answer's alone


class Buffered:
    """A matrix whose product lies in one buffer, the same for every call."""

    def __init__(self, matrix, buffer=None):
        self.matrix = matrix
        self.buffer = np.empty(len(matrix), matrix.dtype) if buffer is None else buffer
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def matvec(self, v):
        product = self.matrix @ v
        self.buffer[:] = product
        return self.buffer

    def view(self, v):
        return self.matvec(v)[:]


def plain(method, A, b, M=None, **options):
    return METHODS[method](lambda v: A @ v, b, M=None if M is None else lambda v: M @ v, **options)


def assert_same(result, expected):
    np.testing.assert_array_equal(result.x, expected.x)
    np.testing.assert_array_equal(result.residual_norms, expected.residual_norms)
    assert result.outcome is expected.outcome


@methods
@pytest.mark.parametrize("options", [{}, {"maxiter": 4}, {"rtol": 0.0}, {"rtol": 1e-13}], ids=str)
@pytest.mark.parametrize("preconditioned", [False, True])
def test_buffers_that_are_used_again(method, options, preconditioned):
    A, b, x0 = spd(12, condition=1e4), random(12), random(12, seed=3)
    M = np.linalg.inv(spd(12, seed=0, condition=30.0)) if preconditioned else None
    expected = plain(method, A, b, M, x0=x0, **options)
    own = Buffered(A)
    shared = np.empty(12)
    forms = {
        "own": (own, Buffered(M) if preconditioned else None),
        "view": (own.view, Buffered(M).view if preconditioned else None),
        "shared": (Buffered(A, shared), Buffered(M, shared) if preconditioned else None),
    }
    for left, right in forms.values():
        assert_same(METHODS[method](left, b, x0, M=right, **options), expected)
        # What is judged between two products must not depend on the buffer either.
        judged = METHODS[method](
            left,
            b,
            x0,
            M=right,
            callback=lambda x, left=left: _use(left),
            candidates="all",
            **options,
        )
        assert_same(judged, expected)


def _use(operator):
    """The caller's own product, between two of the solver."""
    function = operator if callable(operator) else operator.matvec
    function(np.full(12, 7.0))


@methods
@wrappings
def test_identity_that_returns_its_input(method, wrapping):
    make, b = WRAPPINGS[wrapping], random(N)
    for options in (
        {},
        {"M": make(lambda v: v)},
        {"x0": random(N, seed=1)},
        {"x0": b.copy()},
        {"x0": "Mb"},
    ):
        options = {"rtol": 1e-12, **options}
        expected = METHODS[method](
            np.eye(N), b, **{**options, **({"M": np.eye(N)} if "M" in options else {})}
        )
        result = METHODS[method](make(lambda v: v), b.copy(), **options)
        assert result.outcome is krylov.Outcome.CONVERGED
        np.testing.assert_allclose(result.x, b, rtol=1e-10)
        np.testing.assert_array_equal(result.x, expected.x)


@methods
def test_preconditioner_that_returns_its_input(method):
    A, b = spd(N, condition=100.0), random(N)
    expected = plain(method, A, b, np.eye(N))
    for identity in (lambda v: v, lambda v: v[:], lambda v: v.reshape(1, N)):
        assert_same(METHODS[method](lambda v: A @ v, b, M=identity), expected)


def test_identity_that_returns_its_input_and_diverges():
    """The best iterate is found again although the product lies in the residual's memory."""
    b = random(N)
    for A, shape in ((lambda v: v, "alias"), (lambda v: v.copy(), "copy")):
        result = krylov.neumann(A, b, scale=3.0, rtol=1e-10, maxiter=50)
        assert result.outcome is krylov.Outcome.DIVERGENCE, shape
        assert result.true_residual_norm <= np.linalg.norm(b) * (1 + 1e-12), shape
        assert residual_norm(np.eye(N), b, result.x) <= np.linalg.norm(b) * (1 + 1e-12), shape


@methods
def test_operator_that_returns_the_right_hand_side_itself(method):
    """A constant answer in the caller's own memory: no solution, but b must survive."""
    b = random(N)
    kept = b.copy()
    result = METHODS[method](lambda v: b, b, maxiter=10)
    np.testing.assert_array_equal(b, kept)
    assert np.isfinite(result.x).all()


WRITERS = {
    "scales": lambda v: np.multiply(v, 2, out=v),
    "zeroes": lambda v: (v.copy(), v.fill(0))[0],
    "changes signs": lambda v: np.negative(v, out=v),
    "reverses": lambda v: (v.copy(), np.copyto(v, v[::-1].copy()))[0],
    "reverses in place": lambda v: (np.copyto(v, v[::-1].copy()), v)[1],
    "swaps two": lambda v: (v.copy(), np.copyto(v[:2], v[1::-1].copy()))[0],
    "writes NaN": lambda v: (v.copy(), v.fill(np.nan))[0],
}


@methods
@wrappings
@pytest.mark.parametrize("where", ["A", "M"])
@pytest.mark.parametrize("case", WRITERS)
def test_operator_that_writes_into_its_input(method, wrapping, where, case):
    write, make, b = WRITERS[case], WRAPPINGS[wrapping], np.arange(1.0, N + 1)
    bad, good = make(write), make(lambda v: v + 0)
    A, M = (bad, None) if where == "A" else (good, bad)
    with pytest.raises(ValueError, match=f"{where} .*written into.*vector it was given|read-only"):
        METHODS[method](A, b, M=M)
    np.testing.assert_array_equal(b, np.arange(1.0, N + 1))


@methods
def test_operator_that_writes_into_the_iterate(method):
    """The last product, of x itself, verifies the solution: an operator that spoils x there is found out."""
    A, b, calls = np.diag([1.0, 1.5, 2.0]), np.array([1.0, 2.0, 3.0]), []

    def multiply(v, spoil=None):
        calls.append(None)
        product = A @ v
        if len(calls) == spoil:
            v[:] = v[::-1].copy()
        return product

    METHODS[method](multiply, b)
    last = len(calls)
    for spoil in range(1, last + 1):
        calls.clear()
        try:
            result = METHODS[method](lambda v, spoil=spoil: multiply(v, spoil), b)
        except ValueError as error:
            assert "written into" in str(error) or "read-only" in str(error)  # noqa: PT017
        else:
            assert_truthful(A, b, result)


@methods
def test_operator_that_keeps_its_inputs(method):
    """It may keep what it was given; what it reads there later is its own affair, and harms no solve."""
    A, b, kept = spd(N), random(N), []
    expected = plain(method, A, b)
    assert_same(METHODS[method](lambda v: (kept.append(v), A @ v)[1], b), expected)


@methods
def test_operator_that_solves_inside(method):
    """An inner solve with the same method, from inside a product, leaves the outer one alone."""
    A, b = spd(N), random(N)
    expected = METHODS[method](np.linalg.inv(A), b, rtol=1e-8, maxiter=500)
    result = METHODS[method](
        lambda v: METHODS[method](A, v, rtol=1e-13, maxiter=2000).x, b, rtol=1e-8, maxiter=500
    )
    assert result.outcome is expected.outcome
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-4)


# -------------------------------------------------------------------------------------------------
# Callbacks


@methods
@pytest.mark.parametrize(
    "damage", [lambda x: x.fill(0), lambda x: x.fill(1e3), lambda x: x.fill(np.nan)]
)
def test_callback_that_modifies_the_iterate(method, damage):
    A, b = spd(12, condition=50.0), random(12)
    for seen in (1, 3):
        calls = []

        def callback(x, seen=seen, calls=calls):
            calls.append(None)
            if len(calls) == seen:
                damage(x)

        result = METHODS[method](A, b, callback=callback, maxiter=100)
        assert result.true_residual_norm is not None
        true = residual_norm(A, b, result.x)
        if np.isfinite(float(true)):
            assert_truthful(A, b, result)
        else:
            assert result.outcome is krylov.Outcome.NON_FINITE


@methods
def test_callback_may_keep_a_copy_of_every_iterate(method):
    A, b, seen = spd(N), random(N), []
    result = METHODS[method](A, b, callback=lambda x: seen.append(x.copy()))
    assert len(seen) == result.niter
    np.testing.assert_array_equal(seen[-1], result.x)


@methods
def test_rule_that_answers_nonsense(method):
    """Anything that is true ends the run, as Python has it; an outcome is taken at its word."""
    A, b = spd(N), random(N)
    for verdict in (True, 1, "yes"):
        result = METHODS[method](A, b, stop=lambda trace, verdict=verdict: verdict)
        assert (result.niter, result.outcome) == (1, krylov.Outcome.STOPPED_BY_RULE)
    for verdict in (None, False, 0, ""):
        result = METHODS[method](A, b, stop=lambda trace, verdict=verdict: verdict, maxiter=500)
        assert result.outcome is krylov.Outcome.CONVERGED


@methods
def test_rule_cannot_claim_convergence(method):
    """A rule may name the outcome, but CONVERGED is a statement about the true residual."""
    A, b = spd(N, condition=1e4), random(N)
    try:
        result = METHODS[method](A, b, rtol=1e-12, stop=lambda trace: krylov.Outcome.CONVERGED)
    except ValueError as error:
        assert "CONVERGED" in str(error)  # noqa: PT017
    else:
        assert_truthful(A, b, result, rtol=1e-12)
