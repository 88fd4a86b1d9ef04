"""Products over micro-batches and with several columns at once, and what is kept for them."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import (
    FIRST,
    KINDS,
    LABELS,
    X,
    close,
    dense,
    draw,
    operator,
)

import krylov.torch as kt
from krylov.torch import curvature, microbatches

torch.set_num_threads(1)


def batched(kind, data, model=FIRST.model, **options):
    if kind == "hessian":
        return kt.HessianOperator(
            lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
            model.parameters(),
            data=data,
            **options,
        )
    return kt.GaussNewtonOperator(
        lambda batch: model(batch[0]),
        lambda z, batch: F.cross_entropy(z, batch[1]),
        model.parameters(),
        data=data,
        **options,
    )


BATCHES = [(X[:3], LABELS[:3]), (X[3:4], LABELS[3:4]), (X[4:], LABELS[4:])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["auto", "graph", "none"])
def test_micro_batches_are_the_mean_over_all_samples(kind, cache):
    whole, A = operator(FIRST, kind), batched(kind, BATCHES, cache=cache)
    close(A @ draw(36), whole @ draw(36))
    close(A @ draw(36, 20), whole @ draw(36, 20))
    close(A.gradient, whole.gradient)
    assert pytest.approx(whole.loss) == A.loss
    assert A.count == 21
    assert A._batches.kept == (0 if cache == "none" else 3)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_micro_batches(kind):
    weights = [0.5, -2.0, 3.0]
    A = batched(kind, BATCHES, weights=weights)
    parts = [batched(kind, [batch]) for batch in BATCHES]
    expected = sum(w * (part @ draw(36)) for w, part in zip(weights, parts, strict=True))
    close(A @ draw(36), expected)
    close(A.gradient, sum(w * part.gradient for w, part in zip(weights, parts, strict=True)))
    assert pytest.approx(sum(w * p.loss for w, p in zip(weights, parts, strict=True))) == A.loss


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_into_memory_is_kept(kind, monkeypatch):
    whole = operator(FIRST, kind)
    room = iter([1 << 40, 0, 1 << 40])
    monkeypatch.setattr(microbatches, "available_bytes", lambda device: next(room))
    A = batched(kind, BATCHES)
    assert A._batches.kept == 2
    close(A @ draw(36), whole @ draw(36))
    monkeypatch.setattr(microbatches, "available_bytes", lambda device: 0)
    B = batched(kind, BATCHES)
    assert B._batches.kept == 0
    close(B @ draw(36), whole @ draw(36))


@pytest.mark.parametrize("kind", KINDS)
def test_without_cache_nothing_is_kept(kind):
    A = operator(FIRST, kind, cache="none")
    assert A._batches.kept == 0
    close(A @ draw(36), dense(FIRST, kind) @ draw(36))


@pytest.mark.parametrize("kind", KINDS)
def test_few_columns_at_once_where_memory_is_short(kind, monkeypatch):
    monkeypatch.setattr(curvature, "available_bytes", lambda device: 0)
    A = operator(FIRST, kind)
    close(A @ draw(36, 4), dense(FIRST, kind) @ draw(36, 4))
    assert A._columns == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 1, 2, 16, 17])
def test_matrices_of_any_width(kind, k):
    A, V = operator(FIRST, kind), draw(36, k)
    product = A @ V
    assert product.shape == (36, k)
    assert A.count == k
    close(product, torch.stack([A @ v for v in V.T], 1) if k else V)
