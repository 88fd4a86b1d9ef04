"""Levenberg-Marquardt damping."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from krylov.torch import LevenbergMarquardt


@pytest.mark.parametrize(
    ("rho", "factor"),
    [
        (1.0, 2 / 3),
        (0.7500001, 2 / 3),
        (0.75, 1),
        (0.5, 1),
        (0.25, 1),
        (0.2499999, 3 / 2),
        (0.0, 3 / 2),
        (-7.0, 3 / 2),
        (-math.inf, 3 / 2),
        (math.inf, 2 / 3),
        (math.nan, 3 / 2),
    ],
)
def test_the_rule_of_the_papers(rho, factor):
    rule = LevenbergMarquardt(increase=3 / 2, decrease=2 / 3)
    assert rule.after(0.3, rho) == pytest.approx(0.3 * factor, rel=1e-15)


@pytest.mark.parametrize(("rho", "factor"), [(0.8, 0.5), (0.5, 1), (0.2, 2), (math.nan, 2)])
def test_the_default_rule_moves_faster(rho, factor):
    assert LevenbergMarquardt().after(0.3, rho) == 0.3 * factor


@given(
    damping=st.floats(1e-6, 1e6),
    rhos=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60),
)
def test_damping_stays_within_its_bounds(damping, rhos):
    rule = LevenbergMarquardt(minimum=1e-6, maximum=1e6)
    for rho in rhos:
        damping = rule.after(damping, rho)
        assert 1e-6 <= damping <= 1e6


def test_no_damping_stays_none_until_a_step_is_bad():
    rule = LevenbergMarquardt(initial=0)
    assert rule.after(0.0, 1.0) == 0
    assert rule.after(0.0, 0.5) == 0
    assert rule.after(0.0, math.nan) > 0


def test_constant_damping():
    rule = LevenbergMarquardt(initial=0.1, increase=1, decrease=1)
    assert [rule.after(0.1, rho) for rho in (-1, 0.5, 1, math.nan)] == [0.1] * 4


@pytest.mark.parametrize(
    "name", ["initial", "increase", "decrease", "low", "high", "minimum", "maximum"]
)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "x", None, [1]])
def test_bad_values_are_named(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must"):
        LevenbergMarquardt(**{name: value})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"increase": 0.5}, "increase"),
        ({"decrease": 2}, "decrease"),
        ({"decrease": 0}, "decrease"),
        ({"low": 0.8}, "low"),
        ({"minimum": 2, "maximum": 1}, "minimum"),
        ({"initial": 2, "maximum": 1}, "initial"),
    ],
)
def test_values_that_do_not_fit_are_named(values, named):
    with pytest.raises(ValueError, match=named):
        LevenbergMarquardt(**values)


@pytest.mark.parametrize(
    ("judge", "rho", "length", "factor"),
    [
        ("ratio", 0.9, 0.1, 0.5),
        ("ratio", 0.1, 1.0, 2),
        ("ratio", 0.9, 0.0, 2),  # rejected
        ("length", -7.0, 1.0, 0.5),
        ("length", 0.9, 0.125, 2),
        ("length", math.nan, 0.5, 1),
        ("length", 0.9, 0.0, 2),
    ],
)
def test_what_lambda_follows(judge, rho, length, factor):
    assert LevenbergMarquardt(judge=judge).following(0.3, rho, length) == 0.3 * factor


@pytest.mark.parametrize("value", ["rho", None, 1, []])
def test_bad_judges_are_named(value):
    with pytest.raises((TypeError, ValueError), match="judge must"):
        LevenbergMarquardt(judge=value)
