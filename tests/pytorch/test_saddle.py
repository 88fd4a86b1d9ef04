"""The way out of saddles."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import krylov.torch as kt

# Every variant that looks for negative curvature; "ggn" has none to look at here.
VARIANTS = [
    {"curvature": "hessian", "solver": "bicgstab"},
    {"curvature": "hessian", "solver": "cg"},
    {"curvature": "hessian", "solver": "flexible_cg", "preconditioner": "ritz"},
]


def saddle(w):
    return 0.5 * w[0] ** 2 + 0.25 * w[1] ** 4 - 0.5 * w[1] ** 2


def descend(start, steps=25, f=saddle, **options):
    w = torch.tensor(start, requires_grad=True)
    optimizer = kt.HessianFree([w], damping=0.1, **options)
    records = []
    for _ in range(steps):
        optimizer.step(lambda: f(w))
        records.append(optimizer.last_step)
    return w.detach(), records


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: o["solver"])
@pytest.mark.parametrize("start", [(1.0, 0.0), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_example_is_escaped(start, options, dtype, seed):
    """Papers expect Bi-CG-STAB to do so by itself; from here no Krylov method does."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        w, records = descend(start, seed=seed, **options)
    finally:
        torch.set_default_dtype(previous)
    assert records[-1].loss_after == pytest.approx(-0.25, abs=1e-6)
    assert abs(w[1]) == pytest.approx(1, abs=1e-3)
    assert sum(record.escapes for record in records) == 1
    escape = next(record for record in records if record.escapes)
    assert escape.accepted
    assert escape.products > 0
    assert escape.loss_after < escape.loss_before
    assert escape.gradient_equivalents >= 1 + 2 * escape.products


def test_without_escape_it_is_not():
    w, records = descend((1.0, 0.0), curvature="hessian", solver="bicgstab", escape=False)
    assert records[-1].loss_after == pytest.approx(0, abs=1e-12)
    assert w[1] == 0


def test_a_seed_decides_every_bit():
    def run(seed):
        return descend((0.0, 0.0), steps=4, curvature="hessian", seed=seed)[0]

    assert torch.equal(run(3), run(3))
    assert len({bytes(run(seed).numpy()) for seed in range(8)}) > 1


def test_ggn_looks_at_the_hessian_only_on_demand():
    """f = w^4 / 4 - w^2 / 2 as a loss of the output w: the Gauss-Newton matrix is the Hessian of an identity."""

    def run(escape):
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = kt.HessianFree([w], escape=escape)

        def closure():
            z = w * torch.ones(2, dtype=w.dtype)
            return (z**4 / 4 - z**2 / 2).sum(), z

        for _ in range(30):
            optimizer.step(closure)
        return optimizer.last_step.loss_after

    assert run(None) == 0
    assert run(True) == pytest.approx(-0.5, abs=1e-4)


def test_a_search_in_vain_is_not_repeated_at_once():
    w, records = descend((2.0, -1.0), f=lambda w: (w**2).sum(), steps=30, curvature="hessian")
    assert w.abs().max() < 1e-4
    searches = [record.step for record in records if "escape" in record.seconds]
    assert searches
    assert all(b - a >= 10 for a, b in itertools.pairwise(searches))
    assert not any(record.escapes for record in records)


@pytest.mark.parametrize("f", [lambda w: (w**4).sum(), lambda w: (0 * w).sum()], ids=["w4", "0"])
def test_no_curvature_at_all(f):
    w, records = descend((0.0, 0.0), f=f, steps=3, curvature="hessian")
    assert torch.equal(w, torch.zeros(2))
    assert not any(record.accepted for record in records)


def test_unbounded_below_ends_at_a_finite_loss():
    w, records = descend((0.0, 0.0), f=lambda w: -(w**2).sum(), steps=1, curvature="hessian")
    assert records[0].escapes == 1
    assert math.isfinite(records[0].loss_after)
    assert torch.isfinite(w).all()


def test_a_ledge_beside_the_saddle_is_not_jumped_to():
    """The loss is NaN but near the saddle: the step gets shorter until it is not."""

    def f(w):
        value = saddle(w)
        return value * math.nan if float(w.detach().norm()) > 1e-3 else value

    w, records = descend((0.0, 0.0), f=f, steps=1, curvature="hessian")
    assert records[0].escapes == 1
    assert 0 < w.norm() <= 1e-3
    assert records[0].loss_after < 0


def test_groups_with_learning_rate_zero_stay_where_they_are():
    a = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    groups = [{"params": [a], "lr": 0.0}, {"params": [b]}]
    optimizer = kt.HessianFree(groups, curvature="hessian")
    optimizer.step(lambda: saddle(a) + saddle(b))
    assert optimizer.last_step.escapes == 1
    assert torch.equal(a, torch.zeros_like(a))
    assert b.abs().max() > 0


def test_a_stall_is_answered_too():
    """The gradient is large, and no step of its runs is any good: a wall stands across it."""

    def f(w):
        value = saddle(w) + 10 * w[2]
        return value + 1e6 * (w[2].detach() < 0)

    w, records = descend((0.0, 1e-3, 0.0), f=f, steps=4, curvature="hessian", retries=0)
    assert [record.escapes for record in records[:2]] == [0, 1]
    assert abs(w[1]) > 0.1


def test_negative_curvature_is_told_from_rounding():
    """A singular positive semidefinite matrix has no negative eigenvalue but that of rounding."""
    rng = np.random.default_rng(0)
    root = torch.tensor(rng.standard_normal((3, 12)), dtype=torch.float32)
    _, records = descend(
        tuple([0.0] * 12), f=lambda w: (root @ w).square().sum(), steps=1, curvature="hessian"
    )
    assert records[0].products > 0
    assert records[0].escapes == 0
