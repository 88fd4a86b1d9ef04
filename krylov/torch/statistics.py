"""Mean and variance of a gradient over the groups of a sample, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from krylov.checks import integer

__all__ = ["GradientStatistics"]


class GradientStatistics:
    """What the groups of a sample say about the variance of the gradient of one sample.

    Groups are micro-batches or utterances; each gives the mean gradient ``g_k`` of its ``n_k`` samples. If samples
    are drawn independently, ``g_k`` has ``1 / n_k`` of the variance of one sample, so with K groups

        Var = sum_k n_k (g_k - mean)^2 / (K - 1)

    estimates the variance of one sample without bias, for groups of unequal sizes too. Only the sum over all
    parameters is needed, which grows by ``n_k (1 - n_k / N) |g_k - mean|^2`` with group k (West 1979): the one
    vector that is kept is the mean.

    Samples that resemble each other within a group, as the frames of an utterance do, make the estimate larger than
    the variance of one of them, as it should be: such a sample is worth less than its number of frames.
    """

    def __init__(self) -> None:
        self._mean: list[Tensor] = []
        self._deviation = 0.0
        self._groups = 0
        self._samples = 0

    @torch.no_grad()
    def add(self, gradient: Tensor | Sequence[Tensor], samples: int) -> None:
        """Take the mean gradient of a group of so many samples, flat or as a list of tensors; it is not kept."""
        integer(samples, "samples", 1)
        parts = [gradient] if isinstance(gradient, Tensor) else list(gradient)
        self._groups += 1
        self._samples += samples
        if not self._mean:
            self._mean = [part.detach().clone() for part in parts]
            return
        if [part.shape for part in parts] != [mean.shape for mean in self._mean]:
            raise ValueError("all groups must have gradients of the same shapes")
        share = samples / self._samples
        for mean, part in zip(self._mean, parts, strict=True):
            change = part - mean
            self._deviation += samples * (1 - share) * _squared_norm(change)
            mean.add_(change, alpha=share)

    @property
    def groups(self) -> int:
        """Groups so far."""
        return self._groups

    @property
    def samples(self) -> int:
        """Samples so far, those of all groups."""
        return self._samples

    @property
    def mean(self) -> list[Tensor]:
        """The mean gradient of all samples, in the form in which groups were given (a flat one as a single tensor)."""
        return self._mean

    @property
    def variance_l1(self) -> float:
        """``|Var|_1``, the variance of one sample's gradient summed over all parameters; NaN below two groups."""
        return self._deviation / (self._groups - 1) if self._groups > 1 else math.nan

    @property
    def norm2(self) -> float:
        """``|g|^2`` of the mean gradient."""
        return sum((_squared_norm(mean) for mean in self._mean), 0.0)


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
