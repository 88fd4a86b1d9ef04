"""The arithmetic of the Neumann optimizer on lists of tensors: the one place that a fused kernel would replace.

With u = w - v, which is kept instead of the moving average v, and r = |u| over all parameters:

    d = g + decay w + (alpha r^2 - beta / r^2) u / r
    s = mu (mu m - eta d) - eta d        the displaced parameters' step;   m = mu m - eta d
    w = w + s
    u = gamma (u + s)                    which is v = w + gamma (v - w)

As one pass `update` reads 4 vectors and writes 3, and `length` reads 1. As ``torch._foreach_*`` operations, one call
each for all tensors, `update` reads 14 vectors, writes 8 and holds none of its own; Adam's foreach form reads 11,
writes 7 and holds one more for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Bucket", "Coefficients", "finite", "length", "plain_step", "update"]


@dataclass
class Bucket:
    """Parameters of one group, dtype and device with their gradients, and the two buffers of each.

    `u` is empty where nothing depends on the moving average.
    """

    lr: float
    weight_decay: float
    w: list[Tensor] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)
    m: list[Tensor] = field(default_factory=list)
    u: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Entries."""
        return sum(tensor.numel() for tensor in self.w)


@dataclass(frozen=True)
class Coefficients:
    """What all buckets of a step have in common; `pull` is ``(alpha r^2 - beta / r^2) / r``, 0 at a reset."""

    mu: float
    gamma: float
    pull: float
    reset: bool


def finite(buckets: Sequence[Bucket]) -> bool:
    """Whether all gradients are."""
    if math.isfinite(length([bucket.g for bucket in buckets])):
        return True
    # A square may overflow where the entry does not; asking each entry is slow.
    return all(bool(torch.isfinite(tensor).all()) for bucket in buckets for tensor in bucket.g)


def length(parts: Sequence[list[Tensor]]) -> float:
    """The Euclidean norm of all tensors together: one reduction, and one look of the host, a list."""
    norms: list[float] = []
    for tensors in parts:
        norms += torch.stack(list(torch._foreach_norm(tensors))).tolist()
    return math.hypot(*norms)


def plain_step(bucket: Bucket) -> None:
    """``w = w - eta (g + decay w)``: the warm-up, in which v stays where it is."""
    w, u, eta = bucket.w, bucket.u, bucket.lr
    shrink = -eta * bucket.weight_decay
    if u and shrink:
        torch._foreach_add_(u, w, alpha=shrink)
    if shrink:
        torch._foreach_mul_(w, 1 + shrink)
    for each in (w, u):
        if each:
            torch._foreach_add_(each, bucket.g, alpha=-eta)


def update(bucket: Bucket, coefficients: Coefficients) -> None:
    """One step for a bucket, in place.

    Since ``-eta d = m' - mu m``, with m' the new m, the step is ``s = (1 + mu) m' - mu m``: its second half is taken
    before m is overwritten, and what d then finds in w and u too little is given back by the factor of m.
    """
    w, m, u, eta, mu = bucket.w, bucket.m, bucket.u, bucket.lr, coefficients.mu
    pull, decay = coefficients.pull, bucket.weight_decay
    moved = (w, u) if u else (w,)
    if coefficients.reset:
        torch._foreach_zero_(m)
    else:
        for each in moved:
            torch._foreach_add_(each, m, alpha=-mu)
        torch._foreach_mul_(m, mu * (1 - eta * (pull + decay)))
    torch._foreach_add_(m, bucket.g, alpha=-eta)
    if pull:
        torch._foreach_add_(m, u, alpha=-eta * pull)
    if decay:
        torch._foreach_add_(m, w, alpha=-eta * decay)
    for each in moved:
        torch._foreach_add_(each, m, alpha=1 + mu)
    if u:
        torch._foreach_mul_(u, coefficients.gamma)
