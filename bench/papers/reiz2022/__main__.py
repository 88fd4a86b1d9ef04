"""Reiz, Neckel and Bungartz (2022): Newton-CG and its relatives beside first-order methods, in five scenarios.

    python bench/papers/reiz2022 [--scenario reg-lif] [--seeds 3] [--data DIR] [--quick] [--out DIR] [--cpu]

- reg-lif: WHO life expectancy, one hidden layer; reg-bos: Boston housing, two hidden layers; mean squared error of a
  standardised target. Units are tanh: the paper puts its gain down to continuity. With ReLU, whose
  derivative jumps, L-BFGS was ahead of Hessian-free steps in both (one seed).
- vae-mnist: a variational autoencoder with a latent space of two dimensions; bnn-mnist: a network with normally
  distributed weights; both on 10,000 images, negative evidence lower bound for each image.
- resnet: ResNet-20 on 2,000 images of CIFAR-10, cross-entropy, losses of 500 of them; and the time that ResNet-50 takes
  for a step.

Every optimizer is tried with a grid of settings on one seed; the best one at the end of the seconds is run on others.
All have the same start, threads and seconds; losses over all samples are taken while the clock stands still. Rates of
first-order methods fall to zero over the run as half a cosine does. Work is counted in gradients of all samples: a
product with the Gauss-Newton matrix is 4/3, one with the Hessian 2, a loss 1/3.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clock import Clock, Over
from common import console, experiment_options

from reiz2022.contestants import Setting, Task
from reiz2022.report import Points, final, report
from reiz2022.scenario import SCENARIOS, Scenario
from reiz2022.settings import GRIDS, Entry
from reiz2022.throughput import throughput

#: Seed of the runs that choose a setting.
_TUNING = 1000


def run(scenario: Scenario, entry: Entry, setting: Setting, seed: int, cpu: bool) -> Points:
    """Train until the seconds are spent."""
    model = scenario.model(seed)
    clock = Clock(
        lambda: scenario.measured(model),
        scenario.seconds,
        time.process_time if cpu else time.perf_counter,
    )
    clock.start()
    # A step may lead to where the loss is no number, and the optimizer says so: the run is over.
    with contextlib.suppress(Over, FloatingPointError):
        entry.contestant(Task(scenario, model, clock, seed), setting)
    return clock.points


def compare(name: str, scenario: Scenario, seeds: int, out: Path, cpu: bool, quick: bool) -> None:
    """Tune on one seed, run the best setting of each on others, report."""
    tried: dict[str, dict[str, float]] = {}
    runs: dict[str, list[Points]] = {}
    best: dict[str, str] = {}
    for who, entry in GRIDS[name].items():
        # What happens once in a process (threads, caches, imports) is nobody's.
        first = next(iter(entry.settings.values()))
        run(replace(scenario, seconds=scenario.seconds / 20), entry, first, _TUNING, cpu)
        tried[who] = {
            setting: final(run(scenario, entry, options, _TUNING, cpu), "seconds", scenario.seconds)
            for setting, options in entry.settings.items()
        }
        best[who] = min(tried[who], key=lambda s: _order(tried[who][s]))
        console.print(
            f"{name}, {who}: " + "; ".join(f"{s}: {x:.4g}" for s, x in tried[who].items()),
            style="dim",
        )
        chosen = entry.settings[best[who]]
        runs[who] = [run(scenario, entry, chosen, seed, cpu) for seed in range(seeds)]
    report(name, scenario, runs, best, tried, out, quick)


def _order(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


@click.command()
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), multiple=True, help="Default: all.")
@click.option("--cpu", is_flag=True, help="CPU seconds of one thread: for a busy machine.")
@experiment_options
def main(
    scenario: tuple[str, ...], data: Path, seeds: int, quick: bool, out: Path, cpu: bool
) -> None:
    """Final training losses of the five scenarios, for equal seconds and equal gradients."""
    if cpu:
        torch.set_num_threads(1)
    began = time.perf_counter()
    for name in scenario or SCENARIOS:
        compare(name, SCENARIOS[name](data, quick), 1 if quick else seeds, out, cpu, quick)
        if name == "resnet":
            throughput(out, quick)
    console.print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
