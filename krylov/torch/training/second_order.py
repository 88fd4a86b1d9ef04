"""An outer iteration of `HessianFree`: which samples it sees, in which micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from krylov.torch.optim.record import samples_read
from krylov.torch.sampling import Sampler
from krylov.torch.schedules import Schedule
from krylov.torch.training.iteration import Spent, Task
from krylov.torch.training.samples import Batch

__all__ = ["SecondOrderIteration"]

#: Micro-batches that a sample is cut into at least where a schedule wants its variance.
_GROUPS = 10


class SecondOrderIteration:
    """Gradient, curvature and evaluation samples for ``optimizer.step_batches``.

    The curvature sample lies within the gradient sample, and its micro-batches are those of the gradient: what both
    need is computed once.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Any,
        samplers: tuple[Sampler, Sampler],
        schedules: tuple[Schedule, Schedule],
        batch: int,
        evaluation: list[Batch] | None,
    ) -> None:
        self._task, self._optimizer, self._batch = task, optimizer, batch
        self._gradient, self._curvature = samplers
        self._schedules = schedules
        self._evaluation = evaluation
        self._watch = any(schedule.needs_statistics for schedule in schedules)
        # Samples that did not change, as all the data, are not copied again.
        self._last: tuple[Tensor, Tensor, list[Batch], list[Batch]] | None = None

    def __call__(self, step: int) -> Spent:
        """One call of ``optimizer.step_batches``."""
        gradient, curvature = self._draw()
        try:
            self._optimizer.step_batches(
                self._task.evaluate,
                gradient=gradient,
                curvature=curvature,
                evaluation=self._evaluation,
            )
        except FloatingPointError:
            self._find_bad_samples(f"iteration {step}")
            raise
        for schedule in self._schedules:
            schedule.update(self._optimizer.last_statistics)
        record = self._optimizer.last_step
        entries = record.as_dict()
        seconds = entries.pop("seconds")
        return Spent(
            record.cost,
            samples_read(record),
            record.collectives,
            record.gradient_samples,
            record.curvature_samples,
            entries,
            seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Samplers and schedules."""
        return {
            "samplers": [self._gradient.state_dict(), self._curvature.state_dict()],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for sampler, kept in zip((self._gradient, self._curvature), state["samplers"], strict=True):
            sampler.load_state_dict(kept)
        for schedule, kept in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(kept)

    def _draw(self) -> tuple[list[Batch], list[Batch]]:
        gradient = self._gradient.draw(self._schedules[0].size)
        curvature = self._curvature.draw(self._schedules[1].size, within=gradient)
        if self._last is None or not all(map(torch.equal, self._last[:2], (gradient, curvature))):
            self._last = gradient, curvature, *self._cut(gradient, curvature)
        return self._last[2:]

    def _cut(self, gradient: Tensor, curvature: Tensor) -> tuple[list[Batch], list[Batch]]:
        most = self._batch
        if self._watch:
            most = min(most, max(1, len(gradient) // _GROUPS))
        rest = gradient[~torch.isin(gradient, curvature)]
        shared, others = (
            [self._task.take(part) for part in self._gradient.batches(sample, most)]
            for sample in (curvature, rest)
        )
        return shared + others, shared

    def _find_bad_samples(self, where: str) -> None:
        assert self._last is not None
        with torch.no_grad():
            for indices in self._gradient.batches(self._last[0], self._batch):
                self._task.finite_loss(indices, where)
