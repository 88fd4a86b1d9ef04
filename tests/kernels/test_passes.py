"""Every pass on every table against NumPy, at all remainders, misaligned, with memory around it guarded."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from formulas import COEFS, FORMULAS, evaluate

from krylov import _core
from krylov.workspace import dtype_code

PASSES = {p["name"]: p for p in _core.passes()}
SIZES = [0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 100, 2049, 4095, 4096, 4097, 8193]
LARGE = 60_001  # enough for threads
GUARD = 19


def random(rng, n, dtype):
    x = rng.standard_normal(n) + (1j * rng.standard_normal(n) if dtype.kind == "c" else 0)
    return x.astype(dtype)


def make_vectors(name, n, dtype, offset=0):
    """Vectors inside larger buffers: (buffers, vectors), each vector starting `offset` elements in."""
    rng = np.random.default_rng(n)
    buffers = [random(rng, n + offset + GUARD, dtype) for _ in range(PASSES[name]["vectors"])]
    return buffers, [buffer[offset : offset + n] for buffer in buffers]


def run(table, name, vectors, coefs=COEFS):
    return _core.run_pass(table, name, vectors, coefs[: PASSES[name]["coefs"]])


def loads(name, k):
    return PASSES[name]["loads"] >> k & 1


def stores(name, k):
    return PASSES[name]["stores"] >> k & 1


def assert_near(vectors, sums, stored, true_sums, dtype):
    eps = np.finfo(dtype).eps
    for k, expected in stored.items():
        assert (abs(vectors[k] - expected) <= 16 * eps + 2 * eps * abs(expected)).all(), (
            f"vector {k}"
        )
    assert len(sums) == len(true_sums)
    for value, (expected, scale) in zip(sums, true_sums, strict=True):
        assert abs(value - expected) <= 1e-13 * scale  # of float64, for float32 vectors too


def test_every_pass_has_a_formula():
    assert list(PASSES) == list(FORMULAS)


@pytest.fixture(params=_core.tables())
def table(request):
    return request.param


@pytest.fixture(params=list(PASSES))
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("offset", "sizes"), [(0, [33, LARGE]), (1, SIZES)], ids=["aligned", "shifted"]
)
def test_pass_is_its_formula(name, dtype, offset, sizes):
    for n in sizes:
        before, vectors = make_vectors(name, n, dtype, offset)
        truth = evaluate(name, vectors, COEFS)
        naive = [v.copy() for v in vectors]
        naive_sums = [
            (s, scale)
            for s, (_, scale) in zip(run("reference", name, naive), truth[1], strict=True)
        ]
        for table in _core.tables():
            buffers = [buffer.copy() for buffer in before]
            vectors = [buffer[offset : offset + n] for buffer in buffers]
            sums = run(table, name, vectors)
            assert_near(vectors, sums, *truth, dtype)
            assert_near(vectors, sums, {k: naive[k] for k in truth[0]}, naive_sums, dtype)
            for k, (buffer, old) in enumerate(zip(buffers, before, strict=True)):
                if stores(name, k):
                    buffer[offset : offset + n] = old[offset : offset + n]
                assert buffer.tobytes() == old.tobytes(), f"around vector {k} of {n} on {table}"


@pytest.mark.parametrize(
    "coefs", [[0] * 5, [1] * 5, [1j] * 5, [-1e-100, 1e100, 0, 2.0**300, 1e-100]], ids=str
)
def test_pass_with_unusual_coefficients(table, name, coefs):
    for dtype in (np.dtype("float64"), np.dtype("complex128")):
        _, vectors = make_vectors(name, 37, dtype)
        stored, true_sums = evaluate(name, vectors, coefs)
        sums = run(table, name, vectors, coefs)
        for k, expected in stored.items():
            assert (abs(vectors[k] - expected) <= 1e-14 * max(1, abs(expected).max())).all()
        for value, (expected, scale) in zip(sums, true_sums, strict=True):
            assert abs(value - expected) <= 1e-13 * scale


# -------------------------------------------------------------------------------------------------
# The masks tell the truth: what is not marked as loaded is not read, and so on. Traffic is counted from them.


def test_counts_follow_from_the_masks(name):
    row = PASSES[name]
    assert row["reads"] == row["loads"].bit_count()
    assert row["writes"] == row["stores"].bit_count()
    assert (row["loads"] | row["stores"]) == (1 << row["vectors"]) - 1


@pytest.mark.parametrize("n", [21, 64])
def test_pass_does_not_read_what_it_only_stores(name, dtype, n):
    for table in _core.tables():
        _, vectors = make_vectors(name, n, dtype)
        truth = evaluate(name, vectors, COEFS)
        for k, vector in enumerate(vectors):
            if not loads(name, k):
                vector[:] = np.nan
        assert_near(vectors, run(table, name, vectors), *truth, dtype)


@pytest.mark.parametrize("n", [21, 64])
def test_pass_reads_what_it_loads(name, dtype, n):
    loaded = [k for k in range(PASSES[name]["vectors"]) if loads(name, k)]
    for table, k in product(_core.tables(), loaded):
        _, vectors = make_vectors(name, n, dtype)
        vectors[k][:] = np.nan
        results = [
            run(table, name, vectors),
            *(v for j, v in enumerate(vectors) if stores(name, j)),
        ]
        assert any(np.isnan(result).any() for result in results)


def test_pass_writes_what_it_stores(table, name, dtype):
    _, vectors = make_vectors(name, 21, dtype)
    before = [v.copy() for v in vectors]
    run(table, name, vectors)
    for k, (vector, old) in enumerate(zip(vectors, before, strict=True)):
        assert (vector != old).all() == stores(name, k)


# -------------------------------------------------------------------------------------------------
# Vectors that are one memory: an operator may return its input, so v is p, t is s, z is r.

ALIASES = [
    ("dot", 0, 1),
    ("dot_pair", 0, 1),
    ("dot_pair", 0, 2),
    ("residual", 1, 2),
    ("direction", 1, 2),
    ("multiply", 0, 2),
    ("cg_residual", 0, 1),
    ("cg_step", 1, 2),
    ("bicgstab_omega", 0, 1),
    ("bicgstab_omega", 1, 2),
    ("bicgstab_step", 1, 3),
    ("bicgstab_step", 2, 4),
    ("bicgstab_step_m", 1, 3),
    ("bicgstab_step_m", 1, 6),
    ("bicgstab_step_m", 2, 5),
    ("bicgstab_step_m", 3, 6),
    ("neumann_step", 1, 2),
    ("neumann_step_m", 1, 3),
    ("neumann_step_m", 2, 3),
    ("lanczos_step", 1, 2),
]


@pytest.mark.parametrize(("name", "first", "second"), ALIASES)
def test_pass_on_shared_memory(dtype, name, first, second):
    for table, n in product(_core.tables(), (7, 100, 5001)):
        _, vectors = make_vectors(name, n, dtype)
        vectors[second] = vectors[first]
        truth = evaluate(name, [v.copy() for v in vectors], COEFS)
        assert_near(vectors, run(table, name, vectors), *truth, dtype)


# -------------------------------------------------------------------------------------------------
# Range and precision of the sums


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_norm_has_a_finite_sum_at_any_scale(table, size):
    x = np.full(100, size)
    plain, small, large = run(table, "norm", [x], [2.0**-520, 2.0**500])
    estimates = [
        np.sqrt(plain.real),
        np.sqrt(small.real) * 2.0**520,
        np.sqrt(large.real) * 2.0**-500,
    ]
    assert any(np.isclose(e, 10 * size, rtol=1e-12) for e in estimates)


def test_float32_is_summed_in_float64(table):
    x = np.full(100_003, 0.1, np.float32)
    exact = 100_003 * float(np.float32(0.1)) ** 2
    assert run(table, "dot", [x, x])[0].real == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_entry_reaches_the_sum(table, dtype, bad):
    for where in (0, 5, 4096, 8190):
        x, y = np.ones((2, 8191), dtype)
        x[where] = bad
        assert not np.isfinite(run(table, "dot", [x, y])[0])


# -------------------------------------------------------------------------------------------------
# Misuse


@pytest.mark.parametrize(
    ("table", "name", "vectors", "coefs", "message"),
    [
        ("auto", "dote", [np.ones(3)] * 2, [], "no pass named 'dote'"),
        ("sse", "dot", [np.ones(3)] * 2, [], "no table named 'sse'"),
        ("auto", "dot", [np.ones(3)], [], "takes 2 vectors"),
        ("auto", "axpy", [np.ones(3)] * 2, [], "1 coefficients"),
        ("auto", "dot", [np.ones(3), np.ones(4)], [], "of one size"),
        ("auto", "dot", [np.ones(3), np.ones(3, "f4")], [], "of one size and dtype"),
        ("auto", "dot", [np.ones(6)[::2]] * 2, [], "contiguous"),
        ("auto", "scale", [np.broadcast_to(1.0, 1)], [2], "writable"),
    ],
)
def test_misuse_is_refused(table, name, vectors, coefs, message):
    with pytest.raises(ValueError, match=message):
        _core.run_pass(table, name, vectors, coefs)


def test_groups_by_address_are_calls_one_by_one(name, dtype):
    for table in _core.tables():
        groups = [make_vectors(name, n, dtype, offset=1)[1] for n in (33, 0, 4100)]
        expected = [[v.copy() for v in vectors] for vectors in groups]
        coefs = [c.real for c in COEFS[: PASSES[name]["coefs"]]]
        sums = [s.real for vectors in expected for s in run(table, name, vectors, coefs)]
        sizes, addresses = [len(g[0]) for g in groups], [[v.ctypes.data for v in g] for g in groups]
        code = dtype_code(dtype)
        assert _core.run_pass_at(table, name, code, sizes, addresses, coefs) == sums
        for vectors, others in zip(groups, expected, strict=True):
            assert all(np.array_equal(v, w) for v, w in zip(vectors, others, strict=True))


@pytest.mark.parametrize(
    ("name", "code", "sizes", "addresses", "coefs", "message"),
    [
        ("dote", 1, [0], [[0, 0]], [], "no pass named 'dote'"),
        ("dot", 4, [0], [[0, 0]], [], "dtype code"),
        ("dot", 1, [], [], [], "takes 2 vectors"),
        ("dot", 1, [0], [[0, 0]], [1.0], "0 coefficients"),
        ("dot", 1, [0, 0], [[0, 0]], [], "sizes and addresses"),
        ("dot", 1, [0, 0], [[0, 0], [0]], [], "number of vectors"),
        ("dot", 1, [-1], [[0, 0]], [], "negative"),
    ],
)
def test_misuse_by_address_is_refused(name, code, sizes, addresses, coefs, message):
    with pytest.raises(ValueError, match=message):
        _core.run_pass_at("auto", name, code, sizes, addresses, coefs)
