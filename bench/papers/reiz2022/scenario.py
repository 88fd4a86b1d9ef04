"""The five scenarios: data, network and loss of each, and how long a run is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cifar import cifar10
from common import mnist
from torch import Tensor, nn
from torch.nn import functional as F

import krylov.torch as kt
from reiz2022.bayesian import BayesianNet, bound
from reiz2022.resnet import cross_entropy, resnet20
from reiz2022.tables import boston, life_expectancy
from reiz2022.variational import VariationalAutoencoder, negative_bound

#: Seed of the noise in losses that are reported; those of training are far below.
_REPORT = 1 << 40


class Batch(NamedTuple):
    """Samples and the seed of their noise; None: torch's own generator goes on."""

    x: Tensor
    y: Tensor
    noise: int | None = None

    def generator(self) -> torch.Generator | None:
        return None if self.noise is None else torch.Generator().manual_seed(self.noise)


#: Loss of a batch as a mean over its samples, and the outputs for the Gauss-Newton matrix.
Loss = Callable[[nn.Module, Batch], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Scenario:
    """A problem of training.

    Attributes
    ----------
    x, y : Tensor
        All samples.
    build : callable
        ``build()``, the network; initial values by torch's own generator.
    loss : callable
        ``loss(model, batch)``.
    seconds, passes : float
        The two budgets of a run.
    micro : int
        Samples of a micro-batch at most.
    noisy : bool
        Whether the loss has noise; that of losses that are reported is the same for all.
    judged : int, optional
        Losses that are reported are those of the first so many samples; None: of all.
    """

    x: Tensor
    y: Tensor
    build: Callable[[], nn.Module]
    loss: Loss
    seconds: float
    passes: float
    micro: int
    noisy: bool = False
    judged: int | None = None

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def batches(self, indices: Tensor, noise: int | None = None) -> list[Batch]:
        """Micro-batches of a sample, with noise of its own in each."""
        parts = indices.split(self.micro)
        seeds: Sequence[int | None] = [None] * len(parts)
        if noise is not None and self.noisy:
            seeds = [(noise << 16) + i for i in range(len(parts))]
        return [Batch(self.x[part], self.y[part], s) for part, s in zip(parts, seeds, strict=True)]

    def measured(self, model: nn.Module) -> dict[str, float]:
        """The loss over the judged samples."""
        total, judged = 0.0, torch.arange(len(self.x))[: self.judged]
        with torch.no_grad():
            for batch in self.batches(judged, _REPORT):
                total += float(self.loss(model, batch)[0]) * len(batch.x)
        return {"loss": total / len(judged)}


def _squared(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    outputs = model(batch.x)
    return F.mse_loss(outputs, batch.y), outputs


def _regression(
    table: Callable[[Path], tuple[Tensor, Tensor]], hidden: Sequence[int], seconds: float
) -> Callable[[Path, bool], Scenario]:
    def scenario(data: Path, quick: bool) -> Scenario:
        x, y = table(data)

        def build() -> nn.Module:
            return kt.mlp(x.shape[1], 1, hidden, activation="tanh", seed=torch.initial_seed())

        limit = 0.3 if quick else seconds
        return Scenario(x, y, build, _squared, limit, 200, micro=len(x))

    return scenario


def _vae(data: Path, quick: bool) -> Scenario:
    x, y = (tensor[: 500 if quick else 10_000] for tensor in mnist(data))

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        outputs = model(batch.x, batch.generator())
        return negative_bound(outputs, batch.x), tuple(outputs)

    hidden = 16 if quick else 512
    return Scenario(
        x,
        y,
        lambda: VariationalAutoencoder(x.shape[1], hidden, 2),
        loss,
        0.5 if quick else 20.0,
        20,
        micro=1000,
        noisy=True,
    )


def _bnn(data: Path, quick: bool) -> Scenario:
    x, y = (tensor[: 500 if quick else 10_000] for tensor in mnist(data))

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        assert isinstance(model, BayesianNet)
        return bound(model, batch.x, batch.y, len(x), batch.generator())

    sizes = (x.shape[1], 8 if quick else 100, 10)
    return Scenario(
        x,
        y,
        lambda: BayesianNet(sizes),
        loss,
        0.5 if quick else 20.0,
        50,
        micro=1000,
        noisy=True,
    )


def _resnet(data: Path, quick: bool) -> Scenario:
    x, y = (tensor[: 64 if quick else 2000] for tensor in cifar10(data))

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        return cross_entropy(model, batch.x, batch.y)

    # Losses of all images at 25 moments would take longer than a run.
    return Scenario(x, y, resnet20, loss, 1.0 if quick else 40.0, 2, micro=125, judged=500)


SCENARIOS: dict[str, Callable[[Path, bool], Scenario]] = {
    "reg-lif": _regression(life_expectancy, (64,), 3.0),
    "reg-bos": _regression(boston, (64, 64), 3.0),
    "vae-mnist": _vae,
    "bnn-mnist": _bnn,
    "resnet": _resnet,
}
