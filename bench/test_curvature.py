"""Curvature products: their time, and the rows that `krylov bench curvature` prints."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

from krylov.bench import curvature  # noqa: E402
from krylov.bench.networks import NETWORKS  # noqa: E402


@pytest.mark.parametrize("kind", curvature.KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_product(benchmark, name, kind):
    A = curvature.operator(NETWORKS[name](), kind)
    v = torch.randn(A.shape[0])
    benchmark.pedantic(A.matvec, (v,), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_products_against_curvlinops(benchmark, judge_all, name):
    pytest.importorskip("curvlinops")
    judge_all(benchmark.pedantic(curvature.products, (name,)))


def test_operations(benchmark, judge_all):
    judge_all(benchmark.pedantic(curvature.operations))
