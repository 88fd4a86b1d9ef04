"""Sainath et al. (2013): L-BFGS-preconditioned flexible CG and growing samples, at our size.

Plain GN-CG takes the full gradient and a fixed curvature sample, and stops CG by Martens' rule, with the progress
of the last 5 iterations: the published 10 are done in every run after the last useful one, and hide what M saves (a
row shows them). Each variant changes one thing or all: a preconditioner that learns from run to run, and samples
that grow. All start from the same weights, are judged on the same held-out samples, and are timed until they reach
the held-out loss that plain GN-CG has at the end.

    python bench/papers/sainath2013.py [--experiment deep|autoencoder|speech] [--seeds 3] [--data DIR] [--quick]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from common import (
    console,
    crossing,
    curves,
    experiment_options,
    save,
    show,
    spread,
    verdict,
)
from sainath2013_settings import EXPERIMENTS, PLAIN, VARIANTS, Experiment, Variant, quick_trial
from torch import Tensor

import krylov.torch as kt
from krylov.torch.optim.record import GRADIENTS

#: Samples of a micro-batch.
_BATCH = 1000
#: First size of a growing sample, as a share of the largest; factors of the paper.
_FIRST = {"gradient": 0.1, "curvature": 0.1}
_FACTOR = {"gradient": 1.2, "curvature": 1.3}
_THETA = 0.25


def _schedule(kind: str, role: str, maximum: int) -> Any:
    first, factor = max(1, round(_FIRST[role] * maximum)), _FACTOR[role]
    if kind == "geometric":
        return kt.GeometricSchedule(first, factor, maximum)
    if kind == "variance":
        return kt.VarianceSchedule(first, _THETA, maximum)
    if kind == "both":
        return kt.GeometricThenVariance(first, factor, _THETA, maximum)
    return kt.FixedSize(maximum)


def run(
    experiment: Experiment, variant: Variant, data: Any, seed: int, steps: int, target: float | None
) -> dict[str, list[float]]:
    """Train and record, after each outer iteration: held-out loss, cost of CG, whole cost, seconds, iterations."""
    x, y, held_x, held_y, groups = data
    count = len(x)
    model = experiment.model(seed)
    optimizer = kt.HessianFree(
        model.parameters(),
        damping=kt.LevenbergMarquardt(experiment.damping, 3 / 2, 2 / 3),  # the paper's rule
        preconditioner=variant.preconditioner,
        preconditioner_options=variant.options,
        stop=variant.stop,
        retries=0,  # as the paper: a rejected step goes on to the next gradient
    )
    held_out = list(zip(held_x.split(_BATCH), held_y.split(_BATCH), strict=True))
    sizes = _schedule(variant.gradient, "gradient", count)
    products = _schedule(variant.curvature, "curvature", experiment.curvature)
    sampler = kt.Sampler(count, mode="nested", seed=seed, groups=groups)
    curvature_sampler = kt.Sampler(count, mode="fresh", seed=seed + 1, groups=groups)

    def batches(sampler: kt.Sampler, indices: Tensor) -> list[tuple[Tensor, Tensor]]:
        most = min(_BATCH, max(50, len(indices) // 10))  # ten groups at least, for the variance
        return [(x[i], y[i]) for i in sampler.batches(indices, most)]

    def closure(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = model(batch[0])
        return experiment.loss(outputs, batch[1]), outputs

    points: dict[str, list[float]] = {
        key: [] for key in ("loss", "cg", "cost", "seconds", "iterations", "gradient_samples")
    }
    cg = cost = seconds = 0.0
    for _ in range(steps):
        sample = sampler.draw(sizes.size)
        of_curvature = curvature_sampler.draw(products.size, within=sample)
        optimizer.step_batches(
            closure,
            gradient=batches(sampler, sample),
            curvature=[(x[i], y[i]) for i in curvature_sampler.batches(of_curvature, _BATCH)],
            evaluation=held_out,
        )
        step = optimizer.last_step
        sizes.update(optimizer.last_statistics)
        products.update(optimizer.last_statistics)
        cg += GRADIENTS["ggn"] * step.products * step.curvature_samples / count
        cost += step.cost / count
        seconds += step.seconds["total"]
        for key, value in (
            ("loss", step.loss_after),
            ("cg", cg),
            ("cost", cost),
            ("seconds", seconds),
            ("iterations", step.iterations),
            ("gradient_samples", step.gradient_samples),
        ):
            points[key].append(float(value))
        if target is not None and step.loss_after <= target:
            break
    return points


def _row(
    name: str,
    runs: list[dict[str, Any]],
    targets: list[float],
    plain: list[dict[str, Any]],
    bar: float | None,
) -> tuple[list[str], dict[str, Any]]:
    def ratios(key: str) -> list[float]:
        return [
            crossing(p[key], p["loss"], t) / crossing(r[key], r["loss"], t)
            for r, p, t in zip(runs, plain, targets, strict=False)
        ]

    cg, cost, seconds = (
        [crossing(r[k], r["loss"], t) for r, t in zip(runs, targets, strict=False)]
        for k in ("cg", "cost", "seconds")
    )
    saved = [1 - 1 / q if q else -float("inf") for q in ratios("cg")]
    faster = ratios("seconds")
    met = None
    if bar is not None:
        measured = saved if bar < 1 else faster
        met = sum(measured) / len(measured) >= bar
    wanted = "" if bar is None else f"{bar:.0%} saved" if bar < 1 else f"{bar:.1f}x"
    iterations = [sum(r["iterations"]) / len(r["iterations"]) for r in runs]
    row = [
        name if len(runs) == len(plain) else f"{name} (one seed)",
        spread((len(r["loss"]) for r in runs), 0),
        spread(iterations, 0),
        spread(cg, 1),
        spread((100 * s for s in saved), 0),
        spread(cost, 1),
        spread(ratios("cost")),
        spread(seconds, 1),
        spread(faster),
        wanted,
        verdict(met),
    ]
    return row, {"cg": cg, "cost": cost, "seconds": seconds, "bar": bar, "met": met}


_COLUMNS = (
    "variant",
    "outer iterations",
    "CG iterations each",
    "CG, gradients",
    "saved, %",
    "all, gradients",
    "fewer",
    "seconds",
    "faster",
    "bar",
    "met",
)


def compare(name: str, experiment: Experiment, data: Path, seeds: int, out: Path) -> None:
    """Run all variants on all seeds, print the table, write files."""
    runs: dict[str, list[dict[str, Any]]] = {
        v: [] for v in VARIANTS if v in experiment.variants + experiment.once
    }
    targets = []
    for seed in range(seeds):
        samples = experiment.samples(data, seed)
        plain = run(experiment, VARIANTS[PLAIN], samples, seed, experiment.steps, None)
        targets.append(min(plain["loss"]))
        if not targets[-1] < plain["loss"][0]:
            raise click.ClickException(f"{name}: plain GN-CG learns nothing; change its damping")
        runs[PLAIN].append(plain)
        for variant in runs:
            if variant == PLAIN or (seed and variant in experiment.once):
                continue
            console.print(f"{name}, seed {seed}: {variant}", style="dim")
            growing = VARIANTS[variant].gradient != "full"
            most = 4 * experiment.steps if growing else 3 * experiment.steps // 2
            runs[variant].append(
                run(experiment, VARIANTS[variant], samples, seed, most, targets[-1])
            )
    rows = {v: _row(v, runs[v], targets, runs[PLAIN], experiment.bars.get(v)) for v in runs}
    show(
        f"{name}: to the held-out loss of plain GN-CG ({spread(targets, 4)})",
        _COLUMNS,
        (r[0] for r in rows.values()),
    )
    results = {v: {"runs": runs[v], **rows[v][1]} for v in runs}
    save(out, f"sainath2013-{name}", {"targets": targets, "variants": results})
    curves(
        out,
        f"sainath2013-{name}",
        {v: runs[v][0] for v in experiment.variants},
        {"cg": "gradient-equivalents in CG", "cost": "gradient-equivalents", "seconds": "seconds"},
        "loss",
        "held-out loss",
        log_y=True,
    )


@click.command()
@click.option(
    "--experiment", type=click.Choice(list(EXPERIMENTS)), multiple=True, help="Default: all."
)
@experiment_options
def main(experiment: tuple[str, ...], data: Path, seeds: int, quick: bool, out: Path) -> None:
    """Compare preconditioners and sample schedules with plain GN-CG."""
    for name in experiment or EXPERIMENTS:
        chosen = EXPERIMENTS[name]
        compare(name, quick_trial(chosen) if quick else chosen, data, 1 if quick else seeds, out)


if __name__ == "__main__":
    main()
