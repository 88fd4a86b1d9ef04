"""The samples of a step: for the gradient, for the curvature and for the comparison of losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from krylov.torch.microbatches import WHOLE, sample_count

__all__ = ["Samples"]


@dataclass(frozen=True)
class Samples:
    """Micro-batches of the three samples, and how many samples they hold."""

    gradient: Sequence[Any]
    curvature: Sequence[Any]
    evaluation: Sequence[Any]
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, gradient: Any, curvature: Any, evaluation: Any) -> Samples:
        """From what an optimizer was given; None stands for the gradient sample, and there for all data.

        Raises
        ------
        TypeError, ValueError
            One of them is no iterable of batches, is empty, or stands without a gradient sample.
        """
        first = [WHOLE] if gradient is None else _batches(gradient, "gradient")
        second = first if curvature is None else _batches(curvature, "curvature")
        third = first if evaluation is None else _batches(evaluation, "evaluation")
        if gradient is None and (curvature is not None or evaluation is not None):
            raise ValueError("give the gradient sample too: step_batches(closure, gradient=...)")
        sizes = [
            sum(1 if b is WHOLE else sample_count(b) for b in s) for s in (first, second, third)
        ]
        for name, size in zip(("gradient", "curvature", "evaluation"), sizes, strict=True):
            if not size:
                raise ValueError(f"{name} holds no samples: its batches are empty")
        return cls(first, second, third, (sizes[0], sizes[1], sizes[2]))


def _batches(sample: Iterable[Any], name: str) -> Sequence[Any]:
    if isinstance(sample, Tensor) or not isinstance(sample, Iterable):
        raise TypeError(
            f"{name} must be an iterable of batches, not {type(sample).__name__}: give [batch]"
        )
    batches = list(sample)
    if not batches:
        raise ValueError(f"{name} is empty: it must have at least one batch")
    return batches
