"""The arithmetic of the Neumann optimizer on lists of tensors: the one place that a fused kernel would replace.

    r = |w - v|                               (all parameters of the optimizer)
    d = g + decay w + (alpha r^2 - beta / r^2) (w - v) / r
    m = mu m - eta d
    w = w + mu m - eta d
    v = w + gamma (v - w)

`offsets` reads 2 vectors and writes 1, `update` reads 5 and writes 3 if its operations were one; as they are, with
``torch._foreach_*``, one call an operation whatever the number of tensors, they read 14 and write 8. Adam's foreach
form reads 13 and writes 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Bucket", "Coefficients", "distance", "largest_entry", "offsets", "plain_step", "update"]


@dataclass
class Bucket:
    """Parameters of one group, dtype and device with their gradients, and the two buffers of each.

    `v` is empty where nothing depends on the moving average.
    """

    lr: float
    weight_decay: float
    w: list[Tensor] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)
    m: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Entries."""
        return sum(tensor.numel() for tensor in self.w)


@dataclass(frozen=True)
class Coefficients:
    """What all buckets of a step have in common; `pull` is ``(alpha r^2 - beta / r^2) / r``."""

    mu: float
    gamma: float
    pull: float
    reset: bool


def largest_entry(buckets: list[Bucket]) -> float:
    """The largest magnitude of all gradients; NaN if any entry is."""
    return _max_or_nan(
        [n for b in buckets for n in _values(torch._foreach_norm(b.g, float("inf")))]
    )


def _max_or_nan(values: list[float]) -> float:
    """The largest; NaN if any is."""
    return next((value for value in values if value != value), max(values))


def offsets(bucket: Bucket) -> list[Tensor]:
    """``w - v``, which `distance` and `update` need."""
    return list(torch._foreach_sub(bucket.w, bucket.v))


def distance(differences: list[list[Tensor]]) -> float:
    """``|w - v|``, Euclidean, over all buckets."""
    norms = [n for part in differences for n in _values(torch._foreach_norm(part))]
    # Norms are float32 where the parameters are; their squares need not fit.
    return math.sqrt(sum(norm * norm for norm in norms))


def plain_step(bucket: Bucket) -> None:
    """``w = w - eta (g + decay w)``: the warm-up."""
    if bucket.weight_decay:
        torch._foreach_mul_(bucket.w, 1 - bucket.lr * bucket.weight_decay)
    torch._foreach_add_(bucket.w, bucket.g, alpha=-bucket.lr)


def update(bucket: Bucket, coefficients: Coefficients, difference: list[Tensor] | None) -> None:
    """One step for a bucket, in place; `difference` is overwritten. Without it d is the gradient, decay included."""
    w, m, eta, mu = bucket.w, bucket.m, bucket.lr, coefficients.mu
    d = bucket.g
    if difference is not None:
        d = difference
        torch._foreach_mul_(d, coefficients.pull)
        torch._foreach_add_(d, bucket.g)
        if bucket.weight_decay:
            torch._foreach_add_(d, w, alpha=bucket.weight_decay)
    elif bucket.weight_decay:
        d = list(torch._foreach_add(d, w, alpha=bucket.weight_decay))
    if coefficients.reset:
        torch._foreach_zero_(m)
    else:
        torch._foreach_mul_(m, mu)
    torch._foreach_add_(m, d, alpha=-eta)
    torch._foreach_add_(w, m, alpha=mu)
    torch._foreach_add_(w, d, alpha=-eta)
    if bucket.v:
        torch._foreach_lerp_(bucket.v, w, 1 - coefficients.gamma)


def _values(norms: tuple[Tensor, ...] | list[Tensor]) -> list[float]:
    """One look of the host for all of them."""
    values: list[float] = torch.stack(list(norms)).tolist()
    return values
