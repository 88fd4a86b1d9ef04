"""CG-backtracking, Armijo's rule and the search on a grid."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from krylov.torch.optim.linesearch import Armijo, GridSearch, backtrack

LOSSES = st.one_of(st.floats(-10, 10), st.sampled_from([math.nan, math.inf]))


def backtracked(losses):
    """The choice, and how often the loss was evaluated."""
    seen = []

    def loss_along(step):
        seen.append(step)
        return losses[step]

    return backtrack(range(len(losses)), loss_along), seen


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([5.0], 0),
        ([3.0, 2.0, 1.0], 2),
        ([1.0, 2.0, 3.0], 0),
        ([0.0, 2.0, 1.0, 3.0], 2),  # not the smallest of all: it ends at the first rise
        ([1.0, 1.0, 1.0], 2),  # equal is no improvement
        ([1.0, 2.0, math.nan], 0),
        ([2.0, 1.0, math.nan, math.inf], 1),
        ([math.nan, 1.0, 2.0], 1),
        ([math.nan, math.nan], 0),
    ],
)
def test_backtracking_goes_on_while_the_loss_gets_smaller(losses, chosen):
    (best, loss), _ = backtracked(losses)
    assert best == chosen
    assert loss == losses[chosen] or math.isnan(loss)


@given(losses=st.lists(LOSSES, min_size=1, max_size=9))
def test_backtracking_never_ends_above_the_last_iterate(losses):
    (best, loss), seen = backtracked(losses)
    assert loss == losses[best] or math.isnan(loss)
    assert seen == list(range(len(losses) - 1, len(losses) - 1 - len(seen), -1))  # each once
    assert not loss > losses[-1]
    if any(map(math.isfinite, losses)):
        assert math.isfinite(loss)


@given(
    coefficient=st.floats(1e-3, 1e3),
    slope=st.floats(-1e2, -1e-2),
    c=st.floats(1e-4, 0.4),
    factor=st.floats(0.1, 0.9),
)
def test_armijo_takes_the_first_length_with_enough_decrease(coefficient, slope, c, factor):
    def loss_at(alpha):
        return 3.0 + slope * alpha + coefficient * alpha * alpha

    rule = Armijo(c=c, factor=factor, trials=200)
    alpha, loss = rule.search(3.0, slope, loss_at(1.0), loss_at)
    assert 0 < alpha <= 1
    assert loss == loss_at(alpha)
    assert loss <= 3.0 + c * alpha * slope
    if alpha < 1:
        assert loss_at(alpha / factor) > 3.0 + c * alpha / factor * slope - 1e-12


def test_armijo_asks_for_no_more_than_it_needs():
    seen = []

    def loss_at(alpha):
        seen.append(alpha)
        return 1.0 - alpha if alpha < 0.2 else 2.0

    assert Armijo().search(1.0, -1.0, 2.0, loss_at) == (0.125, 0.875)
    assert seen == [0.5, 0.25, 0.125]
    seen.clear()
    assert Armijo().search(1.0, -1.0, 0.5, loss_at) == (1.0, 0.5)
    assert not seen


@pytest.mark.parametrize("value", [1.0, 2.0, math.nan, math.inf])
def test_armijo_gives_up_with_length_zero(value):
    assert Armijo(trials=5).search(1.0, -1.0, value, lambda alpha: value) == (0.0, 1.0)


def test_armijo_counts_the_trial_at_one():
    seen = []
    Armijo(trials=3).search(0.0, -1.0, 1.0, lambda alpha: seen.append(alpha) or 1.0)
    assert seen == [0.5, 0.25]


def test_any_decrease_will_do_along_a_direction_that_another_sample_calls_uphill():
    assert Armijo().search(1.0, 5.0, 0.999, pytest.fail) == (1.0, 0.999)
    assert Armijo(trials=2).search(1.0, 5.0, 1.0, lambda alpha: 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["c", "factor"])
@pytest.mark.parametrize("value", [0, 1, -1, 2, math.nan, math.inf, "x", None, [1]])
def test_bad_fractions_are_named(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        Armijo(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 2.5, "x", None])
def test_bad_numbers_of_trials_are_named(value):
    with pytest.raises((TypeError, ValueError), match="trials must be"):
        Armijo(trials=value)


def searched(losses, before, **options):
    """Length, loss and lengths tried, for losses given by power of 1/2; others are infinite."""
    seen = []

    def loss_at(alpha):
        seen.append(alpha)
        return losses.get(round(-math.log2(alpha)), math.inf)

    return GridSearch(**options).search(before, -1.0, losses.get(0, math.inf), loss_at), seen


@pytest.mark.parametrize(
    ("losses", "longer", "found", "tried"),
    [
        ({0: 0.5, 1: 0.7}, 0, (1, 0.5), [0.5]),
        ({0: 0.5, 1: 0.4, 2: 0.45, 3: 0.1}, 0, (0.5, 0.4), [0.5, 0.25]),
        ({0: 9.0, 1: 8.0, 2: 0.9, 3: 0.8, 4: 0.85}, 0, (0.125, 0.8), [0.5, 0.25, 0.125, 0.0625]),
        ({0: 0.5, 1: 0.7, -1: 0.3, -2: 0.2, -3: 0.6}, 5, (4, 0.2), [0.5, 2, 4, 8]),
        ({0: 0.5, 1: 0.7, -1: 0.3, -2: 0.2}, 1, (2, 0.3), [0.5, 2]),
        ({0: 0.5, 1: 0.4, 2: 0.6, -1: 0.3}, 5, (0.5, 0.4), [0.5, 0.25]),
        ({0: math.nan, 1: math.nan, 2: 0.5, 3: 0.6}, 2, (0.25, 0.5), [0.5, 0.25, 0.125]),
        ({0: 1.0, 1: 1.0}, 2, (0, 1.0), [0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_the_grid_is_walked_while_the_loss_gets_smaller(losses, longer, found, tried):
    assert searched(losses, 1.0, shorter=4, longer=longer) == (found, tried)


@given(
    losses=st.dictionaries(st.integers(-4, 6), LOSSES, max_size=11),
    before=st.floats(-5, 5),
    shorter=st.integers(0, 6),
    longer=st.integers(0, 4),
)
def test_the_grid_gives_a_smaller_loss_or_length_zero(losses, before, shorter, longer):
    (alpha, loss), seen = searched(losses, before, shorter=shorter, longer=longer)
    assert len(seen) == len(set(seen))
    assert 1.0 not in seen
    if alpha == 0:
        assert loss == before
        assert not losses.get(0, math.inf) < before
        assert len(seen) == shorter
    else:
        assert loss == losses[round(-math.log2(alpha))] < before


@pytest.mark.parametrize(
    ("name", "value"),
    [("factor", v) for v in (0, 1, -1, math.nan, "x", None)]
    + [(name, v) for name in ("shorter", "longer") for v in (-1, 1.5, "x", None)],
)
def test_bad_grids_are_named(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        GridSearch(**{name: value})


def test_a_grid_that_overflows_is_refused():
    with pytest.raises(ValueError, match="raise factor or lower longer"):
        GridSearch(factor=1e-30, longer=15)
