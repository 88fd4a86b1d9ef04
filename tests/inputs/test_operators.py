"""Operators that misbehave: they raise, answer nonsense, or hand out memory that is not theirs alone."""

from __future__ import annotations

import numpy as np
import pytest
from inputs.common import METHODS, Bare, assert_truthful, random, residual_norm, spd
from scipy.sparse.linalg import LinearOperator

import krylov

N = 6
methods = pytest.mark.parametrize("method", METHODS)
# How an operator may reach a solver: the checks that SciPy makes in between differ.
WRAPPINGS = {
    "callable": lambda function: function,
    "object": lambda function: Bare(function, N),
    "LinearOperator": lambda function: LinearOperator((N, N), function, dtype=np.float64),
}
wrappings = pytest.mark.parametrize("wrapping", WRAPPINGS)


# -------------------------------------------------------------------------------------------------
# Answers that cannot be used

NONSENSE = {
    "None": (lambda v: None, TypeError, ["None", "return"]),
    "string": (lambda v: "v", (TypeError, ValueError), []),
    "number": (lambda v: 1.0, ValueError, ["()", "(6,)"]),
    "too short": (lambda v: v[:-1].copy(), ValueError, ["(5,)", "(6,)"]),
    "too long": (lambda v: np.concatenate([v, v]), ValueError, ["(12,)", "(6,)"]),
    "empty": (lambda v: v[:0], ValueError, ["(0,)", "(6,)"]),
    "matrix": (lambda v: np.outer(v, v), ValueError, ["(6, 6)", "(6,)"]),
    "two columns": (lambda v: np.stack([v, v], 1), ValueError, ["(6, 2)", "(6,)"]),
    "complex": (lambda v: v * 1j, TypeError, ["complex128", "float64"]),
    "complex64": (lambda v: v.astype("c8"), TypeError, ["complex64", "float64"]),
    "strings": (lambda v: np.array(["a"] * N), TypeError, ["<U1", "not numbers"]),
    "objects": (lambda v: v.astype(object), TypeError, ["object", "not numbers"]),
    "a pair": (lambda v: (v, 0), (TypeError, ValueError), []),
    "generator": (lambda v: (a for a in v), (TypeError, ValueError), []),
}


@methods
@pytest.mark.parametrize("wrapping", ["callable", "object"])
@pytest.mark.parametrize("case", NONSENSE)
def test_answer_of_a_is_refused(method, wrapping, case):
    function, error, words = NONSENSE[case]
    with pytest.raises(error) as caught:
        METHODS[method](WRAPPINGS[wrapping](function), np.ones(N))
    message = str(caught.value)
    assert all(word in message for word in ["A", "returned", *words]), message


@methods
@pytest.mark.parametrize("case", NONSENSE)
def test_answer_of_m_is_refused(method, case):
    function, error, words = NONSENSE[case]
    with pytest.raises(error) as caught:
        METHODS[method](spd(N), np.ones(N), M=Bare(function, N))
    message = str(caught.value)
    assert all(word in message for word in ["M", "returned", *words]), message


@methods
@pytest.mark.parametrize("case", ["None", "too short", "matrix", "complex"])
def test_later_answer_is_refused(method, case):
    """The first product is right, and what follows is not."""
    function, error, _ = NONSENSE[case]
    A, calls = spd(N), []

    def multiply(v):
        calls.append(None)
        return A @ v if len(calls) < 3 else function(v)

    with pytest.raises(error, match="A returned"):
        METHODS[method](multiply, random(N))


def test_float64_answer_in_a_float32_solve_is_refused():
    A, b = spd(N), np.ones(N, "f4")
    for method in METHODS.values():
        with pytest.raises(TypeError, match=r"A returned float64.*float32.*b as float64"):
            method(Bare(lambda v: A @ v.astype("f8"), N, "f4"), b)


# -------------------------------------------------------------------------------------------------
# Answers that are unusual, and right


UNUSUAL = {
    "column": lambda v: v.reshape(N, 1),
    "row": lambda v: v.reshape(1, N),
    "list": lambda v: v.tolist(),
    "strided": lambda v: np.repeat(v, 2)[::2],
    "backwards": lambda v: v[::-1].copy()[::-1],
    "read-only": lambda v: np.frombuffer(v.tobytes(), v.dtype),
    "matrix class": lambda v: np.asmatrix(v),
    "longer memory": lambda v: np.concatenate([v, v])[:N],
    "big-endian": lambda v: v.astype(">f8"),
    "long double": lambda v: v.astype("g"),
}


@methods
@wrappings
@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_unusual_answers(method, wrapping, case):
    A, b, form = spd(N), random(N), UNUSUAL[case]
    M = np.linalg.inv(spd(N, seed=1))
    make = WRAPPINGS[wrapping]
    expected = METHODS[method](lambda v: A @ v, b, M=lambda v: M @ v)
    result = METHODS[method](make(lambda v: form(A @ v)), b, M=make(lambda v: form(M @ v)))
    assert result.niter == expected.niter
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-12)


@pytest.mark.parametrize("method", ["cg", "flexible_cg", "bicgstab"])
def test_integer_answers(method):
    result = METHODS[method](lambda v: np.rint(v).astype("i8"), np.arange(1.0, N + 1))
    assert result.outcome is krylov.Outcome.CONVERGED


# -------------------------------------------------------------------------------------------------
# Operators that raise


class Interrupted(Exception):
    pass


@methods
@wrappings
@pytest.mark.parametrize("where", ["A", "M", "callback", "stop"])
@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, StopIteration, SystemExit])
def test_exceptions_pass_through(method, wrapping, where, error):
    """The same exception object arrives, at any point of the run, and everything can be used again."""
    if where == "callback" and error is StopIteration:
        pytest.skip("ends the run, as documented")
    A, M, b = spd(N), spd(N, seed=1), random(N)
    A0, M0, b0 = A.copy(), M.copy(), b.copy()
    make, workspace = WRAPPINGS[wrapping], krylov.Workspace(method, N)
    expected = METHODS[method](A, b, M=M, maxiter=20).x
    for patience in (0, 1, 2, 5):
        raised, calls = error("stop here"), []

        def trouble(patience=patience, raised=raised, calls=calls):
            calls.append(None)
            if len(calls) > patience:
                raise raised

        def apply(matrix, here):
            return make(lambda v: (trouble() if here else None, matrix @ v)[1])

        with pytest.raises(error) as caught:
            METHODS[method](
                apply(A, where == "A"),
                b,
                M=apply(M, where == "M"),
                rtol=0,
                maxiter=20,
                workspace=workspace,
                callback=(lambda x: trouble()) if where == "callback" else None,
                stop=(lambda trace: trouble()) if where == "stop" else None,
            )
        assert caught.value is raised
        assert len(calls) == patience + 1, "it was called again"
        for got, kept in ((A, A0), (M, M0), (b, b0)):
            np.testing.assert_array_equal(got, kept)
        again = METHODS[method](A, b, M=M, maxiter=20, workspace=workspace)
        np.testing.assert_array_equal(again.x, expected)


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
