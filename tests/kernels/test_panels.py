"""Every operation on panels, on every table against NumPy: all remainders, misaligned, the memory around it guarded."""

from __future__ import annotations

import numpy as np
import pytest
from formulas import COEFS, evaluate
from panels import KINDS, ROUNDING, GuardedPanel, decode, encode, random, rounded, wide

from krylov import _core

PASSES = {p["name"]: p for p in _core.passes()}
SIZES = [*range(18), 31, 33, 100, 2047, 2049, 4095, 4096, 4097, 8193]
LARGE = 40_001  # enough for threads
COUNTS = [0, 1, 2, 7, 8, 9, 17]
# Every remainder with some counts of columns, every count with some remainders; and a few of all these.
SHAPES = [(n, COUNTS[i % 7]) for i, n in enumerate(SIZES)]
SHAPES += [(n, k) for n in (5, 24, 265) for k in COUNTS] + [(4099, 7), (LARGE, 3)]
FEW = [(0, 2), (13, 9), (24, 17), (4097, 1), (8193, 3)]
# Passes beside a panel, with the vector of theirs that is projected or combined.
PROJECTED = [("dot", 0), ("cg_residual_old", 0), ("residual", 0), ("direction", 0), ("cg_step", 1)]
COMBINED = [("copy", 1), ("direction", 1), ("cg_step", 2), ("residual", 2), ("dot", 1)]


@pytest.fixture(params=_core.tables())
def table(request):
    previous = _core.use_table(request.param)
    yield request.param
    _core.use_table(previous)


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def kind(request):
    return request.param


def epsilon(dtype):
    return float(np.finfo(dtype).eps)


def weights(count, dtype, seed=0):
    return random(seed + 100, count, np.dtype("c16" if dtype.kind == "c" else "f8"))


def pass_vectors(name, n, dtype):
    return [random(50 + k, n, dtype) for k in range(PASSES[name]["vectors"])]


def coefs_of(name):
    return COEFS[: PASSES[name]["coefs"]]


def assert_sums(sums, expected, slack=0.0):
    assert len(sums) == len(expected)
    for value, (truth, scale) in zip(sums, expected, strict=True):
        assert abs(value - truth) <= (1e-13 + slack) * scale


def assert_stored(vectors, stored, dtype, scale=8.0):
    for k, truth in stored.items():
        assert (abs(vectors[k] - truth) <= epsilon(dtype) * (scale + 2 * abs(truth))).all(), k


def assert_near_products(values, left, right):
    """values = left^H right to rounding in double precision."""
    truth = left.conj().T @ right
    size = np.outer(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=0))
    assert (abs(values - truth) <= 1e-13 * size).all()


# -------------------------------------------------------------------------------------------------
# project: an ordinary pass, and behind it c = B^H v


def assert_project(kind, name, which, shapes):
    dtype, storage = kind
    for n, count in shapes:
        guarded = GuardedPanel(n, dtype, storage, count, offset=n % 3)
        columns, before = guarded.matrix(range(count)), pass_vectors(name, n, dtype)
        stored, true_sums = evaluate(name, before, COEFS)
        for table in _core.tables():
            vectors = [v.copy() for v in before]
            sums, c = guarded.panel.run(
                table, "project", name, vectors, coefs_of(name), range(count), which
            )
            assert_stored(vectors, stored, dtype)
            assert_sums(sums, true_sums)
            assert_near_products(np.array(c)[:, None], columns, wide(vectors[which])[:, None])
            guarded.assert_untouched()


def test_project(kind):
    assert_project(kind, "dot", 0, SHAPES)


@pytest.mark.parametrize(("name", "which"), PROJECTED)
def test_project_beside_a_pass(kind, name, which):
    assert_project(kind, name, which, FEW)


# -------------------------------------------------------------------------------------------------
# combine: z = gamma r + B d, and an ordinary pass that reads z


def assert_combine(kind, name, which, shapes, from_nothing):
    dtype, storage = kind
    for n, count in shapes:
        guarded = GuardedPanel(n, dtype, storage, count, offset=n % 3)
        d = weights(count + 1, dtype)
        r = None if from_nothing else random(60, n, dtype)
        z = guarded.matrix(range(count)) @ d[1:] + (0 if r is None else d[0] * wide(r))
        before = pass_vectors(name, n, dtype)
        before[which] = z.astype(dtype)
        stored, true_sums = evaluate(name, before, COEFS)
        for table in _core.tables():
            vectors = [v.copy() for v in before]
            vectors[which] = None  # z is never in memory
            sums, c = guarded.panel.run(
                table, "combine", name, vectors, coefs_of(name), range(count), which, r, d
            )
            assert_stored(vectors, stored, dtype, 8.0 + count)
            # An entry of z is rounded one way or the other where two sums differ in their last bit.
            assert_sums(sums, true_sums, epsilon(dtype))
            assert c == [0] * count
            guarded.assert_untouched()


@pytest.mark.parametrize("from_nothing", [False, True], ids=["gamma r + B d", "B d"])
def test_combine(kind, from_nothing):
    assert_combine(kind, "copy", 1, SHAPES, from_nothing)


@pytest.mark.parametrize(("name", "which"), COMBINED)
def test_combine_beside_a_pass(kind, name, which):
    assert_combine(kind, name, which, FEW, False)


def test_combine_into_its_own_source(table, kind):
    dtype, storage = kind
    for n in (1, 7, 4097, 8193):
        guarded = GuardedPanel(n, dtype, storage, 2)
        r, d = random(60, n, dtype), weights(3, dtype)
        expected = guarded.matrix([0, 1]) @ d[1:] + d[0] * wide(r)
        guarded.panel.run(table, "combine", "copy", [r, None], [], [0, 1], 1, r, d)
        assert_stored([r], {0: expected}, dtype)


def test_combine_repeats_and_reorders_columns(table, kind):
    dtype, storage = kind
    guarded = GuardedPanel(37, dtype, storage, 4)
    out, columns, d = np.empty(37, dtype), [3, 1, 3, 0, 0], weights(6, dtype)
    d[0] = 0
    guarded.panel.run(table, "combine", "copy", [out, None], [], columns, 1, None, d)
    assert_stored([out], {0: guarded.matrix(columns) @ d[1:]}, dtype)
    expected = guarded.matrix(columns)
    _, c = guarded.panel.run(table, "project", "dot", [out, out], [], columns, 0)
    assert_near_products(np.array(c)[:, None], expected, wide(out)[:, None])


# -------------------------------------------------------------------------------------------------
# gram


def test_gram(table, kind):
    dtype, storage = kind
    for n, count in SHAPES:
        guarded = GuardedPanel(n, dtype, storage, count + 3, offset=n % 3)
        left, right = range(count), range(count, count + 3)
        for rows, columns in ((left, right), (right, left), (left, [])):
            gram = guarded.panel.gram(list(rows), list(columns))
            assert gram.shape == (len(rows), len(columns))
            assert_near_products(gram, guarded.matrix(rows), guarded.matrix(columns))
        guarded.assert_untouched()


def test_gram_of_a_panel_with_itself_is_hermitian_to_the_bit(table, kind):
    dtype, storage = kind
    guarded = GuardedPanel(4099, dtype, storage, 9)
    gram = guarded.panel.gram(list(range(9)), list(range(9)))
    if table != "reference" or dtype.kind == "f":
        assert np.array_equal(np.diag(gram).imag, np.zeros(9))
    assert np.array_equal(gram, gram.conj().T)


# -------------------------------------------------------------------------------------------------
# put


@pytest.mark.parametrize("scale", [1.0, -0.3, 1 / 3])
def test_put(table, kind, scale):
    dtype, storage = kind
    for n in [*SIZES, LARGE]:
        guarded = GuardedPanel(n, dtype, storage, 3, offset=n % 3)
        x = random(60, n, dtype)
        guarded.panel.put(1, x, scale)
        assert np.array_equal(guarded.reals(1), encode(scale * wide(x), storage))
        guarded.assert_untouched(but=[1])


# -------------------------------------------------------------------------------------------------
# rotate


def assert_rotated(guarded, sources, targets, dtype, storage, seed=0):
    u = np.stack([weights(len(sources), dtype, seed + k) for k, _ in enumerate(targets)], axis=1)
    before = guarded.matrix(sources)
    truth = before @ u
    guarded.panel.rotate(sources, targets, u)
    scale = abs(before) @ abs(u)
    error = abs(guarded.matrix(targets) - truth)
    assert (error <= 2 * ROUNDING[storage] * abs(truth) + 4e-16 * (len(sources) + 1) * scale).all()
    guarded.assert_untouched(but=targets)


def test_rotate(table, kind):
    dtype, storage = kind
    for n, count in SHAPES:
        targets = 1 + n % 9
        if count == 0:
            continue
        guarded = GuardedPanel(n, dtype, storage, count + targets, offset=n % 3)
        new = list(range(count, count + targets))
        assert_rotated(guarded, list(range(count)), new, dtype, storage)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [3, 1]),
        ([0, 1, 2, 3], [2, 5, 0]),
        ([4, 0], [0, 4, 1]),
        ([2], [2]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
    ids=str,
)
def test_rotate_in_place(table, kind, sources, targets):
    dtype, storage = kind
    for n in (1, 8, 127, 129, 4097):
        guarded = GuardedPanel(n, dtype, storage, 9, offset=n % 3)
        assert_rotated(guarded, sources, targets, dtype, storage, n)


def test_rotate_without_sources_or_targets(table, kind):
    dtype, storage = kind
    guarded = GuardedPanel(33, dtype, storage, 3)
    guarded.panel.rotate([0, 1], [], np.empty((2, 0)))
    guarded.assert_untouched()
    guarded.panel.rotate([], [2], np.empty((0, 1)))
    assert not guarded.matrix([2]).any()


# -------------------------------------------------------------------------------------------------
# Misuse


def panel(count=3, n=4):
    return GuardedPanel(n, np.dtype("f8"), "float32", count).panel


@pytest.mark.parametrize(
    ("misuse", "error", "message"),
    [
        (lambda: _core.Panel(4, 1, "float16", []), ValueError, "float16"),
        (lambda: _core.Panel(4, 0, "float64", []), ValueError, "float64 panel"),
        (lambda: _core.Panel(4, 1, "float64", [np.ones(3)]), ValueError, "panel's size"),
        (lambda: _core.Panel(4, 1, "float64", [np.ones(8)[::2]]), ValueError, "contiguous"),
        (lambda: _core.Panel(1, 1, "float64", [np.broadcast_to(1.0, 1)]), ValueError, "writable"),
        (lambda: _core.Panel(1, 1, "float64", [np.ones(1)] * 513), ValueError, "at most 512"),
        (lambda: panel().put(3, np.ones(4)), IndexError, "column"),
        (lambda: panel().put(-1, np.ones(4)), IndexError, "column"),
        (lambda: panel().put(0, np.ones(5)), ValueError, "size"),
        (lambda: panel().put(0, np.ones(4, "f4")), ValueError, "dtype"),
        (lambda: panel().put(0, np.ones(8)[::2]), ValueError, "contiguous"),
        (lambda: panel().gram([0, 7], [0]), IndexError, "column"),
        (lambda: panel().gram([0] * 513, [0]), ValueError, "too many"),
        (lambda: panel().rotate([0, 1], [2], np.ones((1, 2))), ValueError, "row per source"),
        (lambda: panel().rotate([0, 1], [2], np.ones(2)), ValueError, "row per source"),
        (lambda: panel().run("auto", "sum", "dot", [], [], [0], 0), ValueError, "sum"),
        (
            lambda: panel().run("auto", "project", "dot", [np.ones(4)], [], [0], 0),
            ValueError,
            "number of vectors",
        ),
        (
            lambda: panel().run("auto", "project", "dot", [np.ones(4)] * 2, [], [0], 2),
            ValueError,
            "number of vectors",
        ),
        (
            lambda: panel().run("auto", "combine", "dot", [np.ones(4), None], [], [0], 1),
            ValueError,
            "weights",
        ),
        (
            lambda: _core.LowRank(panel(), 1).set([0, 1], 1.0, np.eye(2)),
            ValueError,
            "more columns than capacity",
        ),
        (lambda: _core.LowRank(panel(), 2).set([0], 1.0, np.eye(2)), ValueError, "square"),
        (
            lambda: _core.LowRank(panel(), 2).apply(np.ones(4), np.ones(3)),
            ValueError,
            "panel's size",
        ),
    ],
)
def test_misuse_is_refused(misuse, error, message):
    with pytest.raises(error, match=message):
        misuse()


def test_a_stored_vector_is_what_the_column_gives_back(table, kind):
    dtype, storage = kind
    guarded = GuardedPanel(50, dtype, storage, 1)
    x, out = random(60, 50, dtype), np.empty(50, dtype)
    guarded.panel.put(0, x)
    guarded.panel.run(table, "combine", "copy", [out, None], [], [0], 1, None, [0.0, 1.0])
    assert np.array_equal(out, rounded(x, storage).astype(dtype))
    assert np.array_equal(decode(guarded.reals(0), storage, dtype), rounded(x, storage))
