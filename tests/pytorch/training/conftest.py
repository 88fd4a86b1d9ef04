"""A small problem for `fit`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture
def data():
    """Samples of two classes that no line separates."""
    import torch

    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(120, 4, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return SimpleNamespace(train=(inputs[:90], targets[:90]), held_out=(inputs[90:], targets[90:]))


@pytest.fixture
def model():
    """A network that can."""
    from krylov.torch.training import mlp

    return mlp(4, 2, (8,), activation="tanh")
