"""Residual networks: ResNet-20 for CIFAR-10 and ResNet-50 (He, Zhang, Ren and Sun 2016).

Batch normalisation takes the statistics of the batch at hand, always: the loss is then a function of parameters and
batch alone, as products with its curvature need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation."""
    weights = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(weights.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(weights, nn.BatchNorm2d(outputs, track_running_stats=False))


class Block(nn.Module):
    """``relu(x + residual(x))``; the identity becomes a convolution of size 1 where shapes differ.

    Parameters
    ----------
    inputs, width, outputs : int
        Channels; a bottleneck (1 x 1, 3 x 3, 1 x 1) where outputs and width differ, else two convolutions of size 3.
    stride : int
        Of the first convolution of size 3.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        if width == outputs:
            shapes = ((inputs, width, 3, stride), (width, outputs, 3, 1))
        else:
            shapes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1))
        layers: list[nn.Module] = []
        for shape in shapes:
            layers += [_convolution(*shape), nn.ReLU()]
        self.residual = nn.Sequential(*layers[:-1])
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A first convolution, stages of blocks, the mean over the pixels, a linear layer."""

    def __init__(
        self, first: nn.Module, width: int, depths: Sequence[int], expansion: int, classes: int
    ) -> None:
        super().__init__()
        channels, blocks = width, []
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            for k in range(depth):
                stride = 2 if stage and not k else 1
                blocks.append(Block(channels, inner, expansion * inner, stride))
                channels = expansion * inner
        self.features = nn.Sequential(first, *blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x).mean((2, 3))))


def resnet20(classes: int = 10) -> ResNet:
    """For images of 32 x 32: 0.27 million parameters."""
    return ResNet(nn.Sequential(_convolution(3, 16, 3), nn.ReLU()), 16, (3, 3, 3), 1, classes)


def resnet50(classes: int = 1000) -> ResNet:
    """For images of 224 x 224: 25.6 million parameters."""
    first = nn.Sequential(_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    return ResNet(first, 64, (3, 4, 6, 3), 4, classes)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and outputs."""
    outputs = model(x)
    return F.cross_entropy(outputs, y), outputs
