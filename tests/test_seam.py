"""The seam under the recurrences: vectors in two parts, sums added between a pass and its finish."""

import numpy as np
import pytest

from krylov import _core
from krylov.workspace import dtype_code, staggered


def part_of_run(method, b, dtype, **options):
    run = _core.Run(method, b.size, dtype_code(np.dtype(dtype)), maxiter=200, **options)
    run.set_partial_sums(True)
    memory = dict(zip(run.slots, staggered(len(run.slots), b.size, np.dtype(dtype)), strict=True))
    memory["b"], memory["x"] = b, np.zeros_like(b)
    for slot, name in enumerate(run.slots):
        run.set_vector(slot, memory[name])
    return run, memory["x"]


@pytest.mark.parametrize("method", ["cg", "flexible_cg", "bicgstab", "neumann"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_two_shards_make_one_solve(method, dtype):
    n, cut = 300, 117
    rng = np.random.default_rng(1)
    a = np.diag(np.linspace(1.0, 3.0, n)).astype(dtype)
    a[0, -1] = a[-1, 0] = 0.5  # couples the shards
    b = rng.standard_normal(n).astype(dtype)
    options = {"rtol": 1e-10, "step": 0.5}
    (low, x_low), (high, x_high) = (
        part_of_run(method, part.copy(), dtype, **options) for part in (b[:cut], b[cut:])
    )
    runs = (low, high)
    answers = (None, None)
    while True:
        codes = [run.advance(answer) for run, answer in zip(runs, answers, strict=True)]
        # Branches are taken from reduced scalars: the shards never part.
        assert codes[0] == codes[1]
        request, source = codes[0] & 15, (codes[0] >> 4 & 4095) - 1
        if request == int(_core.Request.DONE):
            break
        answers = (None, None)
        if request == int(_core.Request.REDUCE):
            total = np.add(low.sums, high.sums)
            for run in runs:
                run.sums = total
        else:
            product = a @ np.concatenate([run.vectors[source] for run in runs])
            answers = (product[:cut].copy(), product[cut:].copy())
    assert low.status == high.status == _core.Status.CONVERGED
    x = np.concatenate([x_low, x_high])
    assert np.linalg.norm(b - a @ x) < 1e-10 * np.linalg.norm(b)
