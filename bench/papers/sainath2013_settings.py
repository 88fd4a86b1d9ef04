"""What `sainath2013.py` runs: data, models and budgets, and the variants that it compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import mnist, split
from speech import CLASSES, CONTEXT, FEATURES, speech
from torch import Tensor, nn
from torch.nn import functional as F

import krylov.torch as kt
from krylov.stopping import QuadraticProgress

__all__ = ["EXPERIMENTS", "PLAIN", "VARIANTS", "Experiment", "Variant", "quick_trial"]

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Experiment:
    """Data, model and budget.

    Attributes
    ----------
    samples : callable
        ``samples(data, seed)``: training inputs and targets, held-out inputs and targets, groups or None.
    model : callable
        ``model(seed)``.
    loss : callable
        Mean loss of outputs and targets.
    curvature : int
        Samples for products, at most.
    steps : int
        Outer iterations of plain GN-CG.
    damping : float
        lambda of the first.
    variants : tuple of str
        What is compared on all seeds.
    bars : dict
        Least saving of gradient-equivalents in CG, or least ratio of total times, by variant.
    once : tuple of str
        What is compared on the first seed only.
    """

    samples: Callable[[Path, int], tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]
    model: Callable[[int], nn.Module]
    loss: Loss
    curvature: int
    steps: int
    damping: float
    variants: tuple[str, ...]
    bars: dict[str, float]
    once: tuple[str, ...] = ()


_WINDOW = QuadraticProgress(minimum=5)


@dataclass(frozen=True)
class Variant:
    """What is changed against plain GN-CG."""

    preconditioner: str | None = None
    options: dict[str, Any] | None = None
    gradient: str = "full"
    curvature: str = "full"
    stop: Any = _WINDOW


PLAIN = "plain GN-CG"
TEXTBOOK = {"scale": "newest", "carry": False, "refresh": False}
_LOW = {"storage": "bfloat16"}  # half the traffic of float32, as few iterations
VARIANTS = {
    PLAIN: Variant(),
    "plain, published window": Variant(stop=QuadraticProgress()),
    "plain, 10 iterations": Variant(stop=10),
    "L-BFGS 32, textbook": Variant("lbfgs", {"m": 32, **TEXTBOOK}),
    "L-BFGS 16": Variant("lbfgs", {"m": 16, **_LOW}),
    "L-BFGS 32": Variant("lbfgs", {"m": 32, **_LOW}),
    "L-BFGS 64": Variant("lbfgs", {"m": 64, **_LOW}),
    "Ritz 16": Variant("ritz", {"m": 16, **_LOW}),
    "Ritz 32": Variant("ritz", {"m": 32, **_LOW}),
    "Ritz 64": Variant("ritz", {"m": 64, **_LOW}),
    "geometric samples": Variant(gradient="geometric", curvature="geometric"),
    "variance samples": Variant(gradient="variance", curvature="variance"),
    "L-BFGS 32 + geometric": Variant("lbfgs", {"m": 32, **_LOW}, "geometric", "geometric"),
    "Ritz 32 + geometric, then variance": Variant("ritz", {"m": 32, **_LOW}, "both", "both"),
    "geometric, 10 iterations": Variant(None, None, "geometric", "geometric", 10),
    "Ritz 32 + geometric, 10 iterations": Variant(
        "ritz", {"m": 32, **_LOW}, "geometric", "geometric", 10
    ),
    "Kronecker + geometric, 5 iterations": Variant("kronecker", _LOW, "geometric", "geometric", 5),
}
_MAIN = (
    PLAIN,
    "L-BFGS 32",
    "Ritz 32",
    "geometric, 10 iterations",
    "Ritz 32 + geometric, 10 iterations",
    "Kronecker + geometric, 5 iterations",
)
_LARGE = ("L-BFGS 64", "Ritz 64")


def _mnist_samples(train: int, held_out: int, reconstruct: bool) -> Callable[..., Any]:
    def samples(data: Path, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        pixels, labels = mnist(data)
        ours, held = split(len(pixels), train, held_out, seed=seed)
        targets = pixels if reconstruct else labels
        return pixels[ours], targets[ours], pixels[held], targets[held], None

    return samples


def _speech_samples(data: Path, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    ours, held = speech(100_000, 5_000, seed)
    utterances = torch.from_numpy(ours.utterances)
    return ours.inputs, ours.labels, held.inputs, held.labels, utterances


def _reconstruction(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of an image, in nats."""
    return F.binary_cross_entropy_with_logits(outputs, targets) * targets.shape[1]


EXPERIMENTS = {
    "deep": Experiment(
        samples=_mnist_samples(10_000, 2_000, False),
        model=lambda seed: kt.mlp(784, 10, (512, 512, 512), init="xavier", seed=seed),
        loss=F.cross_entropy,
        curvature=2_000,
        steps=10,
        damping=0.02,
        variants=(*_MAIN, *_LARGE),
        once=tuple(v for v in VARIANTS if v not in _MAIN + _LARGE),
        bars={
            "L-BFGS 64": 0.22,
            "Ritz 64": 0.45,
            "Ritz 32 + geometric, 10 iterations": 2.3,
            "Kronecker + geometric, 5 iterations": 2.3,
        },
    ),
    "autoencoder": Experiment(
        samples=_mnist_samples(10_000, 2_000, True),
        model=lambda seed: kt.autoencoder(784, seed=seed),
        loss=_reconstruction,
        curvature=500,
        steps=18,
        damping=50.0,
        variants=_MAIN,
        bars={
            "L-BFGS 32": 0.22,
            "Ritz 32": 0.45,
            "Ritz 32 + geometric, 10 iterations": 2.3,
            "Kronecker + geometric, 5 iterations": 2.3,
        },
    ),
    "speech": Experiment(
        samples=_speech_samples,
        model=lambda seed: kt.mlp(
            CONTEXT * FEATURES, CLASSES, (512, 512, 512), init="xavier", seed=seed
        ),
        loss=F.cross_entropy,
        curvature=2_000,
        steps=8,
        damping=1.0,
        variants=(
            PLAIN,
            "Ritz 32 + geometric, 10 iterations",
            "Kronecker + geometric, 5 iterations",
        ),
        once=("geometric, 10 iterations",),
        bars={
            "Ritz 32 + geometric, 10 iterations": 1.5,
            "Kronecker + geometric, 5 iterations": 1.5,
        },
    ),
}


def quick_trial(experiment: Experiment) -> Experiment:
    """Fewer samples, two steps: to see that it runs."""

    def samples(data: Path, seed: int) -> Any:
        x, y, held_x, held_y, groups = experiment.samples(data, seed)
        return (
            x[:1000],
            y[:1000],
            held_x[:200],
            held_y[:200],
            None if groups is None else groups[:1000],
        )

    return replace(experiment, samples=samples, curvature=200, steps=2)
