"""Networks of the sizes that people train, with a batch each, for benchmarks of curvature products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network"]


@dataclass(frozen=True)
class Network:
    """A model that gives logits, its inputs, its labels."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def outputs(self) -> Tensor:
        """Logits, one row a label."""
        logits: Tensor = self.model(self.x)
        return logits

    def loss_of(self, outputs: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, self.y)

    def loss(self) -> Tensor:
        """Of the model on its batch."""
        return self.loss_of(self.outputs())

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return list(self.model.parameters())


def _perceptron(batch: int) -> Network:
    widths = pairwise([784, 512, 512, 512, 10])
    layers = [layer for a, b in widths for layer in (nn.Linear(a, b), nn.Sigmoid())]
    return Network(
        nn.Sequential(*layers[:-1]), torch.randn(batch, 784), torch.randint(10, (batch,))
    )


def _convolutional(batch: int) -> Network:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )
    return Network(model, torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,)))


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.way = nn.Sequential()
        if stride != 1 or inner != outer:
            self.way = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.way(x))


def _residual(batch: int) -> Network:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    for a, b in pairwise([16, 16, 32, 64]):
        layers += [_Block(a, b, 1 if a == b else 2), _Block(b, b, 1), _Block(b, b, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers).eval()
    return Network(model, torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,)))


class _Layer(nn.Module):
    """Attention in the kernel that has a double backward, and a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.unmix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.mix(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.unmix(z.transpose(1, 2).reshape(x.shape))
        result: Tensor = x + self.body(self.second(x))
        return result


class _Transformer(nn.Module):
    def __init__(self, tokens: int, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(depth)))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tokens))

    def forward(self, x: Tensor) -> Tensor:
        z = self.embedding(x) + self.place.weight[: x.shape[1]]
        logits: Tensor = self.last(self.layers(z))
        return logits.flatten(0, 1)


def _transformer(batch: int) -> Network:
    model = _Transformer(tokens=256, length=32, width=64, heads=4, depth=2)
    return Network(model, torch.randint(256, (batch, 32)), torch.randint(256, (32 * batch,)))


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "perceptron 784-512-512-512-10, batch 32": lambda: _perceptron(32),
    "the same, batch 512": lambda: _perceptron(512),
    "two convolutions, batch 32": lambda: _convolutional(32),
    "ResNet-20, batch 8": lambda: _residual(8),
    "transformer, 2 layers of 64, batch 8 x 32": lambda: _transformer(8),
}
