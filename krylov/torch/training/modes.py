"""A model as it is in use, and an optimizer as it is in training, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["evaluation_mode", "parameters_to_use", "training_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout and BatchNorm as in use; afterwards every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def parameters_to_use(optimizer: Any) -> None:
    """Let the model have the parameters to use, where an optimizer keeps others in it while it trains.

    `Neumann` does, and so do optimizers without schedules: they have ``eval()`` and ``train()``.
    """
    if hasattr(optimizer, "eval"):
        optimizer.eval()


@contextmanager
def training_mode(optimizer: Any) -> Iterator[None]:
    """Within, the model has the parameters at which the optimizer takes gradients; afterwards those to use."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    try:
        yield
    finally:
        parameters_to_use(optimizer)
