"""Against what users have: seconds to equal training loss on the deep autoencoder of Hinton and of Martens (2010).

784-1000-500-250-30 and back, sigmoid units, linear code, 10,000 images of MNIST, logistic loss of the pixels summed
over the image, Martens' sparse initialisation. Contestants: `HessianFree`, Adam (its rate tuned over five) in float32
and under bfloat16 autocast, torch's L-BFGS, and the Newton-CG of pytorch-minimize (left out where it is not
installed). All have the same start, the same number of threads and the same seconds. Settings of a peer are tried on
the first seed; only the best one goes on and counts, its time alone. Losses over all images are taken with the clock
stopped.

The target is the loss that the better of the two Adams has at the end with its best rate, in the mean over the seeds.

    python bench/papers/autoencoder.py [--data DIR] [--seeds 3] [--quick] [--out DIR] [--cpu]
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from clock import Clock, Over
from common import console, crossing, curves, experiment_options, mnist, save, show, spread, verdict
from torch import Tensor, nn
from torch.nn import functional as F

import krylov.torch as kt

_SIZES, _QUICK_SIZES = (1000, 500, 250, 30), (100, 30)
#: Seconds of a run; 25 of them.
_SECONDS, _QUICK_SECONDS = 45.0, 3.0
_RATES = (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)
#: Images of a mini-batch; 250 did worse in equal time, at rates 1e-3 and 3e-3.
_ADAM_BATCH = 100
_MICRO_BATCH = 500


@dataclass(frozen=True)
class Run:
    """What a contestant trains, and its clock."""

    model: nn.Module
    images: Tensor
    clock: Clock


def losses(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Over all images: what is trained on, and the squared error."""
    loss = squared = 0.0
    with torch.no_grad():
        for batch in torch.split(images, 1000):
            outputs = model(batch)
            loss += float(F.binary_cross_entropy_with_logits(outputs, batch, reduction="sum"))
            squared += float((torch.sigmoid(outputs) - batch).square().sum())
    return {"loss": loss / len(images), "squared": squared / len(images)}


Points = dict[str, list[float]]
Contestant = Callable[[Run, int, Any], None]


def reconstruction(outputs: Tensor, images: Tensor) -> Tensor:
    """Mean over the images, sum over the pixels."""
    return F.binary_cross_entropy_with_logits(outputs, images, reduction="sum") / len(images)


def hessian_free(run: Run, seed: int, setting: Any) -> None:
    """Gradient, products and losses of a step on one growing sample, a few iterations each.

    Products alone are in bfloat16: the second entry of a batch says so.
    """
    model = run.model

    def closure(batch: tuple[Tensor, bool]) -> tuple[Tensor, Tensor]:
        images, low = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs = model(images)
        outputs = outputs.float()
        return reconstruction(outputs, images), outputs

    optimizer = kt.HessianFree(
        model.parameters(),
        preconditioner="kronecker",
        preconditioner_options={"storage": "bfloat16"},
        warm_start=0.0,
        seed=seed,
        **setting,
    )
    schedule = kt.GeometricSchedule(500, 1.02, min(3000, len(run.images)))
    sampler = kt.Sampler(len(run.images), mode="fresh", seed=seed)
    while True:
        parts = sampler.batches(sampler.draw(schedule.size), _MICRO_BATCH)
        batches = [run.images[part] for part in parts]
        optimizer.step_batches(
            closure,
            gradient=[(batch, False) for batch in batches],
            curvature=[(batch, True) for batch in batches],
        )
        schedule.update()
        run.clock.tick()


def adam(run: Run, seed: int, setting: Any, low: bool = False) -> None:
    """Mini-batches, drawn without replacement; `low`: passes through the model in bfloat16."""
    optimizer = torch.optim.Adam(run.model.parameters(), lr=setting, fused=True)
    for batch in _batches(run, _ADAM_BATCH, seed):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs = run.model(batch)
        reconstruction(outputs.float(), batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.clock.tick()


def lbfgs(run: Run, seed: int, setting: Any) -> None:
    """All images, or large batches with a fresh history for each."""
    for batch in _batches(run, setting, seed):
        optimizer = torch.optim.LBFGS(
            run.model.parameters(),
            max_iter=10,
            max_eval=1000,
            history_size=50,
            line_search_fn="strong_wolfe",
        )

        def closure(batch: Tensor = batch, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            run.clock.pay(len(batch) / len(run.images))
            optimizer.zero_grad()
            total = torch.zeros(())
            for part in torch.split(batch, _MICRO_BATCH):
                loss = reconstruction(run.model(part), part) * (len(part) / len(batch))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            return total

        for _ in range(2 if setting < len(run.images) else 1_000_000):
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            run.clock.tick()


def newton_cg(run: Run, seed: int, setting: Any) -> None:
    """One iteration a batch: the package knows no samples."""
    from torchmin import minimize  # type: ignore[import-not-found]

    parameters = kt.Parameters(run.model.parameters())
    names = [name for name, _ in run.model.named_parameters()]
    point = parameters.read()
    for batch in _batches(run, setting, seed):

        def loss(vector: Tensor, batch: Tensor = batch) -> Tensor:
            run.clock.pay(len(batch) / len(run.images))
            values = dict(zip(names, parameters.split(vector), strict=True))
            return reconstruction(torch.func.functional_call(run.model, values, (batch,)), batch)

        found = minimize(loss, point, method="newton-cg", max_iter=1, options={"cg_max_iter": 10})
        point = found.x.detach()
        parameters.write(point)
        run.clock.tick()


def _batches(run: Run, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(run.images), generator=generator)
        for part in torch.split(order, size):
            yield run.images[part]


@dataclass(frozen=True)
class Entry:
    """A contestant and the settings that it is tried with on the first seed."""

    contestant: Contestant
    settings: dict[str, Any]


def entries(count: int) -> dict[str, Entry]:
    """The field, without what is not installed."""
    large = min(2500, count)
    rates = {f"rate {rate:g}": rate for rate in _RATES}
    field = {
        "HessianFree": Entry(hessian_free, {"8 iterations": {"stop": 8}}),
        "Adam": Entry(adam, rates),
        "Adam, bfloat16": Entry(partial(adam, low=True), rates),
        "torch LBFGS": Entry(lbfgs, {"all images": count, f"{large} images": large}),
        "Newton-CG (pytorch-minimize)": Entry(
            newton_cg, {f"{large} images": large, "500 images": min(500, count)}
        ),
    }
    try:
        import torchmin  # noqa: F401
    except ImportError:
        console.print("Newton-CG is left out: pip install pytorch-minimize")
        del field["Newton-CG (pytorch-minimize)"]
    return field


@click.command()
@experiment_options
@click.option("--cpu", is_flag=True, help="CPU seconds of one thread: for a busy machine.")
def main(data: Path, seeds: int, quick: bool, out: Path, cpu: bool) -> None:
    """Seconds to equal training loss on the deep autoencoder, against Adam, L-BFGS and Newton-CG."""
    if cpu:
        torch.set_num_threads(1)
    now = time.process_time if cpu else time.perf_counter
    sizes, limit = (_QUICK_SIZES, _QUICK_SECONDS) if quick else (_SIZES, _SECONDS)
    if cpu and not quick:
        limit *= 2
    images = mnist(data)[0][: 1000 if quick else 10_000]

    def measured(entry: Entry, setting: str, seed: int) -> Points:
        model = kt.autoencoder(images.shape[1], sizes, init="sparse", seed=seed)
        clock = Clock(partial(losses, model, images), limit, now)
        clock.start()
        with contextlib.suppress(Over):
            entry.contestant(Run(model, images, clock), seed, entry.settings[setting])
        return clock.points

    best: dict[str, str] = {}
    tried: dict[str, dict[str, float]] = {}
    runs: dict[str, list[Points]] = {}
    for name, entry in entries(len(images)).items():
        first = {setting: measured(entry, setting, 0) for setting in entry.settings}
        tried[name] = {setting: run["loss"][-1] for setting, run in first.items()}
        best[name] = min(tried[name], key=lambda setting: _order(tried[name][setting]))
        again = [measured(entry, best[name], seed) for seed in range(1, seeds)]
        runs[name] = [first[best[name]], *again]
        console.print(f"{name}: " + ", ".join(f"{s} {x:.2f}" for s, x in tried[name].items()))
    _report(runs, best, tried, out, quick)


def _order(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _report(
    runs: dict[str, list[Points]],
    best: dict[str, str],
    tried: dict[str, dict[str, float]],
    out: Path,
    quick: bool,
) -> None:
    target = min(
        sum(run["loss"][-1] for run in runs[name]) / len(runs[name])
        for name in ("Adam", "Adam, bfloat16")
    )
    times = {
        name: [crossing(run["seconds"], run["loss"], target) for run in them]
        for name, them in runs.items()
    }
    ours = max(times["HessianFree"])
    rows = [
        (
            name,
            best[name],
            spread(run["loss"][-1] for run in them),
            spread(run["squared"][-1] for run in them),
            spread(times[name], 1),
            ""
            if name == "HessianFree" or math.isinf(ours)
            else f"{_least(times[name], them) * len(them) / sum(times['HessianFree']):.2f}",
            "" if name == "HessianFree" or quick else verdict(ours < min(times[name])),
        )
        for name, them in runs.items()
    ]
    columns = (
        "",
        "best setting",
        "loss at the end",
        "squared error",
        f"s to {target:.2f}",
        "times ours (at least)",
        "slower",
    )
    show("Deep autoencoder, training loss", columns, rows)
    results = {
        "target": target,
        "tried": tried,
        "runs": {
            name: [
                {
                    "setting": best[name],
                    "seconds_to_target": None if math.isinf(t) else t,
                    "seconds": run["seconds"],
                    "loss": run["loss"],
                    "squared_error": run["squared"],
                }
                for run, t in zip(them, times[name], strict=True)
            ]
            for name, them in runs.items()
        },
    }
    save(out, "autoencoder", results)
    lines = {
        f"{name}, {best[name]}": {"seconds": them[0]["seconds"][1:], "loss": them[0]["loss"][1:]}
        for name, them in runs.items()
    }
    curves(out, "autoencoder", lines, {"seconds": "seconds"}, "loss", "training loss", log_y=True)


def _least(times: list[float], runs: list[Points]) -> float:
    """Mean time; where the target was not reached, what was spent is the least that it could be."""
    return sum(
        run["seconds"][-1] if math.isinf(t) else t for t, run in zip(times, runs, strict=True)
    ) / len(runs)


if __name__ == "__main__":
    main()
