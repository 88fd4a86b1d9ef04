"""The arithmetic of the Neumann optimizer on lists of tensors.

With u = w - v, which is kept instead of the moving average v, and r = |u| over all parameters:

    d = g + decay w + (alpha r^2 - beta / r^2) u / r
    s = mu (mu m - eta d) - eta d        the displaced parameters' step;   m = mu m - eta d
    w = w + s
    u = gamma (u + s)                    which is v = w + gamma (v - w)

On contiguous CPU tensors that is one pass, which reads 4 vectors, writes 3 and leaves the next r^2 behind; fused Adam
moves as many. Elsewhere it is ``torch._foreach_*`` operations, one call each for all tensors: they read 14 vectors, 15
with r, write 8 and hold none of their own; Adam's foreach form reads 11, writes 7 and holds one more for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from krylov.torch import passes

__all__ = ["Bucket", "Coefficients", "distance", "finite", "plain_step", "update"]


@dataclass
class Bucket:
    """Parameters of one group, dtype and device with their gradients, and the two buffers of each.

    `u` is empty where nothing depends on the moving average. `squares` has ``|u|^2`` of each tensor where a pass has
    left it, else None.
    """

    lr: float
    weight_decay: float
    w: list[Tensor] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)
    m: list[Tensor] = field(default_factory=list)
    u: list[Tensor] = field(default_factory=list)
    squares: list[float | None] = field(default_factory=list)

    def add(
        self, w: Tensor, g: Tensor, m: Tensor, u: Tensor | None, square: float | None = None
    ) -> None:
        """Add a parameter."""
        self.w.append(w)
        self.g.append(g)
        self.m.append(m)
        if u is not None:
            self.u.append(u)
        self.squares.append(square)

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
    if math.isfinite(_length([bucket.g for bucket in buckets])):
        return True
    # A square may overflow where the entry does not; asking each entry is slow.
    return all(bool(torch.isfinite(tensor).all()) for bucket in buckets for tensor in bucket.g)


def distance(buckets: Sequence[Bucket]) -> float:
    """r: from what the passes of the last step have left, and by reading u where there was none."""
    known = sum(s for bucket in buckets for s in bucket.squares if s is not None)
    unknown = [
        [u for u, s in zip(bucket.u, bucket.squares, strict=True) if s is None]
        for bucket in buckets
    ]
    return math.hypot(math.sqrt(known), _length([tensors for tensors in unknown if tensors]))


def _length(parts: Sequence[list[Tensor]]) -> float:
    """The Euclidean norm of all tensors together: one reduction, and one look of the host, a list."""
    norms: list[float] = []
    for tensors in parts:
        norms += torch.stack(list(torch._foreach_norm(tensors))).tolist()
    return math.hypot(*norms)


def plain_step(bucket: Bucket) -> None:
    """``w = w - eta (g + decay w)``: the warm-up, in which v stays where it is."""
    w, u, eta = bucket.w, bucket.u, bucket.lr
    bucket.squares = [None] * len(w)
    shrink = -eta * bucket.weight_decay
    if u and shrink:
        torch._foreach_add_(u, w, alpha=shrink)
    if shrink:
        torch._foreach_mul_(w, 1 + shrink)
    for each in (w, u):
        if each:
            torch._foreach_add_(each, bucket.g, alpha=-eta)


def update(bucket: Bucket, coefficients: Coefficients) -> None:
    """One step for a bucket, in place: by the pass for tensors that it may take, by foreach operations for others."""
    if coefficients.reset:
        torch._foreach_zero_(bucket.m)
    columns = (
        (bucket.w, bucket.m, bucket.u, bucket.g) if bucket.u else (bucket.w, bucket.m, bucket.g)
    )
    rows = list(zip(*columns, strict=True))
    fits = [passes.runs_on(row) for row in rows]
    squares = iter(_in_one_pass(bucket, coefficients, list(compress(rows, fits))))
    bucket.squares = [next(squares, None) if fit else None for fit in fits]
    if not all(fits):
        others = [not fit for fit in fits]
        w, g, m, u = (
            list(compress(each, others)) for each in (bucket.w, bucket.g, bucket.m, bucket.u)
        )
        _by_foreach(Bucket(bucket.lr, bucket.weight_decay, w, g, m, u), coefficients)


def _in_one_pass(
    bucket: Bucket, coefficients: Coefficients, rows: Sequence[Sequence[Tensor]]
) -> list[float]:
    """The new ``|u|^2`` of each row, where there is u."""
    eta = bucket.lr
    coefs = [coefficients.mu, eta, eta * bucket.weight_decay]
    if not bucket.u:
        return passes.run("nesterov_step", rows, coefs)
    return passes.run(
        "nesterov_step_mean", rows, [*coefs, eta * coefficients.pull, coefficients.gamma]
    )


def _by_foreach(bucket: Bucket, coefficients: Coefficients) -> None:
    """The same without a pass of its own.

    Since ``-eta d = m' - mu m``, with m' the new m, the step is ``s = (1 + mu) m' - mu m``: its second half is taken
    before m is overwritten, and what d then finds in w and u too little is given back by the factor of m.
    """
    w, m, u, eta, mu = bucket.w, bucket.m, bucket.u, bucket.lr, coefficients.mu
    pull, decay = coefficients.pull, bucket.weight_decay
    moved = (w, u) if u else (w,)
    if not coefficients.reset:
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
