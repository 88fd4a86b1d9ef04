"""A training run: the loop, its records, the best parameters, and what a checkpoint holds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from krylov.torch.generators import random_state, restore_random_state
from krylov.torch.training.checkpoint import CheckpointError, load_checkpoint
from krylov.torch.training.history import Ending, History
from krylov.torch.training.interrupt import Interruption
from krylov.torch.training.iteration import Iteration, NonFiniteLoss, Spent, Task
from krylov.torch.training.log import plain
from krylov.torch.training.measure import Metric, measure
from krylov.torch.training.modes import evaluation_mode, parameters_to_use, training_mode
from krylov.torch.training.options import FitOptions
from krylov.torch.training.outputs import Outputs
from krylov.torch.training.progress import TrainingBar
from krylov.torch.training.rates import Rates
from krylov.torch.training.samples import Samples

__all__ = ["Problem", "Run"]


@dataclass(frozen=True)
class Problem:
    """What is trained on, and what it is judged by."""

    task: Task
    held_out: Samples | None
    metric: Metric | None


@dataclass
class _Totals:
    cost: float = 0.0
    visits: int = 0
    collectives: int = 0
    seconds: float = 0.0


@dataclass
class _Best:
    step: int
    loss: float
    model: dict[str, Any]


class Run:
    """One training run, from its beginning or its checkpoint to its end."""

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer,
        iteration: Iteration,
        options: FitOptions,
        batch: int,
    ) -> None:
        self._problem, self._optimizer, self._iteration = problem, optimizer, iteration
        self._model = problem.task.model
        self._options, self._batch = options, batch
        self._rates = Rates(options.scheduler, optimizer)
        self._step = 0
        self._records: list[dict[str, Any]] = []
        self._totals = _Totals()
        self._best = _Best(0, math.inf, copy.deepcopy(self._model.state_dict()))
        self._bar = TrainingBar(options.steps, shown=options.progress)

    def go(self) -> History:
        """Train; afterwards the model has the parameters that are to be kept."""
        limit = self._options.time_limit
        deadline = math.inf if limit is None else time.monotonic() + limit
        path = self._options.checkpoint
        resumed = self._options.resume and path is not None and path.exists()
        parameters_to_use(self._optimizer)  # as ever, but for iterations
        if resumed:
            assert path is not None
            self._restore(load_checkpoint(path), str(path))
        else:
            self._observe(None, 0.0)
        outputs = Outputs(self._options, self._records, self._bar.say)
        if not resumed:
            outputs.begin(self._state)
        try:
            with self._bar, Interruption() as interruption:
                ending = self._loop(outputs, interruption, deadline)
        finally:
            if self._options.keep == "best":
                self._model.load_state_dict(self._best.model)
        outputs.close()
        return History(self._records, ending, self._best.step, self._best.loss)

    def _loop(self, outputs: Outputs, interruption: Interruption, deadline: float) -> Ending:
        saved = self._step
        self._bar.show(self._records[-1])
        while (ending := self._ending(interruption, deadline)) is None:
            began = time.perf_counter()
            with training_mode(self._optimizer):
                spent = self._iterate(self._step + 1)
            self._step += 1
            self._rates.advance(self._observe(spent, time.perf_counter() - began))
            outputs.record(self._records)
            self._bar.show(self._records[-1])
            stop = self._called_back()
            if stop or self._step % self._options.checkpoint_every == 0:
                outputs.save(self._state)
                saved = self._step
            if stop:
                ending = Ending.CALLBACK
                break
        if saved != self._step:
            outputs.save(self._state)
        return ending

    def _iterate(self, step: int) -> Spent:
        try:
            return self._iteration(step)
        except FloatingPointError as error:  # a gradient or a step, where the loss itself is finite
            raise NonFiniteLoss(f"iteration {step}: {error}") from error

    def _ending(self, interruption: Interruption, deadline: float) -> Ending | None:
        options, record = self._options, self._records[-1]
        for goal, name in (
            (options.target_loss, "loss"),
            (options.target_held_out, "held_out_loss"),
        ):
            if goal is not None and record[name] is not None and record[name] <= goal:
                return Ending.TARGET
        if self._step >= options.steps:
            return Ending.STEPS
        if interruption.requested:
            return Ending.INTERRUPTED
        return Ending.TIME_LIMIT if time.monotonic() >= deadline else None

    def _called_back(self) -> bool:
        if self._options.callback is not None:
            try:
                self._options.callback(self._records[-1])
            except StopIteration:
                return True
        return False

    def _observe(self, spent: Spent | None, seconds: float) -> float:
        """Measure the losses, write the record, keep the parameters if they are the best; the loss to judge by."""
        began = time.perf_counter()
        loss, error = self._measure(self._problem.task.samples)
        if spent is None and not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the training loss is {loss} before the first iteration: begin from other parameters, "
                "or scale the data"
            )
        held_out = self._problem.held_out
        held_out_loss, held_out_error = (
            (None, None) if held_out is None else self._measure(held_out)
        )
        judged = loss if held_out_loss is None else held_out_loss
        if judged < self._best.loss:
            self._best = _Best(self._step, judged, copy.deepcopy(self._model.state_dict()))
        entries: dict[str, Any] = {
            "step": self._step,
            "loss": loss,
            "error": error,
            "held_out_loss": held_out_loss,
            "held_out_error": held_out_error,
            "best_step": self._best.step,
            **self._spectrum(),
        }
        times = {"iteration": seconds, "measure": time.perf_counter() - began}
        self._records.append(plain(entries | self._account(spent, times)))
        return judged

    def _account(self, spent: Spent | None, times: Mapping[str, float]) -> dict[str, Any]:
        totals, count = self._totals, len(self._problem.task.samples)
        entries: dict[str, Any] = {}
        parts: Mapping[str, float] = {}
        if spent is not None:
            totals.cost += spent.cost
            totals.visits += spent.visits
            totals.collectives += spent.collectives
            totals.seconds += times["iteration"]
            parts = spent.seconds
            entries = {
                "gradient_samples": spent.gradient_samples,
                "curvature_samples": spent.curvature_samples,
                **self._rates.record(),
                "optimizer": spent.optimizer,
            }
        return {
            "gradient_equivalents": totals.cost / count,
            "data_passes": totals.visits / count,
            "collectives": totals.collectives,
            **entries,
            "seconds": {"total": totals.seconds, **times, "parts": parts},
        }

    def _spectrum(self) -> dict[str, Any]:
        """Extreme eigenvalues, where they are due."""
        tracker, task = self._options.spectrum, self._problem.task
        if tracker is None or not tracker.due(self._step):
            return {}
        pieces = torch.split(tracker.sample(self._step, len(task.samples)), self._batch)
        with evaluation_mode(self._model):
            record = tracker.measure(self._step, task.evaluate, map(task.take, pieces))
        return {"spectrum": {k: v for k, v in record.as_dict().items() if k != "step"}}

    def _measure(self, samples: Samples) -> tuple[float, float | None]:
        task = self._problem.task
        return measure(
            self._model,
            task.loss,
            samples,
            batch=max(self._batch, 1024),
            device=task.device,
            metric=self._problem.metric,
        )

    def _fingerprint(self) -> dict[str, Any]:
        schedules = (self._options.gradient_schedule, self._options.curvature_schedule)
        return {
            "parameters": [
                [name, list(tensor.shape), str(tensor.dtype)]
                for name, tensor in self._model.named_parameters()
            ],
            "optimizer": type(self._optimizer).__name__,
            "training samples": len(self._problem.task.samples),
            "batch": self._batch,
            "scheduler": self._rates.name,
            "schedules": [type(schedule).__name__ for schedule in schedules],
        }

    def _state(self) -> dict[str, Any]:
        tracker = self._options.spectrum
        return {
            "run": self._fingerprint(),
            "step": self._step,
            "records": self._records,
            "totals": vars(self._totals),
            "best": vars(self._best),
            "scheduler": self._rates.state_dict(),
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "iteration": self._iteration.state_dict(),
            "spectrum": None if tracker is None else tracker.state_dict(),
            "random": random_state(),
        }

    def _restore(self, state: Mapping[str, Any], path: str) -> None:
        for name, mine in self._fingerprint().items():
            if state["run"][name] != mine:
                raise CheckpointError(
                    f"{path}: the checkpoint is of another run, its {name} differ: {_short(state['run'][name])}, here "
                    f"{_short(mine)}; resume with what the run was begun with"
                )
        try:
            self._iteration.load_state_dict(state["iteration"])
            if self._options.spectrum is not None and state.get("spectrum") is not None:
                self._options.spectrum.load_state_dict(state["spectrum"])
        except ValueError as error:
            raise CheckpointError(f"{path}: the checkpoint is of another run: {error}") from None
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._rates.load_state_dict(state["scheduler"])
        self._step = state["step"]
        self._records = list(state["records"])
        self._totals, self._best = _Totals(**state["totals"]), _Best(**state["best"])
        restore_random_state(state["random"])


def _short(value: object) -> str:
    words = str(value)
    return words if len(words) <= 60 else words[:57] + "..."
