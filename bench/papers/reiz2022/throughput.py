"""Seconds of a step on ResNet-50, whose training is beyond a processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import save, show

import krylov.torch as kt
from reiz2022.resnet import cross_entropy, resnet50

#: Images, their side, and steps that are timed after a first one.
_BATCH, _SIDE, _STEPS = 4, 224, 3
_ITERATIONS = 3


def throughput(out: Path, quick: bool) -> None:
    """Time each optimizer on random images; the fastest of some steps counts."""
    batch, side, steps = (2, 64, 1) if quick else (_BATCH, _SIDE, _STEPS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, side, side, generator=generator)
    y = torch.randint(1000, (batch,), generator=generator)
    seconds = {}
    for name, make in _CONTESTANTS.items():
        torch.manual_seed(0)
        model = resnet50()
        step = make(model, x, y)
        step()
        seconds[name] = min(_timed(step) for _ in range(steps))
    least = seconds["SGD"]
    rows = [(name, f"{t:.2f}", f"{t / least:.2f}") for name, t in seconds.items()]
    title = f"ResNet-50, {batch} images of {side} x {side}: {torch.get_num_threads()} thread(s)"
    show(title, ("", "s a step", "steps of SGD"), rows)
    save(out, "reiz2022-resnet50", {"batch": batch, "side": side, "seconds": seconds})


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


Make = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], Callable[[], None]]


def _first_order(make: Callable[[torch.nn.Module], torch.optim.Optimizer]) -> Make:
    def made(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
        optimizer = make(model)

        def step() -> None:
            optimizer.zero_grad()
            loss, _ = cross_entropy(model, x, y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return made


def _lbfgs(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=1, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss, _ = cross_entropy(model, x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return lambda: optimizer.step(closure)  # type: ignore[no-untyped-call, no-any-return]


def _second_order(make: Callable[[torch.nn.Module], torch.optim.Optimizer]) -> Make:
    def made(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
        optimizer = make(model)

        def step() -> None:
            optimizer.step(lambda: cross_entropy(model, x, y))

        return step

    return made


_CONTESTANTS: dict[str, Make] = {
    "SGD": _first_order(lambda m: torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9)),
    "Adam": _first_order(lambda m: torch.optim.Adam(m.parameters(), lr=1e-4, fused=True)),
    "torch LBFGS, 1 iteration": _lbfgs,
    f"HessianFree, {_ITERATIONS} iterations": _second_order(
        lambda m: kt.HessianFree(m.parameters(), stop=_ITERATIONS, damping=10.0)
    ),
    f"NewtonCG, {_ITERATIONS} iterations": _second_order(
        lambda m: kt.NewtonCG(m.parameters(), lr=1e-3, maxiter=_ITERATIONS, tol=1e-6, damping=10.0)
    ),
    "Neumann": _first_order(lambda m: kt.Neumann(m.parameters(), 1e-3)),
}
