"""Sizes of samples, and the variance that they are judged by."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from krylov.torch.schedules import (
    FixedSize,
    GeometricSchedule,
    GeometricThenVariance,
    GradientStatistics,
    VarianceSchedule,
)


class Told:
    """Statistics with given figures."""

    def __init__(self, variance, norm2, groups=100, samples=1000):
        self.variance_l1, self.norm2 = variance, norm2
        self.groups, self.samples = groups, samples


def gathered(gradients, sizes):
    statistics = GradientStatistics()
    start = 0
    for size in sizes:
        statistics.add(gradients[start : start + size].mean(0), size)
        start += size
    return statistics


def test_single_samples_give_the_sample_variance():
    gradients = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    statistics = gathered(gradients, [1] * 40)
    assert statistics.variance_l1 == pytest.approx(float(gradients.var(0).sum()))
    assert statistics.norm2 == pytest.approx(float(gradients.mean(0).square().sum()))
    torch.testing.assert_close(statistics.mean[0], gradients.mean(0))
    assert (statistics.groups, statistics.samples) == (40, 40)


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=8), seed=st.integers(0, 100))
def test_groups_agree_with_the_formula(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(sum(sizes), 3, dtype=torch.float64, generator=generator)
    statistics = gathered(gradients, sizes)
    mean = gradients.mean(0)
    means = torch.stack([part.mean(0) for part in gradients.split(sizes)])
    deviations = torch.tensor(sizes)[:, None] * (means - mean).square()
    assert statistics.variance_l1 == pytest.approx(float(deviations.sum()) / (len(sizes) - 1))


@pytest.mark.parametrize("sizes", [[50] * 80, [10, 90] * 40])
def test_the_variance_is_that_of_one_sample_whatever_the_groups(sizes):
    gradients = 3 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(1)) + 5
    statistics = gathered(gradients, sizes)
    assert statistics.variance_l1 == pytest.approx(9 * 50, rel=0.06)


def test_lists_of_tensors_are_one_gradient():
    flat, parts = GradientStatistics(), GradientStatistics()
    for k in range(5):
        gradient = torch.arange(6.0) ** k
        flat.add(gradient, k + 1)
        parts.add([gradient[:2], gradient[2:].reshape(2, 2)], k + 1)
    assert parts.variance_l1 == pytest.approx(flat.variance_l1)
    assert parts.norm2 == pytest.approx(flat.norm2)
    assert [part.shape for part in parts.mean] == [(2,), (2, 2)]


def test_a_gradient_is_not_kept_and_not_changed():
    statistics, gradient = GradientStatistics(), torch.ones(3)
    statistics.add(gradient, 1)
    gradient.zero_()
    statistics.add(torch.ones(3), 1)
    assert statistics.variance_l1 == 0
    assert gradient.sum() == 0


def test_no_variance_before_the_second_group():
    statistics = GradientStatistics()
    assert statistics.norm2 == 0
    statistics.add(torch.ones(3), 5)
    assert math.isnan(statistics.variance_l1)


def test_groups_of_other_shapes_are_refused():
    statistics = GradientStatistics()
    statistics.add(torch.ones(3), 1)
    with pytest.raises(ValueError, match="same shapes"):
        statistics.add(torch.ones(4), 1)
    with pytest.raises(ValueError, match="samples"):
        statistics.add(torch.ones(3), 0)


def test_geometric_sizes():
    schedule = GeometricSchedule(100, 1.2, 300)
    sizes = [schedule.size] + [schedule.update() for _ in range(7)]
    assert sizes == [100, 120, 144, 173, 207, 249, 299, 300]


@given(
    initial=st.integers(1, 10**6),
    factor=st.floats(1, 100),
    more=st.integers(0, 10**6),
    steps=st.integers(0, 10**7),
)
def test_geometric_never_shrinks_nor_exceeds_nor_overflows(initial, factor, more, steps):
    schedule = GeometricSchedule(initial, factor, initial + more)
    schedule.load_state_dict({"step": steps})
    before = schedule.size
    assert initial <= before <= schedule.update() <= initial + more


def test_variance_grows_to_what_the_test_asks_for():
    schedule = VarianceSchedule(100, 0.5, 10_000)
    assert schedule.update(Told(variance=25.0, norm2=1.0)) == 100  # just enough: 25 / 100 <= 1 / 4
    assert schedule.update(Told(variance=26.0, norm2=1.0)) == 104
    assert schedule.update(Told(variance=1.0, norm2=1.0)) == 104  # never shrinks
    assert schedule.update(Told(variance=1e9, norm2=1.0)) == 10_000


@pytest.mark.parametrize(
    ("variance", "norm2", "size"),
    [
        (math.nan, 1.0, 10),
        (1.0, math.nan, 10),
        (math.inf, 1.0, 10),
        (0.0, 0.0, 10),
        (1.0, 0.0, 99),
        (1e-300, 1e-320, 99),
    ],
)
def test_variance_of_degenerate_figures(variance, norm2, size):
    assert VarianceSchedule(10, 0.25, 99).update(Told(variance, norm2)) == size


@given(
    figures=st.lists(st.tuples(st.floats(), st.floats(min_value=0)), max_size=10),
    initial=st.integers(1, 50),
    make=st.sampled_from(
        [
            lambda n: VarianceSchedule(n, 0.25, 50),
            lambda n: GeometricThenVariance(n, 1.3, 0.25, 50),
        ]
    ),
)
def test_sizes_by_variance_stay_within_bounds(figures, initial, make):
    schedule = make(initial)
    size = schedule.size
    for variance, norm2 in figures:
        new = schedule.update(Told(variance, norm2))
        assert size <= new <= 50
        size = new


@pytest.mark.parametrize("initial", [50, 400])
def test_a_sample_sized_by_variance_has_the_error_asked_for(initial):
    generator = torch.Generator().manual_seed(2)
    schedule = VarianceSchedule(initial, 0.5, 100_000)
    errors = []
    for _ in range(20):
        gradients = torch.randn(schedule.size, 10, generator=generator) + 0.3
        statistics = gathered(gradients, [10] * (schedule.size // 10))
        errors.append(float((statistics.mean[0] - 0.3).norm()) / (0.3 * 10**0.5))
        schedule.update(statistics)
    # 1 / (size * 0.09) <= theta^2 asks for 45; small samples overestimate the gradient, noise asks for more.
    assert initial <= schedule.size <= max(initial, 120)
    assert sum(errors[5:]) / 15 < 0.5


def test_geometric_until_the_estimate_is_reliable():
    schedule = GeometricThenVariance(100, 1.5, 0.25, 1000, groups=5)
    quiet = {"variance": 10.0, "norm2": 1.0}
    assert schedule.update(Told(**quiet, groups=4)) == 150  # too few groups
    assert schedule.update(Told(600.0, 1.0, groups=9)) == 225  # 600 / 1000 > 1 / 2: mostly noise
    assert schedule.update(Told(math.nan, 1.0, groups=9)) == 338
    assert schedule.phase == "geometric"
    assert schedule.update(Told(**quiet, groups=5)) == 338  # by variance: enough
    assert schedule.phase == "variance"
    assert schedule.update(Told(600.0, 1.0, groups=1)) == 1000  # for good


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedSize(7),
        lambda: GeometricSchedule(3, 1.3, 900),
        lambda: VarianceSchedule(3, 0.25, 900),
        lambda: GeometricThenVariance(3, 1.3, 0.25, 900),
    ],
)
@given(split=st.integers(0, 12))
def test_a_restored_schedule_goes_on_alike(make, split):
    figures = [Told(3.0 * k * k, 1.0) for k in range(12)]
    first = make()
    for told in figures[:split]:
        first.update(told)
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.size == first.size
    for told in figures[split:]:
        assert second.update(told) == first.update(told)


def test_fixed():
    schedule = FixedSize(5)
    assert [schedule.size, schedule.update(), schedule.update(Told(1e9, 1.0))] == [5, 5, 5]


@pytest.mark.parametrize(
    "make", [VarianceSchedule, lambda *a: GeometricThenVariance(9, 1.3, 0.2, 90)]
)
def test_a_variance_needs_statistics(make):
    with pytest.raises(TypeError, match="GeometricSchedule or FixedSize"):
        make(9, 0.2, 90).update()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: FixedSize(0), "size"),
        (lambda: FixedSize(1.5), "size"),
        (lambda: GeometricSchedule(0, 1.2, 10), "initial"),
        (lambda: GeometricSchedule(11, 1.2, 10), "maximum must be at least initial, 11"),
        (lambda: GeometricSchedule(1, 0.9, 10), "factor"),
        (lambda: GeometricSchedule(1, math.nan, 10), "factor"),
        (lambda: GeometricSchedule(1, math.inf, 10), "factor"),
        (lambda: VarianceSchedule(1, 0.0, 10), "theta"),
        (lambda: VarianceSchedule(1, math.nan, 10), "theta"),
        (lambda: VarianceSchedule(5, 0.25, 4), "maximum"),
        (lambda: GeometricThenVariance(1, 1.2, -1, 10), "theta"),
        (lambda: GeometricThenVariance(1, 1.2, 0.25, 10, groups=1), "groups"),
    ],
)
def test_bad_arguments(make, word):
    with pytest.raises((ValueError, TypeError), match=word):
        make()
