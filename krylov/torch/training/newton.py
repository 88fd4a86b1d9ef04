"""An outer iteration of `NewtonCG` or `NeumannSeries`: an epoch of mini-batches, a step each."""

from __future__ import annotations

from collections import Counter

import torch

from krylov.torch.optim.record import samples_read
from krylov.torch.training.iteration import NonFiniteLoss, OneSampleIteration, Spent

__all__ = ["NewtonIteration"]

_SUMS = ("iterations", "products", "evaluations", "collectives", "bytes", "cost")


class NewtonIteration(OneSampleIteration):
    """Goes through a sample of the schedule's size once; records are of the last step, with sums over all."""

    def __call__(self, step: int) -> Spent:
        """Take them."""
        count, batches = self._draw()
        visits = 0
        sums: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for number, indices in enumerate(batches, 1):
            where = f"iteration {step}, mini-batch {number} of {len(batches)}"
            try:
                self._optimizer.step_batches(
                    self._task.evaluate, gradient=[self._task.take(indices)]
                )
            except FloatingPointError as error:
                with torch.no_grad():
                    self._task.finite_loss(indices, where)  # names the sample
                raise NonFiniteLoss(f"{where}: {error}") from error
            record = self._optimizer.last_step
            sums.update({name: getattr(record, name) for name in _SUMS})
            visits += samples_read(record)
            sums["rejected"] += not record.accepted
            seconds.update(record.seconds)
        entries = {**record.as_dict(), **sums}
        del entries["seconds"]
        return Spent(
            sums["cost"],
            visits,
            sums["collectives"],
            count,
            optimizer=entries | {"gradient_equivalents": sums["cost"] / count},
            seconds=seconds,
        )
