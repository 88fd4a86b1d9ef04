"""Constructor arguments that make no sense, and long random histories that make none either."""

from __future__ import annotations

import numpy as np
import pytest
from cases import on_the_fast_table, vector, with_spectrum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preconditioners.common import assert_positive_definite, columns_are_accounted_for

import krylov
from krylov import LBFGSPreconditioner, NystromPreconditioner, RitzPreconditioner

pytestmark = on_the_fast_table
quick = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
A = with_spectrum(np.geomspace(1, 100, 12))

ODD = st.one_of(
    st.none(),
    st.text(max_size=4),
    st.floats(allow_nan=True),
    st.integers(-3, 0),
    st.lists(st.integers(), max_size=2),
    st.complex_numbers(),
    st.binary(max_size=2),
    st.just(np.ones(2)),
    st.just(object()),
)
NOT_AN_INTEGER = ODD.filter(lambda v: not (isinstance(v, int) and v >= 1))
NOT_A_SHIFT = ODD.filter(lambda v: not (isinstance(v, (int, float)) and np.isfinite(v) and v >= 0))
NOT_A_SCALE = ODD.filter(lambda v: not (isinstance(v, (int, float)) and 0 < v < np.inf))
NOT_A_WORD = ODD.filter(lambda v: v is not None)
NOT_A_DTYPE = st.sampled_from(["f2", "i4", "nonsense", "O", "U3", 5, [1, 2], object()])

WRONG = {
    (LBFGSPreconditioner, "n"): NOT_AN_INTEGER,
    (LBFGSPreconditioner, "m"): NOT_AN_INTEGER,
    (LBFGSPreconditioner, "dtype"): NOT_A_DTYPE,
    (LBFGSPreconditioner, "select"): ODD,
    (LBFGSPreconditioner, "storage"): NOT_A_WORD,
    (LBFGSPreconditioner, "shift"): NOT_A_SHIFT,
    (LBFGSPreconditioner, "apply"): ODD,
    (LBFGSPreconditioner, "scale"): NOT_A_SCALE,
    (RitzPreconditioner, "n"): NOT_AN_INTEGER,
    (RitzPreconditioner, "m"): NOT_AN_INTEGER,
    (RitzPreconditioner, "window"): NOT_AN_INTEGER.filter(lambda v: v is not None),
    (RitzPreconditioner, "dtype"): NOT_A_DTYPE,
    (RitzPreconditioner, "storage"): NOT_A_WORD,
    (RitzPreconditioner, "shift"): NOT_A_SHIFT,
    (NystromPreconditioner, "m"): NOT_AN_INTEGER,
    (NystromPreconditioner, "seed"): ODD.filter(
        lambda v: v is not None and not (isinstance(v, int) and v >= 0)
    ),
    (NystromPreconditioner, "shift"): NOT_A_SHIFT,
    (NystromPreconditioner, "dtype"): NOT_A_DTYPE,
}


@pytest.mark.parametrize(
    ("make", "name"), WRONG, ids=lambda v: v if isinstance(v, str) else v.__name__
)
@quick
@given(data=st.data())
def test_a_wrong_argument_is_named(make, name, data):
    value = data.draw(WRONG[make, name])
    keywords = {"A": A, "m": 2} if make is NystromPreconditioner else {"n": 12, "m": 2}
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**keywords | {name: value})
    assert name in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LBFGSPreconditioner(10, 128), ["514 columns", "512"]),
        (lambda: RitzPreconditioner(10, 200), ["600 columns", "512"]),
        (lambda: RitzPreconditioner(10, 16, window=500), ["532 columns", "512"]),
        (lambda: LBFGSPreconditioner(10, dtype="f4", storage="float64"), ["storage", "float32"]),
        (lambda: LBFGSPreconditioner(10, dtype="c8", storage="float64"), ["storage", "bfloat16"]),
        (lambda: LBFGSPreconditioner(10, storage="float16"), ["storage", "'float16'"]),
        (lambda: LBFGSPreconditioner(10, select="even"), ["select", "uniform", "'even'"]),
        (lambda: LBFGSPreconditioner(10, apply="fused"), ["apply", "two_loop", "'fused'"]),
        (lambda: LBFGSPreconditioner(10, scale="smallest"), ["scale", "newest", "'smallest'"]),
    ],
)
def test_what_is_allowed_is_said(make, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_largest_that_fit():
    assert LBFGSPreconditioner(2, 127).m == 127
    assert RitzPreconditioner(2, 170, window=172).m == 170


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "1", None, [1.0]])
def test_a_wrong_shift_later_changes_nothing(value):
    for M in (LBFGSPreconditioner(12, 2, shift=0.5), NystromPreconditioner(A, 2, shift=0.5)):
        before = M @ vector(12)
        with pytest.raises((TypeError, ValueError), match="shift"):
            M.shift = value
        assert M.shift == 0.5
        assert np.array_equal(M @ vector(12), before)


# -------------------------------------------------------------------------------------------------
# Histories


class Failure(Exception):
    pass


STEPS = ("update", "bad update", "cg", "flexible_cg", "bicgstab", "failure", "shift", "clear")


@st.composite
def histories(draw):
    kind = draw(st.sampled_from(["lbfgs", "two_loop", "ritz"]))
    keywords = {
        "dtype": draw(st.sampled_from(["f4", "f8", "c8", "c16"])),
        "storage": draw(st.sampled_from([None, "float32", "bfloat16"])),
        "shift": draw(st.sampled_from([0.0, 0.5])),
        "carry": draw(st.booleans()),
        "harvest": draw(st.booleans()),
    }
    m = draw(st.integers(1, 6))
    if kind == "ritz":
        M = RitzPreconditioner(12, m, window=draw(st.integers(1, 4)), **keywords)
    else:
        M = LBFGSPreconditioner(
            12,
            m,
            apply="compact" if kind == "lbfgs" else "two_loop",
            select=draw(st.sampled_from(["uniform", "last", "first"])),
            scale=draw(st.sampled_from(["largest", "newest", 0.1])),
            refresh=draw(st.booleans()),
            **keywords,
        )
    steps = st.tuples(st.sampled_from([*STEPS, "renew"]), st.integers(0, 50))
    return M, draw(st.lists(steps, min_size=1, max_size=8))


def take(M, step, number, matrix):
    """One step of a history; returns whether a solve went as it must."""
    shift = M.dtype.type(M.shift)
    v = vector(12, M.dtype, number)
    count = [0]

    def multiply(p):
        count[0] += 1
        if step == "failure" and count[0] > number % 9:
            raise Failure
        return matrix @ p + shift * p

    if step == "update":
        M.update(v, matrix @ v)
    elif step == "bad update":
        M.update(v, [-v, v * np.nan, v * np.inf][number % 3])
    elif step == "shift":
        M.shift = [0.0, 1e-3, 1.0, 1e4][number % 4]
    elif step == "clear":
        M.clear()
    elif step == "renew" and hasattr(M, "renew"):
        M.renew([matrix, np.eye(12, dtype=M.dtype), -matrix][number % 3])
    elif step == "failure":
        try:
            krylov.flexible_cg(multiply, v, M=M, rtol=0, maxiter=10)
        except Failure:
            return True
    elif step in ("cg", "flexible_cg", "bicgstab"):
        res = getattr(krylov, step)(multiply, v, M=M, rtol=1e-3, maxiter=300)
        return res.outcome.ok or (step == "bicgstab" and res.outcome is krylov.Outcome.BREAKDOWN)
    return True


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(history=histories())
def test_any_history_leaves_m_definite_and_complete(history):
    M, steps = history
    matrix = with_spectrum(np.geomspace(1, 30, 12), M.dtype)
    for step, number in steps:
        assert take(M, step, number, matrix), step
        assert columns_are_accounted_for(M)
        assert len(M) <= M.m
    assert_positive_definite(M)
