"""He et al. (2016): conjugate gradients, Bi-CG-STAB and saddle-free steps on the exact Hessian, beside Gauss-Newton.

    python bench/papers/he2016.py [--seeds 3] [--data DIR] [--quick] [--out DIR]

Two networks with sigmoids learn MNIST from the same weights with every method: full gradient, fresh curvature sample in
every outer iteration, candidates compared on a fresh sample of 2,048. Objective and training error, on all training
samples and not charged, against outer iterations, passes over the data (gradient-equivalents) and the all-reduces that
shards of the data would need. A second table has other curvature batches; a third tells, along a run of the control,
how much following the direction of the lowest curvature would bring (`offered`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from common import console, crossing, curves, experiment_options, mnist, save, show, spread
from common import verdict as verdict_of
from he2016_negative import Negative, Watch
from torch import Tensor
from torch.nn import functional as F

import krylov.torch as kt

NETS = {"784-400-10": (400,), "784-400-150-10": (400, 150)}
TARGETS = (0.04, 0.02)
#: Curvature batch of the first table, and those of the second.
BATCH, BATCHES = 1024, (512, 2048, 8192)
#: A run ends after so many gradients of all samples: in the first table, and in the second.
_LIMIT, _SHORT = 200.0, 100.0
_EVALUATION = 2048

#: Of all second-order runs, frozen before those of the table. Short runs from a warm start matter most: with 50
#: products a run GN-CG takes 3.5 times the work. One iteration of Bi-CG-STAB has two products.
_COMMON: dict[str, Any] = {
    "stop": 10,
    "damping": kt.LevenbergMarquardt(initial=0.01, increase=2, decrease=0.5),
    "escape": False,
}
#: A rejected step costs the subspace no product when it is tried again: so often, and with much more damping.
_SUBSPACE: dict[str, Any] = {
    "solver": "subspace",
    "damping": kt.LevenbergMarquardt(initial=0.01, increase=3, decrease=0.5),
    "retries": 6,
}
METHODS: dict[str, dict[str, Any]] = {
    "GN-CG": {"curvature": "ggn", "solver": "cg"},
    # The first damping that is best for it differs between the networks.
    "GN-CG, damping 0.03": {
        "curvature": "ggn",
        "solver": "cg",
        "damping": kt.LevenbergMarquardt(initial=0.03, increase=2, decrease=0.5),
    },
    "HF-CG": {"curvature": "hessian", "solver": "cg"},
    "Hybrid-CG": {"curvature": "hybrid", "solver": "cg"},
    "HF-Bi-CG-STAB": {"curvature": "hessian", "solver": "bicgstab"},
    "subspace, Hessian": {"curvature": "hessian", **_SUBSPACE},
    # Looks for negative curvature of the Hessian after a rejected step, and follows it as far as the loss decreases.
    "subspace, Gauss-Newton, escape": {"curvature": "ggn", **_SUBSPACE, "escape": True},
    # Tells what the subspace does from what negative curvature does.
    "subspace, Gauss-Newton": {"curvature": "ggn", **_SUBSPACE},
}
#: Of the references the better one counts.
REFERENCES = ("GN-CG", "GN-CG, damping 0.03")
OURS = ("subspace, Hessian", "subspace, Gauss-Newton, escape")
CONTROL = "subspace, Gauss-Newton"
SGD = "SGD, momentum"
#: Need not reach the last target: the paper's own finding.
EXCUSED = "HF-CG"
SWEPT = (REFERENCES[0], "HF-Bi-CG-STAB", *OURS)
#: Of SGD; the best one for the first seed is taken for all.
_RATES, _SGD_BATCH, _MOMENTUM = (0.1, 0.3, 1.0), 64, 0.9


@dataclass(frozen=True)
class Task:
    """Training samples, a network's hidden layers and the end of a run."""

    x: Tensor
    y: Tensor
    hidden: tuple[int, ...]
    limit: float = _LIMIT

    def model(self, seed: int) -> torch.nn.Module:
        return kt.mlp(784, 10, self.hidden, seed=seed)


Points = dict[str, list[float]]


class Curve:
    """What is drawn: a point after each outer iteration or epoch."""

    def __init__(self, task: Task, model: torch.nn.Module) -> None:
        self._task, self._model = task, model
        keys = (
            "iterations",
            "cost",
            "collectives",
            "products",
            "loss",
            "error",
            "seconds",
            "escapes",
        )
        self.points: Points = {key: [] for key in keys}
        self._cost = self._collectives = self._products = self._seconds = 0.0

    def add(
        self, cost: float, collectives: int, products: int, seconds: float, escapes: int = 0
    ) -> bool:
        """Measure; True when the run is over."""
        self._cost += cost
        self._collectives += collectives
        self._products += products
        self._seconds += seconds
        with torch.no_grad():
            outputs = torch.cat([self._model(x) for x in self._task.x.split(4000)])
        loss = float(F.cross_entropy(outputs, self._task.y))
        error = float((outputs.argmax(1) != self._task.y).double().mean())
        row = (len(self.points["cost"]) + 1, self._cost, self._collectives, self._products)
        values = (*row, loss, error, self._seconds, escapes)
        for key, value in zip(self.points, values, strict=True):
            self.points[key].append(float(value))
        return error <= TARGETS[-1] or self._cost >= self._task.limit or not math.isfinite(loss)


def second_order(
    task: Task, settings: dict[str, Any], batch: int, seed: int, watch: Watch | None = None
) -> Points:
    """Train with `HessianFree`; `watch` sees each outer iteration before it is done, and its result after it is."""
    model, count = task.model(seed), len(task.x)
    optimizer = kt.HessianFree(model.parameters(), **{**_COMMON, **settings})
    samplers = [kt.Sampler(count, mode="fresh", seed=2 * seed + i) for i in range(2)]
    whole = list(zip(task.x.split(4000), task.y.split(4000), strict=True))

    def fresh(sampler: kt.Sampler, size: int) -> list[tuple[Tensor, Tensor]]:
        return [(task.x[i], task.y[i]) for i in sampler.batches(sampler.draw(size), 4096)]

    def closure(samples: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = model(samples[0])
        return F.cross_entropy(outputs, samples[1]), outputs

    curve, over = Curve(task, model), False
    while not over:
        curvature, evaluation = fresh(samplers[0], batch), fresh(samplers[1], _EVALUATION)
        stepped = None if watch is None else watch(model, closure, curvature, evaluation)
        optimizer.step_batches(closure, gradient=whole, curvature=curvature, evaluation=evaluation)
        if stepped is not None:
            stepped()
        step = optimizer.last_step
        assert step is not None
        cost, seconds = step.gradient_equivalents, step.seconds["total"]
        over = curve.add(cost, step.collectives, step.products, seconds, step.escapes)
    return curve.points


def sgd(task: Task, rate: float, seed: int) -> Points:
    """Train with stochastic gradients; an epoch is one gradient-equivalent."""
    model, count = task.model(seed), len(task.x)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    curve, over = Curve(task, model), False
    while not over:
        began = time.perf_counter()
        batches = torch.randperm(count, generator=generator).split(_SGD_BATCH)
        for i in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(task.x[i]), task.y[i]).backward()
            optimizer.step()
        over = curve.add(1.0, len(batches), 0, time.perf_counter() - began)
    return curve.points


def _to(points: Points, target: float, key: str) -> float:
    return crossing(points[key], points["error"], target)


def _row(name: str, runs: list[Points]) -> list[str]:
    last = TARGETS[-1]
    return [
        name,
        *(spread((_to(p, target, "cost") for p in runs), 1) for target in TARGETS),
        *(
            spread((_to(p, last, key) for p in runs), digits)
            for key, digits in (("iterations", 0), ("products", 0), ("collectives", 0))
        ),
        spread((_to(p, last, "seconds") for p in runs), 1),
        spread((min(p["error"]) for p in runs), 4),
        spread((min(p["loss"]) for p in runs), 4),
    ]


_COLUMNS = (
    "method",
    *(f"passes to {target}" for target in TARGETS),
    "iterations",
    "products",
    "collectives",
    "seconds",
    "least error",
    "least objective",
)


def compare(name: str, task: Task, seeds: int, out: Path) -> dict[str, Any]:
    """All methods on one network: table, pictures, verdicts."""
    runs: dict[str, list[Points]] = {}
    rates = {rate: sgd(replace(task, limit=min(task.limit, 30)), rate, 0) for rate in _RATES}
    rate = min(rates, key=lambda r: (_to(rates[r], TARGETS[-1], "cost"), min(rates[r]["error"])))
    label = f"{SGD}, rate {rate}"
    runs[label] = [rates[rate], *(sgd(task, rate, seed) for seed in range(1, seeds))]
    for method, settings in METHODS.items():
        console.print(f"{name}: {method}", style="dim")
        runs[method] = [second_order(task, settings, BATCH, seed) for seed in range(seeds)]
    title = (
        f"{name}: {len(task.x)} samples, curvature batch {BATCH}, {seeds} seeds: mean (range); "
        f"at most {task.limit:g} passes"
    )
    show(title, _COLUMNS, (_row(method, found) for method, found in runs.items()))
    lines = {method: found[0] for method, found in runs.items()}
    axes = {
        "iterations": "outer iterations, epochs",
        "cost": "passes over the data (gradient-equivalents)",
        "collectives": "collectives",
    }
    for key, title in (("error", "training error"), ("loss", "objective")):
        curves(out, f"he2016-{name}-{key}", lines, axes, key, title, log_y=True)
    return {"runs": runs, "bars": _bars(name, runs) if task.limit >= _LIMIT else None}


def _bars(name: str, runs: dict[str, list[Points]]) -> dict[str, bool]:
    costs = {m: [_to(p, TARGETS[-1], "cost") for p in found] for m, found in runs.items()}
    missing = [m for m in costs if m != EXCUSED and not all(map(math.isfinite, costs[m]))]
    means = {m: sum(found) / len(found) for m, found in costs.items()}
    reference = min(REFERENCES, key=means.__getitem__)
    theirs, control = means[reference], means[CONTROL]
    bars = {f"error {TARGETS[-1]} by all but {EXCUSED}": not missing}
    details = [f"not by {', '.join(missing)}" if missing else ""]
    for method in OURS:
        ours = means[method]
        bars[f"{method}: no more passes than {reference}"] = math.isfinite(ours) and ours <= theirs
        found = sum(sum(run["escapes"]) for run in runs[method])
        details.append(
            f"{ours:.1f} beside {theirs:.1f}; {control:.1f} {CONTROL}; {found:.0f} escapes"
        )
    for (bar, met), detail in zip(bars.items(), details, strict=True):
        console.print(f"{name}: {bar}: {verdict_of(met)} {detail}")
    return bars


def sweep(name: str, task: Task, seeds: int) -> dict[str, list[Points]]:
    """Other curvature batches."""
    runs = {}
    for batch in (b for b in BATCHES if b <= len(task.x)):
        for method in SWEPT:
            console.print(f"{name}: {method}, batch {batch}", style="dim")
            runs[f"{method}, {batch}"] = [
                second_order(task, METHODS[method], batch, seed) for seed in range(seeds)
            ]
    show(
        f"{name}: curvature batches, {seeds} seed(s); at most {task.limit:g} passes",
        _COLUMNS,
        (_row(key, found) for key, found in runs.items()),
    )
    return runs


def offered(name: str, task: Task) -> list[dict[str, float]]:
    """Along a run of the control: lowest curvature of the Hessian, and what its direction brings after the step."""
    watch = Negative()
    second_order(task, METHODS[CONTROL], BATCH, 0, watch)
    show(
        f"{name}: the direction v of the lowest curvature, seed 0; decrease of the loss by the step, and by v after it",
        ("iteration", "lowest curvature", "largest", "cosine of v and g", "step", "v"),
        ([str(i), *(f"{x:.2g}" for x in row.values())] for i, row in enumerate(watch.rows, 1)),
    )
    return watch.rows


@click.command()
@experiment_options
def main(data: Path, seeds: int, quick: bool, out: Path) -> None:
    """Compare the variants of Hessian-free optimization that use negative curvature, or do not."""
    began = time.perf_counter()
    count, limit = (2_000, 6.0) if quick else (10_000, _LIMIT)
    pixels, labels = (tensor[:count] for tensor in mnist(data))
    seeds = 1 if quick else seeds
    results: dict[str, Any] = {
        "samples": count,
        "seeds": seeds,
        "methods": {m: str({**_COMMON, **own}) for m, own in METHODS.items()},
    }
    tasks = {name: Task(pixels, labels, hidden, limit) for name, hidden in NETS.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        results[name] = compare(name, task, seeds, out)
    last = list(tasks)[-1]
    results["negative curvature"] = {name: offered(name, task) for name, task in tasks.items()}
    results["batches"] = {last: sweep(last, replace(tasks[last], limit=min(limit, _SHORT)), 1)}
    save(out, "he2016", results)
    console.print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
