"""Panels to the bit: rounding to bfloat16 and float32, any number of threads, both wide instruction sets."""

from __future__ import annotations

import numpy as np
import pytest
from panels import KINDS, GuardedPanel, bfloat16_bits, from_bfloat16, random
from threadpoolctl import threadpool_limits

from krylov import _core
from krylov.workspace import DTYPES

WIDE = [t for t in _core.tables() if t != "reference"]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")


@pytest.fixture(params=_core.tables())
def table(request):
    previous = _core.use_table(request.param)
    yield request.param
    _core.use_table(previous)


def stored(values, storage, scale=1.0):
    """The reals of a column after values have been put there."""
    column = np.empty(values.size * {"bfloat16": 2, "float32": 4}[storage], np.uint8)
    panel = _core.Panel(values.size, DTYPES.index(values.dtype), storage, [column])
    panel.put(0, values, scale)
    return column.view(np.uint16 if storage == "bfloat16" else np.float32)


def around_ties():
    """float32 numbers at, just below and just above the middle between two neighbours in bfloat16."""
    upper = np.array([0x3F80, 0x3F81, 0x0000, 0x0001, 0x007F, 0x0080, 0x7F7E, 0x4049], np.uint64)
    lower = np.array([0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint64)
    words = (upper[:, None] << 16 | lower).astype(np.uint32).reshape(-1)
    positive = words.view(np.float32)
    return np.concatenate([positive, -positive])


def test_bfloat16_rounds_to_nearest_and_ties_to_even(table):
    values = around_ties()
    bits = stored(values, "bfloat16")
    assert np.array_equal(bits, bfloat16_bits(values))
    back = from_bfloat16(bits).astype(np.float64)
    exact = values.astype(np.float64)
    for step in (-1, 1):  # no neighbour is nearer, and one as near is odd
        neighbour = from_bfloat16((bits.astype(np.int64) + step).astype(np.uint16))
        nearer = abs(neighbour.astype(np.float64) - exact) - abs(back - exact)
        finite = np.isfinite(neighbour) & ((bits & 0x7FFF).astype(int) + step >= 0)
        assert (nearer[finite] >= 0).all()
        assert not (bits[finite & (nearer == 0)] & 1).any()


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (np.inf, 0x7F80),
        (-np.inf, 0xFF80),
        (np.finfo("f4").max, 0x7F80),  # nearer to the next power of two than to the largest
        (-np.finfo("f4").max, 0xFF80),
        (float.fromhex("0x1.fep127"), 0x7F7F),
        (float.fromhex("0x1.fefffep127"), 0x7F7F),
        (float.fromhex("0x1p-149"), 0x0000),
        (float.fromhex("0x1p-133"), 0x0001),
        (-float.fromhex("0x1p-126"), 0x8080),
    ],
    ids=str,
)
def test_bfloat16_of_special_numbers(table, value, bits):
    for n in (1, 8, 37):  # alone, in a register, and behind full ones
        for dtype in ("f4", "f8"):
            assert (stored(np.full(n, value, dtype), "bfloat16") == bits).all()


@pytest.mark.parametrize("word", [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_nan_stays_nan_in_bfloat16(table, word):
    for n in (1, 8, 37):
        values = np.full(n, word, np.uint32).view(np.float32)
        assert np.isnan(from_bfloat16(stored(values, "bfloat16"))).all()


def test_float32_overflows_to_infinity_and_underflows_to_zero(table):
    values = np.array([1e300, -1e300, 1e-300, -1e-300, np.inf, np.nan, 3.5e38] * 5)
    expected = np.array([np.inf, -np.inf, 0.0, -0.0, np.inf, np.nan, np.inf] * 5, np.float32)
    got = stored(values, "float32")
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(expected))


def test_scale_is_applied_before_rounding(table):
    values = np.array([1e300, -1e-300, 3e-310], np.float64)
    assert np.isfinite(stored(values[:1], "float32", 1e-290)).all()
    assert np.array_equal(stored(values[1:2], "float32", 1e290), np.array([-1e-10], np.float32))


# -------------------------------------------------------------------------------------------------
# Equal bits


def everything(table, kind, n, count=5):
    """Bytes of all that the operations leave behind."""
    dtype, storage = kind
    previous = _core.use_table(table)
    guarded = GuardedPanel(n, dtype, storage, count)
    panel, columns = guarded.panel, list(range(count))
    x, r, p = (random(k, n, dtype) for k in (41, 42, 43))
    d = random(44, count + 1, np.dtype("c16"))
    left = []
    for name, which, coefs in (("cg_residual_old", 0, [0.7]), ("dot", 0, [])):
        left += panel.run(table, "project", name, [r, x], coefs, columns, which)
    left += panel.run(table, "combine", "cg_step", [x, p, None], [0.3, 0.2j], columns, 2, r, d)
    left += panel.run(table, "combine", "direction", [p, None, x], [], columns, 1, r, d)
    left.append(panel.gram(columns, columns[:3]).reshape(-1))
    u = random(45, count * 3, np.dtype("c16")).reshape(count, 3)
    panel.rotate(columns, [4, 0, 2], u)
    panel.put(1, x, 0.7)
    low_rank, z = _core.LowRank(panel, 3), np.empty(n, dtype)
    low_rank.set([0, 1, 3], 0.5, np.eye(3))
    low_rank.apply(r, z)
    y = np.empty(n, dtype)
    panel.two_loop([0, 1], [2, 3], [0.0, 0.1], [0.7, 0.9], 0.5, r, y)
    _core.use_table(previous)
    left += [x, r, p, z, y, *guarded.buffers]
    return b"".join(np.asarray(part).tobytes() for part in left)


@kinds
@pytest.mark.parametrize("table_name", WIDE)
def test_panels_have_the_same_bits_for_any_number_of_threads(table_name, kind):
    results = set()
    for threads in (1, 2, 3, 4):
        with threadpool_limits(threads, user_api="openmp"):
            results.add(everything(table_name, kind, 40_003))
    assert len(results) == 1


@kinds
@pytest.mark.skipif("avx512" not in WIDE, reason="this CPU has no AVX-512")
@pytest.mark.parametrize("count", [4, 5, 8, 17])
def test_avx2_and_avx512_agree_to_the_bit(kind, count):
    count = max(count, 5)
    for n in (1, 7, 8, 15, 16, 17, 33, 100, 2049, 4097, 9001):
        assert everything("avx2", kind, n, count) == everything("avx512", kind, n, count), n
