"""Operators that misbehave: they raise, or answer nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from inputs.common import METHODS, WRAPPINGS, Bare, N, random, spd

import krylov

methods = pytest.mark.parametrize("method", METHODS)
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
