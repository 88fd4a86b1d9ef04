"""Each pass of the fastest table: the time of 32 or 4 calls, and its bandwidth beside axpy's."""

from __future__ import annotations

import pytest

from krylov import _core
from krylov.bench import kernels


@pytest.mark.parametrize("n", kernels.SIZES, ids="{:.0e}".format)
@pytest.mark.parametrize("name", [line["name"] for line in _core.passes()])
def test_pass(benchmark, judge, name, n):
    benchmark.pedantic(kernels.pass_calls("auto", name, n).turn, rounds=5, warmup_rounds=1)
    judge(kernels.against_axpy("auto", name, n))
