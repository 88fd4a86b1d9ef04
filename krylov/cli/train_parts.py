"""From the options of ``krylov train`` to data, model, loss, optimizer and schedules. Imports torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from krylov.cli.train_settings import Settings
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.hessian_free import HessianFree
from krylov.torch.optim.linesearch import Armijo, GridSearch
from krylov.torch.optim.neumann import Neumann
from krylov.torch.optim.newton_cg import NewtonCG
from krylov.torch.schedules import (
    FixedSize,
    GeometricSchedule,
    GeometricThenVariance,
    Schedule,
    VarianceSchedule,
)
from krylov.torch.spectrum import SpectrumTracker
from krylov.torch.training.data import Data, load_data
from krylov.torch.training.fit import MINI_BATCH
from krylov.torch.training.models import autoencoder, cnn, mlp

__all__ = [
    "make_data",
    "make_loss",
    "make_model",
    "make_optimizer",
    "make_schedules",
    "make_tracker",
]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_SIZES = {"mlp": (128, 64), "autoencoder": (128, 64, 16), "cnn": (16, 32)}
_RATES = {"adam": 1e-3, "sgd": 0.1, "lbfgs": 1.0, "neumann": 0.1}
_LINE_SEARCHES = {"none": None, "armijo": Armijo(), "grid": GridSearch()}
_SCHEDULES = {
    "geometric": (GeometricSchedule, "geometric:INITIAL:FACTOR"),
    "variance": (VarianceSchedule, "variance:INITIAL:THETA"),
    "geometric-variance": (GeometricThenVariance, "geometric-variance:INITIAL:FACTOR:THETA"),
}


def make_data(settings: Settings) -> Data:
    """Load them; for an autoencoder each input is its own target."""
    data = load_data(
        settings.data,
        None if settings.path is None else Path(settings.path),
        held_out=settings.held_out,
        test=settings.test,
        train_size=settings.train_size,
        seed=settings.seed,
        target=settings.target,
        drop=settings.drop,
        task=settings.task,
    )
    if settings.model == "autoencoder":
        data = data.reconstruction()
    return data.to(_DTYPES[settings.dtype])


def make_model(settings: Settings, data: Data) -> nn.Module:
    """Build it, with as many inputs and outputs as the data need."""
    inputs = math.prod(data.sample_shape)
    sizes = settings.sizes or _SIZES[settings.model]
    options: dict[str, Any] = {
        "activation": settings.activation,
        "init": settings.init,
        "seed": settings.seed,
    }
    model: nn.Module
    if settings.model == "mlp":
        model = mlp(inputs, data.outputs, sizes, **options)
    elif settings.model == "autoencoder":
        model = autoencoder(inputs, sizes, **options)
    else:
        model = cnn(data.sample_shape, data.outputs, sizes, **options)
    return model.to(_DTYPES[settings.dtype])


def make_loss(settings: Settings, data: Data) -> nn.Module:
    """The loss that was asked for, or the usual one."""
    name = settings.loss
    if name == "auto" and data.classes is not None:
        name = "cross-entropy"
    elif name == "auto":
        pixels = settings.model == "autoencoder" and settings.data != "csv"
        name = "bce" if pixels else "mse"
    if (name == "cross-entropy") != (data.classes is not None):
        raise ValueError(
            f"--loss {name} does not fit: these data have "
            + ("no classes" if data.classes is None else f"{data.classes} classes")
        )
    losses = {"cross-entropy": nn.CrossEntropyLoss, "bce": nn.BCEWithLogitsLoss, "mse": nn.MSELoss}
    made: nn.Module = losses[name]()
    return made


def make_optimizer(settings: Settings, model: nn.Module, count: int) -> torch.optim.Optimizer:
    """The optimizer with its options, for so many training samples."""
    parameters = model.parameters()
    if settings.optimizer == "hf":
        return HessianFree(
            parameters,
            stop=settings.inner,
            damping=settings.damping,
            **_second_order(settings),
        )
    if settings.optimizer == "newton_cg":
        damping = 1.0 if settings.damping is None else settings.damping
        return NewtonCG(
            parameters,
            maxiter=settings.inner or 10,
            tol=settings.tol,
            damping=LevenbergMarquardt(damping) if settings.damping_rule == "adapted" else damping,
            **_second_order(settings),
        )
    lr = _RATES[settings.optimizer] if settings.lr is None else settings.lr
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=settings.weight_decay)
    if settings.optimizer == "neumann":
        warmup, reset = _epochs(settings, count)
        return Neumann(
            parameters,
            lr,
            warmup_steps=warmup,
            reset_every=reset,
            weight_decay=settings.weight_decay,
        )
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.LBFGS(
        parameters, lr=lr, max_iter=settings.inner or 10, line_search_fn="strong_wolfe"
    )


def _epochs(settings: Settings, count: int) -> tuple[int, int]:
    """Steps of the epochs of warm-up, and of those from there to the first reset; epochs may grow by a schedule."""
    schedule = make_schedules(settings, count).get("gradient_schedule", FixedSize(count))
    steps = []
    for _ in range(settings.warmup + settings.reset):
        steps.append(math.ceil(min(schedule.size, count) / (settings.batch or MINI_BATCH)))
        if not schedule.needs_statistics:  # else `fit` will refuse it
            schedule.update()
    return sum(steps[: settings.warmup]), sum(steps[settings.warmup :])


def _second_order(settings: Settings) -> dict[str, Any]:
    """Options that the optimizers of second order share."""
    size = settings.precond_size
    if size is not None and settings.precond in ("none", "jacobi"):
        raise ValueError(f"--precond-size: --precond {settings.precond} keeps no pairs or vectors")
    return {
        "lr": 1.0 if settings.lr is None else settings.lr,
        "weight_decay": settings.weight_decay,
        "curvature": settings.curvature,
        "solver": settings.solver,
        "line_search": _LINE_SEARCHES[settings.line_search],
        "preconditioner": None if settings.precond == "none" else settings.precond,
        "preconditioner_options": {} if size is None else {"m": size},
        "seed": settings.seed,
    }


def make_tracker(settings: Settings, model: nn.Module) -> SpectrumTracker | None:
    """What measures the spectrum, if that was asked for."""
    if settings.spectrum is None:
        return None
    return SpectrumTracker(model.parameters(), every=settings.spectrum, seed=settings.seed)


def make_schedules(settings: Settings, count: int) -> dict[str, Any]:
    """Schedules for gradient and curvature, those that were asked for."""
    made: dict[str, Any] = {}
    for name in ("gradient", "curvature"):
        words = getattr(settings, f"{name}_samples")
        if words != "all":
            made[f"{name}_schedule"] = _schedule(words, f"--{name}-samples", count)
    return made


def _schedule(words: str, option: str, count: int) -> Schedule:
    if words.isdecimal():
        return FixedSize(int(words))
    kind, *numbers = words.split(":")
    make, form = _SCHEDULES.get(kind, (None, ""))
    forms = ", ".join(["all", "N", *(form for _, form in _SCHEDULES.values())])
    try:
        initial, *factors = [int(numbers[0]), *map(float, numbers[1:])]
    except (IndexError, ValueError):
        make = None
    if make is None or len(numbers) != form.count(":"):
        raise ValueError(f"{option} {words}: must be one of {forms}")
    try:
        schedule: Schedule = make(initial, *factors, count)
    except ValueError as error:
        raise ValueError(f"{option} {words}: {error} (there are {count} samples)") from None
    return schedule
