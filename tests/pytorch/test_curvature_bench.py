"""What `krylov bench curvature` measures. Its figures are bench/'s business."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

from krylov.bench import curvature
from krylov.bench.networks import NETWORKS


def test_operations_meet_their_bars():
    rows = curvature.operations()
    assert len(rows) == 4
    assert all(set(row) == set(curvature.COLUMNS) for row in rows)
    assert all(row["met"] for row in rows)


def test_products_against_a_gradient_and_a_peer(monkeypatch):
    monkeypatch.setattr(curvature, "version", lambda name: "0")
    monkeypatch.setattr(curvature, "peer", lambda network, kind: torch.zeros(932_362, 1).T)
    name = next(iter(NETWORKS))
    rows = curvature.products(name, rounds=1)
    assert [row["met"] is None for row in rows] == [False, True] * 2
    assert {row["n"] for row in rows} == {932_362}
    assert all(row["ratio"] > 0 for row in rows)
    monkeypatch.setattr(curvature, "peer", lambda network, kind: None)
    assert len(curvature.products(name, rounds=1)) == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_products_of_these_networks(name):
    network = NETWORKS[name]()
    for kind in curvature.KINDS:
        A = curvature.operator(network, kind)
        v = torch.ones(A.shape[0])
        assert torch.isfinite(A @ v).all()
    assert float(v @ (A @ v)) > 0  # the last one is the Gauss-Newton matrix
