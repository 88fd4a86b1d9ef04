"""One outer iteration: what it is, and those of optimizers that have torch's interface only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from krylov.torch.sampling import Sampler
from krylov.torch.schedules import Schedule
from krylov.torch.training.measure import Loss
from krylov.torch.training.samples import Batch, Samples

__all__ = [
    "ClosureIteration",
    "Iteration",
    "MiniBatchIteration",
    "NonFiniteLoss",
    "OneSampleIteration",
    "Spent",
    "Task",
]


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message says where and what to do. No step was taken from it."""


@dataclass(frozen=True)
class Task:
    """What is minimised, and over which samples."""

    model: nn.Module
    loss: Loss
    samples: Samples
    device: torch.device | None

    def take(self, indices: Tensor) -> Batch:
        """These samples, where the model is."""
        return self.samples.take(indices, self.device)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss and outputs."""
        inputs, targets = batch
        outputs = self.model(inputs)
        return self.loss(outputs, targets), outputs

    def finite_loss(self, indices: Tensor, words: str) -> Tensor:
        """Mean loss of these samples, or an error that names the first one that spoils it.

        Raises
        ------
        NonFiniteLoss
            It is NaN or infinite.
        """
        loss, outputs = self.evaluate(self.take(indices))
        if not bool(torch.isfinite(loss.detach())):
            raise NonFiniteLoss(_complaint(float(loss.detach()), outputs.detach(), indices, words))
        return loss


@dataclass(frozen=True)
class Spent:
    """What an iteration has cost, and what it has to say."""

    cost: float  #: gradients of one sample each
    visits: int  #: samples read, once for each gradient, product and loss
    collectives: int  #: all-reduces, if the data were distributed
    gradient_samples: int
    curvature_samples: int | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class Iteration(Protocol):
    """Takes outer iterations."""

    def __call__(self, step: int) -> Spent:
        """Take one."""

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, beside the model and the optimizer."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class OneSampleIteration:
    """What iterations on a single sample have in common, of whatever order: how it is drawn, its size, its batches."""

    def __init__(
        self, task: Task, optimizer: Any, sampler: Sampler, schedule: Schedule, batch: int
    ) -> None:
        self._task, self._optimizer, self._batch = task, optimizer, batch
        self._sampler, self._schedule = sampler, schedule

    def state_dict(self) -> dict[str, Any]:
        """Sampler and schedule."""
        return {"sampler": self._sampler.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._sampler.load_state_dict(state["sampler"])
        self._schedule.load_state_dict(state["schedule"])

    def _draw(self) -> tuple[int, list[Tensor]]:
        sample = self._sampler.draw(self._schedule.size)
        self._schedule.update()
        return len(sample), self._sampler.batches(sample, self._batch)


class MiniBatchIteration(OneSampleIteration):
    """An epoch of mini-batches, for SGD, Adam and their kind: a step each."""

    def __call__(self, step: int) -> Spent:
        """Go through a sample of the schedule's size once, in an order of its own."""
        count, batches = self._draw()
        for number, indices in enumerate(batches, 1):
            self._optimizer.zero_grad()
            where = f"iteration {step}, mini-batch {number} of {len(batches)}"
            torch.autograd.backward(self._task.finite_loss(indices, where))
            self._optimizer.step()
        self._optimizer.zero_grad()
        return Spent(count, count, len(batches), count)


class ClosureIteration(OneSampleIteration):
    """A step with the whole sample in each evaluation, for torch's LBFGS."""

    def __call__(self, step: int) -> Spent:
        """One call of ``optimizer.step``, which evaluates as often as it likes."""
        count, batches = self._draw()
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            self._optimizer.zero_grad()
            return self._gather(batches, count, f"iteration {step}, evaluation {calls}")

        self._optimizer.step(closure)
        self._optimizer.zero_grad()
        visits = calls * count
        return Spent(visits, visits, calls, count, optimizer={"evaluations": calls})

    def _gather(self, batches: Sequence[Tensor], count: int, where: str) -> Tensor:
        total = torch.zeros(())
        for indices in batches:
            loss = self._task.finite_loss(indices, where) * (len(indices) / count)
            torch.autograd.backward(loss)
            total = total + loss.detach().cpu()
        return total


def _complaint(loss: float, outputs: Tensor, indices: Tensor, words: str) -> str:
    said = f"{words}: the loss is {loss}"
    cure = "lower the learning rate, or begin from other parameters; the last good ones are kept"
    bad = ~torch.isfinite(outputs).reshape(len(outputs), -1).all(1)
    if len(bad) == len(indices) and bool(bad.any()):
        first = int(indices[int(bad.nonzero()[0])])
        count = f"{int(bad.sum())} of {len(bad)} samples"
        return f"{said}; outputs are not finite for {count}, the first is sample {first}: {cure}"
    return f"{said}, although the outputs are finite: {cure}"
