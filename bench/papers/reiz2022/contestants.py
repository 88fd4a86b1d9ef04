"""How each optimizer trains: its steps, its samples, what it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from clock import Clock
from torch import Tensor, nn

import krylov.torch as kt
from reiz2022.scenario import Batch, Scenario

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A network to be trained, and the clock that ends it."""

    scenario: Scenario
    model: nn.Module
    clock: Clock
    seed: int

    @property
    def count(self) -> int:
        return len(self.scenario.x)

    def closure(self, batch: Batch) -> tuple[Tensor, Any]:
        return self.scenario.loss(self.model, batch)

    def epochs(self, size: int) -> Iterator[Tensor]:
        """Indices of batches, drawn without replacement, pass after pass."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.count, generator=generator).split(size)


Contestant = Callable[[Task, Setting], None]


def _lower(optimizer: torch.optim.Optimizer, rate: float, clock: Clock) -> None:
    """The rate falls to zero over the seconds, as half a cosine does."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * clock.share)) / 2


def _first_order(task: Task, setting: Setting, optimizer: torch.optim.Optimizer) -> None:
    """Mini-batches; the rate falls unless it is constant."""
    torch.manual_seed(task.seed)  # of the noise
    x, y = task.scenario.x, task.scenario.y
    for indices in task.epochs(setting["batch"]):
        if not setting.get("constant", False):
            _lower(optimizer, setting["lr"], task.clock)
        optimizer.zero_grad()
        loss, _ = task.closure(Batch(x[indices], y[indices]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        task.clock.pay(len(indices) / task.count)
        task.clock.tick()


def sgd(task: Task, setting: Setting) -> None:
    """With Nesterov's momentum."""
    _first_order(
        task,
        setting,
        torch.optim.SGD(task.model.parameters(), lr=setting["lr"], momentum=0.9, nesterov=True),
    )


def adam(task: Task, setting: Setting) -> None:
    _first_order(
        task, setting, torch.optim.Adam(task.model.parameters(), lr=setting["lr"], fused=True)
    )


def lbfgs(task: Task, setting: Setting) -> None:
    """Strong Wolfe line search, on all samples or on large batches with a fresh history for each.

    The noise of a batch is the same in all evaluations, and with all samples in the whole run.
    """
    size = min(setting["batch"], task.count)
    for k, indices in enumerate(task.epochs(size)):
        optimizer = torch.optim.LBFGS(
            task.model.parameters(),
            max_iter=setting.get("iterations", 20),
            max_eval=1000,
            history_size=setting.get("history", 50),
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        batches = task.scenario.batches(indices, k)

        def closure(batches: list[Batch] = batches, owner: Any = optimizer) -> Tensor:
            owner.zero_grad()
            total = torch.zeros(())
            samples = sum(len(batch.x) for batch in batches)
            for batch in batches:
                loss = task.closure(batch)[0] * (len(batch.x) / samples)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            task.clock.pay(samples / task.count)
            return total

        while True:
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            task.clock.tick()
            if size < task.count:
                break


def _second_order(task: Task, setting: Setting, optimizer: Any) -> None:
    """A growing sample for the gradient, and a part of it for the curvature; the rate stays, unless it is falling."""
    size = min(setting.get("batch", task.count), task.count)
    schedule = kt.GeometricSchedule(size, setting.get("growth", 1.0), task.count)
    sampler = kt.Sampler(task.count, mode="fresh", seed=task.seed)
    step = 0
    while True:
        step += 1
        if setting.get("falling", False):
            _lower(optimizer, setting["lr"], task.clock)
        noise = 0 if setting.get("same noise", False) else step
        indices = sampler.draw(schedule.size)
        gradient = task.scenario.batches(indices, noise)
        part = -(-len(gradient) // setting.get("part", 1))
        optimizer.step_batches(task.closure, gradient=gradient, curvature=gradient[:part])
        schedule.update()
        task.clock.pay(optimizer.last_step.cost / task.count)
        task.clock.tick()


_OF_SAMPLES = ("batch", "growth", "part", "same noise", "constant", "falling")


def _options(setting: Setting, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Keywords of the optimizer."""
    return {k: value for k, value in setting.items() if k not in (*_OF_SAMPLES, *others)}


def hessian_free(task: Task, setting: Setting) -> None:
    options = {"curvature": "ggn", **_options(setting)}
    _second_order(task, setting, kt.HessianFree(task.model.parameters(), **options))


def newton_cg(task: Task, setting: Setting) -> None:
    _second_order(task, setting, kt.NewtonCG(task.model.parameters(), **_options(setting)))


def neumann(task: Task, setting: Setting) -> None:
    """An epoch of warm-up, as runs are short; resets as in the paper, after 10 epochs at first."""
    epoch = -(-task.count // setting["batch"])
    optimizer = kt.Neumann(
        task.model.parameters(),
        setting["lr"],
        warmup_steps=setting.get("warm-up", 1) * epoch,
        reset_every=10 * epoch,
        **_options(setting, ("lr", "warm-up")),
    )

    @contextmanager
    def restored() -> Iterator[None]:
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()

    task.clock.view = restored
    _first_order(task, setting, optimizer)
