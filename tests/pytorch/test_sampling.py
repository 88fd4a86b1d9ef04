"""Samples: nested or fresh, whole groups, the same for the same seed."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from krylov.torch.sampling import Sampler

MODES = ("nested", "fresh")


@given(count=st.integers(1, 60), size=st.integers(1, 80), mode=st.sampled_from(MODES))
def test_without_replacement(count, size, mode):
    indices = Sampler(count, mode=mode).draw(size)
    assert indices.dtype == torch.int64
    assert len(indices) == min(size, count) == len(set(indices.tolist()))
    assert 0 <= int(indices.min()) <= int(indices.max()) < count


@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_nested_samples_contain_each_other(sizes, seed):
    sampler = Sampler(50, mode="nested", seed=seed)
    samples = [set(sampler.draw(size).tolist()) for size in sorted(sizes)]
    for small, large in itertools.pairwise(samples):
        assert small <= large


def test_fresh_samples_differ_and_so_do_seeds():
    first, second = Sampler(1000, mode="fresh", seed=1), Sampler(1000, mode="fresh", seed=2)
    draws = [first.draw(100).tolist(), first.draw(100).tolist(), second.draw(100).tolist()]
    assert len({tuple(draw) for draw in draws}) == 3
    assert Sampler(1000, seed=1).draw(100).tolist() != Sampler(1000, seed=2).draw(100).tolist()


def test_every_sample_is_as_likely():
    sampler = Sampler(10, mode="fresh", seed=3)
    counts = np.bincount(np.concatenate([sampler.draw(3).numpy() for _ in range(3000)]))
    assert np.abs(counts - 900).max() < 120  # five standard deviations


@pytest.mark.parametrize("mode", MODES)
@given(large=st.integers(1, 40), small=st.integers(1, 40), grouped=st.booleans())
def test_within_another_sample(mode, large, small, grouped):
    groups = np.arange(40) // 4 if grouped else None
    sampler = Sampler(40, mode=mode, groups=groups)
    gradient = sampler.draw(large)
    curvature = sampler.draw(small, within=gradient)
    assert set(curvature.tolist()) <= set(gradient.tolist())
    assert len(curvature) >= min(small, len(gradient))
    if mode == "nested":
        assert curvature.tolist() == gradient[: len(curvature)].tolist()


@pytest.mark.parametrize("mode", MODES)
@given(labels=st.lists(st.integers(-3, 5), min_size=1, max_size=40), size=st.integers(1, 50))
def test_groups_are_drawn_whole(mode, labels, size):
    sampler = Sampler(len(labels), mode=mode, groups=labels)
    chosen = sampler.draw(size).tolist()
    drawn = {labels[index] for index in chosen}
    assert sorted(chosen) == [k for k, label in enumerate(labels) if label in drawn]
    assert len(chosen) >= min(size, len(labels))
    last = labels[chosen[-1]]
    assert len(chosen) - labels.count(last) < size  # no group too many


def test_a_group_keeps_its_order():
    chosen = Sampler(12, groups=[0] * 4 + [1] * 4 + [2] * 4, seed=5).draw(12)
    for part in chosen.split(4):
        assert part.tolist() == sorted(part.tolist())


@given(count=st.integers(1, 200), most=st.integers(1, 60))
def test_batches_are_a_partition_as_equal_as_can_be(count, most):
    sampler = Sampler(count)
    sample = sampler.draw(count)
    batches = sampler.batches(sample, most)
    assert torch.equal(torch.cat(batches), sample)
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert len(batches) == -(-count // most)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12), most=st.integers(1, 20))
def test_batches_keep_groups_whole_where_they_fit(lengths, most):
    labels = np.repeat(np.arange(len(lengths)), lengths)
    sampler = Sampler(len(labels), groups=labels)
    sample = sampler.draw(len(labels))
    batches = sampler.batches(sample, most)
    assert torch.equal(torch.cat(batches), sample)
    assert all(0 < len(batch) <= most for batch in batches)
    for label, length in enumerate(lengths):
        parts = sum(label in labels[batch.numpy()] for batch in batches)
        assert parts == 1 if length <= most else parts >= 2


@pytest.mark.parametrize("mode", MODES)
@given(split=st.integers(0, 6))
def test_a_restored_sampler_goes_on_alike(mode, split):
    first = Sampler(30, mode=mode, seed=4)
    for size in range(1, split + 1):
        first.draw(size)
    second = Sampler(30, mode=mode, seed=4)
    second.load_state_dict(first.state_dict())
    for size in (3, 7, 20):
        assert second.draw(size).tolist() == first.draw(size).tolist()


def test_sampling_touches_no_other_generator():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the generator that must not be touched)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Sampler(100, mode="fresh").draw(10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("other", [{"count": 31}, {"mode": "fresh"}, {"seed": 5}])
def test_a_state_of_another_sampler_is_refused(other):
    state = Sampler(30, seed=4).state_dict()
    with pytest.raises(ValueError, match=next(iter(other))):
        Sampler(**({"count": 30, "seed": 4} | other)).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Sampler(0), "count"),
        (lambda: Sampler(5, mode="random"), "nested, fresh"),
        (lambda: Sampler(5, seed=-1), "seed"),
        (lambda: Sampler(5, groups=[1, 2]), r"5 integers.*shape \(2,\)"),
        (lambda: Sampler(2, groups=[1.0, 2.0]), "float64"),
        (lambda: Sampler(5).draw(0), "size"),
        (lambda: Sampler(5).draw(2.0), "size"),
        (lambda: Sampler(5).batches(torch.arange(5), 0), "most"),
    ],
)
def test_bad_arguments(make, word):
    with pytest.raises((ValueError, TypeError), match=word):
        make()
