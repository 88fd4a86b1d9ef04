"""Loss and error over a whole set, as they are reported and compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from krylov.torch.training.modes import evaluation_mode
from krylov.torch.training.samples import Samples

__all__ = ["Loss", "Metric", "error_rate", "measure"]

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor]


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the samples whose largest output is not the one of their class."""
    return (outputs.argmax(1) != targets).float().mean()


def measure(
    model: nn.Module,
    loss: Loss,
    samples: Samples,
    *,
    batch: int,
    device: torch.device | None = None,
    metric: Metric | None = None,
) -> tuple[float, float | None]:
    """Mean loss over all samples and, where there is a metric, its mean."""
    total, total_metric = 0.0, 0.0
    with torch.no_grad(), evaluation_mode(model):
        for inputs, targets in samples.in_order(batch, device):
            outputs = model(inputs)
            total += len(inputs) * float(loss(outputs, targets))
            if metric is not None:
                total_metric += len(inputs) * float(metric(outputs, targets))
    return total / len(samples), None if metric is None else total_metric / len(samples)
