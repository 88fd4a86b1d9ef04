"""The seam of `tests/test_seam.py` with a low-rank M in the iteration: columns in two parts, sums added in between."""

import numpy as np
import pytest
from cases import vector
from panels import KINDS, encode
from test_seam import part_of_run

from krylov import _core
from krylov.workspace import DTYPES

N, CUT, COUNT = 300, 117, 4


def shard(columns, storage, dtype, gamma, k):
    """M on one part of the vectors: its rows of the columns, and the whole of K."""
    memory = [encode(column.copy(), storage) for column in columns.T]
    panel = _core.Panel(len(columns), DTYPES.index(dtype), storage, memory)
    low_rank = _core.LowRank(panel, COUNT)
    low_rank.set(list(range(COUNT)), gamma, k)
    return low_rank


def solve(runs, multiply):
    """Drive the shards in step; returns how many sums each reduction had."""
    answers, widths = [None] * len(runs), set()
    while True:
        codes = [run.advance(answer) for run, answer in zip(runs, answers, strict=True)]
        assert len(set(codes)) == 1  # branches are taken from reduced scalars
        request, source = codes[0] & 15, (codes[0] >> 4 & 4095) - 1
        if request == int(_core.Request.DONE):
            return widths
        answers = [None] * len(runs)
        if request == int(_core.Request.REDUCE):
            total = np.sum([run.sums for run in runs], axis=0)
            widths.add(total.size)
            for run in runs:
                run.sums = total
        else:
            answers = multiply([run.vectors[source] for run in runs])


@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def test_two_shards_make_one_solve(method, kind):
    dtype, storage = kind
    rtol = 1e-4 if np.finfo(dtype).bits == 32 else 1e-10
    a = np.diag(np.r_[np.linspace(1.0, 3.0, N - COUNT), np.geomspace(50, 500, COUNT)]).astype(dtype)
    a[0, -1] = a[-1, 0] = 0.5  # couples the shards
    b = vector(N, dtype)
    values, vectors = np.linalg.eigh(a)
    v, theta = vectors[:, -COUNT:].astype(dtype), values[-COUNT:]
    k = np.diag(1 / theta - 0.5)

    def multiply(parts):
        product = a @ np.concatenate(parts)
        ends = np.cumsum([part.size for part in parts])[:-1]
        return [part.copy() for part in np.split(product, ends)]

    results = []
    for cuts in ([], [CUT]):
        parts = zip(np.split(b, cuts), np.split(v, cuts), strict=True)
        runs, solutions = zip(
            *(
                part_of_run(
                    method,
                    rhs.copy(),
                    dtype,
                    rtol=rtol,
                    low_rank=shard(rows, storage, dtype, 0.5, k),
                )
                for rhs, rows in parts
            ),
            strict=True,
        )
        widths = solve(runs, multiply)
        assert max(widths) == COUNT + 2  # the sums of the residual pass and B^H r in one reduction
        assert {run.status for run in runs} == {_core.Status.CONVERGED}
        results.append((np.concatenate(solutions), runs[0].iterations))
    (whole, once), (sharded, again) = results
    assert np.linalg.norm(b - a @ sharded) < 1.1 * rtol * np.linalg.norm(b)
    assert abs(once - again) <= 1
    np.testing.assert_allclose(sharded, whole, atol=100 * rtol)


def test_m_helps_the_shards():
    """The same system without M takes longer: the columns were really used."""
    dtype = np.dtype("f8")
    a = np.r_[np.linspace(1.0, 3.0, N - COUNT), np.geomspace(50, 500, COUNT)]
    v, k = np.eye(N)[:, -COUNT:], np.diag(1 / a[-COUNT:] - 0.5)
    counts = []
    for with_m in (True, False):
        runs = []
        for rhs, rows in zip(np.split(vector(N), [CUT]), np.split(v, [CUT]), strict=True):
            low_rank = shard(rows, "float64", dtype, 0.5, k) if with_m else None
            runs.append(part_of_run("cg", rhs.copy(), dtype, rtol=1e-8, low_rank=low_rank)[0])
        solve(
            runs,
            lambda parts: [d * p for d, p in zip(np.split(a, [CUT]), parts, strict=True)],
        )
        counts.append(runs[0].iterations)
    assert counts[0] < 0.8 * counts[1]
