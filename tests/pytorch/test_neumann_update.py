"""The Neumann optimizer's arithmetic: one pass where it may be, foreach operations elsewhere, the same numbers."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from neumann_reference import neumann_run
from threadpoolctl import threadpool_limits
from torch import nn

import krylov.torch as kt
from krylov.torch.optim.neumann_update import Bucket, Coefficients, distance, update

SHAPES = [(5, 7), (4,), (), (0,), (3, 1, 2)]
DTYPES = [torch.float64, torch.float32]
LAYOUTS = {
    "contiguous": lambda t: t.clone(),
    "shifted": lambda t: torch.cat([torch.ones(1, dtype=t.dtype), t.reshape(-1)])[1:].view(t.shape),
    "spread": lambda t: t.unsqueeze(-1).repeat(*[1] * t.dim(), 2)[..., 0],
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() > 1 else t.clone(),
}
STEPS = {
    "plain": Coefficients(0.8, 0.9, 0.0, False),
    "attracted": Coefficients(0.8, 0.9, 0.4, False),
    "repelled": Coefficients(0.8, 0.9, -0.7, False),
    "reset": Coefficients(0.8, 0.9, 0.0, True),
    "no momentum": Coefficients(0.0, 0.9, 0.3, False),
    "average at once": Coefficients(0.5, 0.0, 0.3, False),
}


def bucket(layout, dtype, decay, averaged):
    rng = np.random.default_rng(3)
    found = Bucket(0.1, decay)
    for shape in SHAPES:
        vectors = [LAYOUTS[layout](torch.tensor(rng.standard_normal(shape))) for _ in range(4)]
        w, g, m, u = (v.to(dtype) for v in vectors)
        found.add(w, g, m, u if averaged else None, 7.0)
    return found


def by_formula(b, c):
    """In float64; lists of w, m and u."""
    found = [[], [], []]
    averages = b.u or [torch.zeros_like(w) for w in b.w]
    for row in zip(b.w, b.g, b.m, averages, strict=True):
        w, g, m, u = (tensor.double() for tensor in row)
        d = g + b.weight_decay * w + c.pull * u
        new = (0 if c.reset else c.mu) * m - b.lr * d
        step = c.mu * new - b.lr * d
        for kept, value in zip(found, (w + step, new, c.gamma * (u + step)), strict=True):
            kept.append(value)
    return found


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_form_is_the_formula(layout, step):
    for dtype, decay, averaged in product(DTYPES, (0.0, 0.3), (True, False)):
        if step.pull and not averaged:
            continue
        b = bucket(layout, dtype, decay, averaged)
        w, m, u = by_formula(b, step)
        fused = [t.is_contiguous() for t in b.w]
        update(b, step)
        for mine, true in zip((b.w, b.m, b.u), (w, m, u if averaged else []), strict=True):
            for x, y in zip(mine, true, strict=True):
                assert torch.allclose(x.double(), y, rtol=0, atol=20 * torch.finfo(dtype).eps)
        for square, x, in_one in zip(b.squares, u, fused, strict=True):
            known = averaged and in_one
            assert square == (pytest.approx(float(x.square().sum()), rel=1e-6) if known else None)


def test_layouts_cover_both_forms():
    def fused(layout):
        return [s is not None for s in after[layout].squares]

    after = {name: bucket(name, torch.float64, 0.0, True) for name in LAYOUTS}
    for b in after.values():
        update(b, STEPS["plain"])
    assert all(fused("contiguous"))
    assert all(fused("shifted"))
    assert set(fused("spread")) == set(fused("transposed")) == {True, False}


def layouts_of_three(dtype):
    rng = np.random.default_rng(1)
    tensors = [torch.tensor(rng.standard_normal(s), dtype=dtype) for s in [(3, 4), (5,), (2, 3)]]
    return [nn.Parameter(t) for t in (tensors[0], LAYOUTS["spread"](tensors[1]), tensors[2].mT)]


def read(params):
    return np.concatenate([p.detach().numpy().ravel() for p in params]).astype(float)


def give(params, gradient):
    parts = torch.from_numpy(gradient).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad = torch.empty_like(p).copy_(part.view(p.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_several_layouts_share_one_distance(dtype):
    def gradient(w, step):
        return np.cos(3 * w + step)

    params = layouts_of_three(dtype)
    options = {"warmup_steps": 2, "reset_every": 5, "alpha": 0.3, "beta": 0.2, "weight_decay": 0.1}
    expected = neumann_run(gradient, read(params), 20, lr=0.1, **options)["displaced"]
    optimizer = kt.Neumann(params, 0.1, **options)
    scale = 1e-11 if dtype == torch.float64 else 1e-3
    for k in range(20):
        give(params, gradient(read(params), k + 1))
        optimizer.step()
        np.testing.assert_allclose(read(params), expected[k], atol=scale)
    kept = ["square" in optimizer.state[p] for p in params]
    assert kept == [True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_distance_is_that_of_the_parameters_that_take_part(dtype):
    params = layouts_of_three(dtype)
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.05}]
    optimizer = kt.Neumann(groups, 0.1, warmup_steps=2, reset_every=7, alpha=0.1, beta=0.01)
    for step in range(25):
        give(params, np.sin(read(params) + step))
        for k, p in enumerate(params):
            if step % 4 == k + 1:
                p.grad = None
        lengths = [optimizer.state[p]["u"].norm() for p in params if step and p.grad is not None]
        optimizer.step()
        if not math.isnan(optimizer.last_step.distance):
            assert optimizer.last_step.distance == pytest.approx(math.hypot(*lengths), rel=1e-6)


def test_a_warm_up_that_comes_late_forgets_the_squares():
    """A state may go on in an optimizer whose warm-up is longer: u moves without a pass."""
    (p, *_) = params = layouts_of_three(torch.float64)
    first = kt.Neumann(params, 0.1, warmup_steps=0, reset_every=None)
    second = kt.Neumann(params, 0.1, warmup_steps=4, reset_every=None)
    for _ in range(3):
        give(params, np.sin(read(params)))
        first.step()
    second.load_state_dict(first.state_dict())
    assert "square" in second.state[p]
    give(params, np.sin(read(params)))
    second.step()
    assert second.last_step.warmup
    assert "square" not in second.state[p]


def test_no_parameters_have_no_distance():
    assert distance([Bucket(0.1, 0.0)]) == 0


def test_a_step_has_the_same_bits_for_any_number_of_threads():
    results = set()
    for threads in (1, 2, 3):
        generator = torch.Generator().manual_seed(0)
        w = nn.Parameter(torch.randn(90_001, generator=generator))
        optimizer = kt.Neumann([w], 0.1, warmup_steps=0, reset_every=3, beta=1.0)
        with threadpool_limits(threads, user_api="openmp"):
            for _ in range(5):
                w.grad = torch.randn(90_001, generator=generator)
                optimizer.step()
        results.add(w.detach().numpy().tobytes())
    assert len(results) == 1


def test_autograd_notices_a_pass():
    w = nn.Parameter(torch.ones(3))
    optimizer = kt.Neumann([w], 0.1, warmup_steps=0)
    value = w.pow(3).sum()
    w.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_steps_in_inference_mode():
    """Buffers that are made there cannot be marked as written; the step must not fail for it."""
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    optimizer = kt.Neumann([w], 0.1, warmup_steps=0)
    with torch.inference_mode():
        optimizer.step()
    assert torch.allclose(w.detach(), torch.full((2,), 1 - 0.15))
