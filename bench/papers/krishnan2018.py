"""Krishnan et al. (2018): spectra along training, batches from 128 to 16,384, and what a step of `Neumann` costs.

    python bench/papers/krishnan2018.py --experiment spectra|batches|cost|all [--seeds 3] [--data DIR] [--quick]

*spectra*: extreme eigenvalues of the Hessian of mini-batches of 128 while SGD and Neumann train a convolutional network
on 5,000 images of CIFAR-10, as in the paper's figure 4. *batches*: validation error on MNIST after equal epochs, each
method with the best of its rates for each batch size; the rate falls linearly for all. *cost*: time and memory of a
step beside SGD and Adam.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from cifar import cifar10
from common import console, experiment_options, mnist, save, show, split, spread, verdict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import krylov.torch as kt
from krylov.cli.runs import RunLog
from krylov.cli.spectra_plot import plot_spectra

#: Warm-up and first K in the paper: 5 and 10 epochs of some 200. Here the same shares of a run.
_WARMUP, _RESET = 5 / 200, 10 / 200
#: With the largest batches a run has 40 steps, and its share would be one: too few for a distance to the average.
_LEAST_WARMUP, _LEAST_RESET = 8, 12

Make = Callable[[Iterable[nn.Parameter], float, int], Optimizer]


def _neumann(**options: Any) -> Make:
    def make(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> Optimizer:
        shares = {
            "warmup_steps": max(_LEAST_WARMUP, round(_WARMUP * steps)),
            "reset_every": max(_LEAST_RESET, round(_RESET * steps)),
        }
        return kt.Neumann(parameters, rate, **shares, **options)

    return make


def _sgd(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9)


def _adam(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> Optimizer:
    return torch.optim.Adam(parameters, rate)


NEUMANN, ABLATION, SGD, ADAM = "Neumann", "Neumann, alpha = beta = 0", "SGD, momentum", "Adam"
_RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: Each with its rates, from which the best one for the first seed is taken for all.
METHODS: dict[str, tuple[Make, tuple[float, ...]]] = {
    NEUMANN: (_neumann(), _RATES),
    ABLATION: (_neumann(alpha=0, beta=0), _RATES),
    SGD: (_sgd, _RATES),
    ADAM: (_adam, (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)),
}
BATCHES = (128, 512, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Task:
    """Training and validation samples, and how long to train."""

    x: Tensor
    y: Tensor
    held_out: tuple[Tensor, Tensor]
    epochs: int


def train(task: Task, make: Make, rate: float, batch: int, seed: int) -> dict[str, Any]:
    """One run; a diverged one has error 1."""
    model = kt.mlp(task.x.shape[1], 10, (128,), activation="relu", seed=seed)
    steps = math.ceil(len(task.x) / batch) * task.epochs
    optimizer = make(model.parameters(), rate, steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (steps + 1))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = {"rate": rate, "errors": []}
    began = time.process_time()
    for _ in range(task.epochs):
        order = torch.randperm(len(task.x), generator=generator)
        try:
            for part in order.split(batch):
                optimizer.zero_grad()
                F.cross_entropy(model(task.x[part]), task.y[part]).backward()
                optimizer.step()
                scheduler.step()
        except FloatingPointError:
            break
        found["errors"].append(_error(model, optimizer, task.held_out))
    found["cpu_seconds"] = time.process_time() - began
    whole = len(found["errors"]) == task.epochs
    found["error"] = found["errors"][-1] if whole else 1.0
    return found


def _error(model: nn.Module, optimizer: Any, samples: tuple[Tensor, Tensor]) -> float:
    displaced = hasattr(optimizer, "eval")
    if displaced:
        optimizer.eval()
    with torch.no_grad():
        wrong = model(samples[0]).argmax(1) != samples[1]
    if displaced:
        optimizer.train()
    return float(wrong.double().mean())


def batches(data: Path, seeds: int, quick: bool, out: Path) -> dict[str, Any]:
    """Validation error after equal epochs, for each batch size and method."""
    pixels, labels = mnist(data)
    train_size, held_out, epochs = (4_000, 2_000, 2) if quick else (50_000, 10_000, 10)
    sizes = (128, 1024) if quick else BATCHES
    mine, others = split(len(pixels), train_size, held_out, seed=0)
    task = Task(pixels[mine], labels[mine], (pixels[others], labels[others]), epochs)
    runs: dict[int, dict[str, list[dict[str, Any]]]] = {}
    trials: dict[int, dict[str, dict[str, float]]] = {}
    for batch in sizes:
        runs[batch], trials[batch] = {}, {}
        for name, (make, rates) in METHODS.items():
            console.print(f"batch {batch}: {name}", style="dim")
            first = [train(task, make, rate, batch, 0) for rate in rates]
            best = min(first, key=lambda run: run["error"])
            trials[batch][name] = {str(run["rate"]): run["error"] for run in first}
            more = [train(task, make, best["rate"], batch, seed) for seed in range(1, seeds)]
            runs[batch][name] = [best, *more]
    show(
        f"MNIST, {train_size} samples, {epochs} epochs, {seeds} seed(s): validation error in %, mean (range), and rate",
        ("batch", "steps", *METHODS),
        (
            (batch, math.ceil(train_size / batch) * epochs, *map(_cell, found.values()))
            for batch, found in runs.items()
        ),
    )
    _draw_batches(out / "krishnan2018-batches.png", runs)
    means = {
        batch: {name: float(np.mean([r["error"] for r in part])) for name, part in found.items()}
        for batch, found in runs.items()
    }
    bars = {
        f"batch {batch}: {NEUMANN} not above {other}": mean[NEUMANN] <= mean[other]
        for batch, mean in means.items()
        for other in (SGD, ADAM)
    }
    for bar, met in bars.items():
        console.print(f"{bar}: {verdict(met)}")
    return {"epochs": epochs, "runs": runs, "rates": trials, "means": means, "bars": bars}


def _cell(found: list[dict[str, Any]]) -> str:
    return f"{spread(100 * run['error'] for run in found)}, {found[0]['rate']:g}"


def _draw_batches(path: Path, runs: dict[int, dict[str, list[dict[str, Any]]]]) -> None:
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6.5, 4.4))
    for name in METHODS:
        errors = np.array([[100 * r["error"] for r in found[name]] for found in runs.values()])
        mean = errors.mean(1)
        spans = [mean - errors.min(1), errors.max(1) - mean]
        panel.errorbar(list(runs), mean, yerr=spans, marker="o", capsize=3, label=name)
    panel.set(xscale="log", xlabel="batch", ylabel="validation error, %")
    panel.set_xticks(list(runs), [str(batch) for batch in runs])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    console.print(f"picture: {path}")


def spectra(data: Path, seeds: int, quick: bool, out: Path) -> dict[str, Any]:
    """Extreme eigenvalues of mini-batch Hessians along SGD (the paper's experiment) and along Neumann."""
    images, labels = cifar10(data)
    count, epochs, rate = (512, 3, 0.02) if quick else (len(images), 40, 0.02)
    samples = (images[:count], labels[:count])
    steps = math.ceil(count / 128) * epochs
    makers: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
        "SGD": lambda parameters: torch.optim.SGD(parameters, rate),
        NEUMANN: lambda parameters: _neumann()(parameters, rate, steps),
    }
    results: dict[str, Any] = {"samples": count, "epochs": epochs, "rate": rate, "runs": {}}
    logs, rows = [], []
    for name, make in makers.items():
        for seed in range(seeds):
            console.print(f"spectra: {name}, seed {seed}", style="dim")
            model = kt.cnn((3, 32, 32), 10, (8, 16), seed=seed)
            history = kt.fit(
                model,
                nn.CrossEntropyLoss(),
                samples,
                optimizer=make(model.parameters()),
                steps=epochs,
                seed=seed,
                spectrum=kt.SpectrumTracker(model.parameters(), seed=seed),
                log=out / f"krishnan2018-spectra-{name}-{seed}.jsonl",
                progress=False,
            )
            logs.append(RunLog(f"{name}, seed {seed}", history.records))
            ends = {end: history.column(f"spectrum.{end}") for end in ("max", "min")}
            results["runs"][f"{name}, {seed}"] = {**ends, "loss": history.column("loss")}
            found = _findings(ends["max"], ends["min"])
            results["runs"][f"{name}, {seed}"]["findings"] = found
            work = history.column("spectrum.gradient_equivalents")[-1]
            rows.append((name, seed, *_numbers(ends), *map(verdict, found.values()), f"{work:.0f}"))
    show(
        f"CIFAR-10, {count} samples, {epochs} epochs: Hessian of mini-batches of 128, first and last quarter",
        ("method", "seed", "max", "min", "|min| / max", *_FINDINGS, "gradients each"),
        rows,
    )
    picture = out / "krishnan2018-spectra.png"
    plot_spectra(picture, logs)
    console.print(f"picture: {picture}")
    return results


_FINDINGS = ("max grows", "min goes to 0", "|min| << max")


def _quarters(values: Sequence[float]) -> tuple[float, float]:
    quarter = max(1, len(values) // 4)
    return float(np.mean(values[:quarter])), float(np.mean(values[-quarter:]))


def _findings(largest: Sequence[float], smallest: Sequence[float]) -> dict[str, bool]:
    """What the paper says about its figure 4, as comparisons of the first and the last quarter of a run."""
    (first, last), (low, high) = _quarters(largest), _quarters(smallest)
    return dict(zip(_FINDINGS, (last > first, high > low, -high < 0.1 * last), strict=True))


def _numbers(ends: dict[str, Sequence[float]]) -> list[str]:
    (first, last), (low, high) = _quarters(ends["max"]), _quarters(ends["min"])
    return [
        f"{first:.3g} -> {last:.3g}",
        f"{low:.3g} -> {high:.3g}",
        f"{-low / first:.3g} -> {-high / last:.3g}",
    ]


def cost(quick: bool) -> dict[str, Any]:
    """CPU time and memory of a step on 4 million parameters, in turns; the least of the rounds counts."""
    size, rounds = (100_000, 3) if quick else (1_000_000, 15)
    makers: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "SGD, momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, foreach=True),
        "Adam": lambda p: torch.optim.Adam(p, 1e-3, foreach=True),
        "Adam, fused": lambda p: torch.optim.Adam(p, 1e-3, fused=True),
        NEUMANN: lambda p: kt.Neumann(p, 1e-3, warmup_steps=0, reset_every=None),
        ABLATION: lambda p: kt.Neumann(p, 1e-3, warmup_steps=0, reset_every=None, alpha=0, beta=0),
    }
    best: dict[str, float] = {}
    held: dict[str, float] = {}
    optimizers = {}
    for name, make in makers.items():
        parameters = [nn.Parameter(torch.randn(size)) for _ in range(4)]
        for parameter in parameters:
            parameter.grad = torch.randn(size)
        optimizers[name] = make(parameters)
        for _ in range(2):
            optimizers[name].step()
        tensors = [t for s in optimizers[name].state.values() for t in s.values()]
        entries = sum(t.numel() for t in tensors if isinstance(t, Tensor) and t.numel() > 1)
        held[name] = entries / (4 * size)
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            began = time.process_time()
            optimizer.step()
            best[name] = min(best.get(name, math.inf), time.process_time() - began)
    show(
        f"A step on {4 * size} parameters, float32",
        ("method", "buffers", "CPU ms", "over Adam"),
        (
            (name, f"{held[name]:.2f}", f"{1e3 * best[name]:.2f}", f"{best[name] / best[ADAM]:.2f}")
            for name in best
        ),
    )
    console.print(f"no more memory than Adam: {verdict(held[NEUMANN] <= held[ADAM])}")
    return {"buffers": held, "cpu_seconds": best}


@click.command()
@click.option(
    "--experiment",
    type=click.Choice(["spectra", "batches", "cost", "all"]),
    default="all",
    show_default=True,
)
@experiment_options
def main(experiment: str, data: Path, seeds: int, quick: bool, out: Path) -> None:
    """Run the experiments on the Neumann optimizer."""
    began = time.perf_counter()
    seeds = 1 if quick else seeds
    out.mkdir(parents=True, exist_ok=True)
    for name, run in (
        ("cost", lambda: cost(quick)),
        ("spectra", lambda: spectra(data, seeds, quick, out)),
        ("batches", lambda: batches(data, seeds, quick, out)),
    ):
        if experiment in (name, "all"):
            save(out, f"krishnan2018-{name}", {"seeds": seeds, "quick": quick, **run()})
    console.print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
