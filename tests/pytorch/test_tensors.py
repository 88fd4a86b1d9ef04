"""States of NumPy arrays as tensors, and back."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from krylov.torch.optim.tensors import arrays_of, tensors_of

ARRAYS = hnp.arrays(
    st.sampled_from(["f4", "f8", "c8", "c16", "u2", "i4", "i8", "?", ">f8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
STATES = st.recursive(
    st.one_of(ARRAYS, st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or a != a


@given(state=STATES)
def test_every_bit_survives_a_file(state):
    file = io.BytesIO()
    torch.save(tensors_of(state), file)
    file.seek(0)
    assert_same(arrays_of(torch.load(file, weights_only=True)), state)


def test_arrays_are_copied_both_ways():
    original = np.arange(6.0).reshape(2, 3)
    saved = tensors_of({"a": original})
    first, second = arrays_of(saved)["a"], arrays_of(saved)["a"]
    original[:] = 0
    first[:] = 1
    assert np.array_equal(second, np.arange(6.0).reshape(2, 3))


def test_other_orders_of_memory():
    for a in (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(9.0)[::-2]):
        assert np.array_equal(arrays_of(tensors_of(a)), a)


def test_a_state_may_use_the_same_words():
    state = {"numpy": 1, "shape": [2], "bytes": {"numpy": "3"}, "more": None}
    assert arrays_of(tensors_of(state)) == state


def test_tensors_stay_tensors():
    t = torch.arange(3)
    assert arrays_of(tensors_of({"t": [t]}))["t"][0] is t
