"""One outer iteration of Hessian-free optimization.

Martens (2010); Sainath et al. (2013), algorithm 1; He et al. (2016), algorithm 2. With theta the parameters, L the loss
on the evaluation sample, g the gradient, B the curvature and lambda the damping:

    d_1 ... d_N   iterates of the solver on (B + lambda I) d = -g, from eta times the last d_N
    d             the iterate with the smallest L(theta + d), from d_N backwards
    rho         = (L(theta + d) - L(theta)) / q(d_N)      [1]
    lambda        times 2 for rho < 1/4, times 1/2 for rho > 3/4 [3]
    alpha         Armijo's rule along d
    theta         += alpha d

A step with L(theta + d) >= L(theta) is rejected: lambda times 2, the next run starts from zero, and with `retries` it
starts at once [2].

[1] The sign printed by Sainath et al. is wrong: both differences are negative for a good step.
[2] The paper goes on to the next gradient. The graph of this one is still there: trying again costs products only.
[3] The papers have 3/2 and 2/3. A warm start may be so far off that q(d_N) >= 0 after a short run: lambda then stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.directions import Directions
from krylov.torch.optim.linesearch import Armijo, backtrack
from krylov.torch.optim.model_solvers import SolveModel
from krylov.torch.optim.objective import Curvature, Objective
from krylov.torch.optim.preconditioning import Preconditioning
from krylov.torch.optim.record import Ledger, StepRecord
from krylov.torch.optim.saddle import Escape
from krylov.torch.statistics import GradientStatistics

__all__ = ["Memory", "Method", "Samples", "outer_iteration"]

# A gradient this much smaller than the largest one so far is taken for a stationary point's.
_CALM = 1e-4
# Steps between two searches for negative curvature that found none.
_PATIENCE = 10


@dataclass(frozen=True)
class Method:
    """The choices that stay the same from step to step."""

    curvature: str
    solve: SolveModel
    preconditioning: Preconditioning
    damping: LevenbergMarquardt
    armijo: Armijo
    escape: Escape | None
    warm_start: float
    retries: int


@dataclass
class Memory:
    """What one step leaves for the next.

    Attributes
    ----------
    damping : float
        lambda.
    direction : Tensor or None
        d_N of the last run.
    met_negative : bool
        Whether a run of the last step met negative curvature.
    largest_gradient : float
        Norm.
    steps : int
        Done so far.
    searched : int
        Step of the last search for negative curvature.
    rejected : bool
        Whether the last step was.
    """

    damping: float
    direction: Tensor | None = None
    met_negative: bool = False
    largest_gradient: float = 0.0
    steps: int = 0
    searched: int = -_PATIENCE
    rejected: bool = False


@dataclass(frozen=True)
class Samples:
    """Micro-batches for the gradient, the curvature and the comparison of losses, and how many samples they hold."""

    gradient: Sequence[Any]
    curvature: Sequence[Any]
    evaluation: Sequence[Any]
    sizes: tuple[int, int, int]


@dataclass(frozen=True)
class _Trial:
    """What came of one run of the solver."""

    directions: Directions
    damping: float
    candidate: int
    step: Tensor
    rho: float
    loss: float
    negative_curvature: bool  # in this run or one before it in the same step


def outer_iteration(
    method: Method,
    memory: Memory,
    objective: Objective,
    ledger: Ledger,
    samples: Samples,
    point: Tensor,
    scale: Tensor | None,
) -> tuple[Tensor, StepRecord, GradientStatistics]:
    """The next parameters; `memory` is brought up to date.

    Parameters
    ----------
    scale : Tensor of shape (n,) or None
        Learning rates, which multiply every step; None where all are 1.
    """
    kind: Curvature = (
        "ggn"
        if method.curvature == "ggn" or (method.curvature == "hybrid" and memory.met_negative)
        else "hessian"
    )
    statistics = GradientStatistics()
    value, gradient, operator = objective.linearise(
        samples.gradient, samples.curvature, kind, statistics
    )
    _refuse_non_finite(value, gradient)
    before = value
    if samples.evaluation is not samples.gradient:
        before = objective.loss(samples.evaluation)
        _refuse_non_finite(before)
    norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    memory.largest_gradient = max(memory.largest_gradient, norm)
    memory.steps += 1
    iteration = _Iteration(method, memory, objective, ledger, samples, point, scale, before)
    found = iteration.escape(operator, gradient, norm, kind)
    if found is not None:
        memory.direction, memory.met_negative, memory.rejected = None, False, False
        return found[0], iteration.record(kind, norm, None, 1.0, found[1], escapes=1), statistics
    trial = iteration.solve(operator, gradient, kind) if norm > 0 else None
    memory.met_negative = trial is not None and trial.negative_curvature
    if trial is None or not trial.loss < before:
        memory.direction, memory.rejected = None, True
        return point, iteration.record(kind, norm, trial, 0.0, before), statistics
    slope = float(gradient.double() @ trial.step.double())
    alpha, after = method.armijo.search(
        before, slope, trial.loss, lambda a: iteration.loss_along(a * trial.step)
    )
    memory.rejected = not alpha  # no length was good enough
    last = trial.directions.candidates[-1]
    if alpha and last.value >= 0:  # [3]
        memory.damping = trial.damping
    else:
        memory.damping = method.damping.after(trial.damping, trial.rho if alpha else math.nan)
    memory.direction = last.step if alpha and last.iteration > 0 else None
    record = iteration.record(kind, norm, trial, alpha, after)
    return (point + alpha * trial.step if alpha else point), record, statistics


@dataclass(frozen=True)
class _Iteration:
    """The parts of an outer iteration that share its samples and its starting point."""

    method: Method
    memory: Memory
    objective: Objective
    ledger: Ledger
    samples: Samples
    point: Tensor
    scale: Tensor | None
    before: float

    def loss_along(self, step: Tensor) -> float:
        """L after a step; NaN where it is not finite: a loss of minus infinity is no progress."""
        loss = self.objective.loss_at(self.point + step, self.samples.evaluation)
        return loss if math.isfinite(loss) else math.nan

    def solve(self, operator: CurvatureOperator, gradient: Tensor, kind: Curvature) -> _Trial:
        """Run the solver with more and more damping until the loss decreases, or patience ends."""
        method, memory = self.method, self.memory
        negative = False
        for attempt in range(method.retries + 1):
            damping = memory.damping
            directions = self._run(operator, gradient, kind, damping)
            negative = negative or directions.negative_curvature
            candidates = [self._scaled(c.step) for c in directions.candidates]
            chosen, loss = backtrack(candidates, self.loss_along)
            best, last = directions.candidates[chosen], directions.candidates[-1]
            value = last.value
            if self.scale is not None and last.iteration > 0:
                shift = damping if last.damping is None else last.damping
                value = self._model(operator, gradient, kind, candidates[-1], shift)
            rho = (loss - self.before) / value if value < 0 else math.nan
            step = candidates[chosen]
            trial = _Trial(directions, damping, best.iteration, step, rho, loss, negative)
            if loss < self.before or attempt == method.retries:
                break
            memory.direction = None
            memory.damping = method.damping.after(damping, math.nan)
        if not trial.loss < self.before:
            memory.damping = method.damping.after(trial.damping, math.nan)
        return trial

    def _run(
        self, operator: CurvatureOperator, gradient: Tensor, kind: Curvature, damping: float
    ) -> Directions:
        method, before = self.method, operator.count
        start = None
        if self.memory.direction is not None and method.warm_start > 0:
            start = method.warm_start * self.memory.direction
        with self.ledger.part("precondition"):
            operator.shift = 0.0
            M = method.preconditioning.prepare(operator, damping)
            if probes := method.preconditioning.probes:
                self.ledger.spend("probe", self.samples.sizes[1] * probes)
        operator.shift = damping
        with self.ledger.part("solve"):
            directions = method.solve(operator, gradient, start, M)
        method.preconditioning.learn(directions.iterations, directions.outcome)
        self.ledger.spend(kind, self.samples.sizes[1], operator.count - before)
        return directions

    def _scaled(self, step: Tensor) -> Tensor:
        return step if self.scale is None else step * self.scale

    def _model(
        self,
        operator: CurvatureOperator,
        gradient: Tensor,
        kind: Curvature,
        step: Tensor,
        damping: float,
    ) -> float:
        """The value of the model at a step that learning rates have scaled: the solver knows that of its iterates."""
        operator.shift = damping
        with self.ledger.part("solve"):
            product = operator @ step
        self.ledger.spend(kind, self.samples.sizes[1], 1)
        return float(step.double() @ (gradient.double() + product.double() / 2))

    def escape(
        self, operator: CurvatureOperator, gradient: Tensor, norm: float, kind: Curvature
    ) -> tuple[Tensor, float] | None:
        """A lower point along negative curvature, where the gradient says nothing."""
        method, memory = self.method, self.memory
        stuck = memory.rejected or norm <= _CALM * memory.largest_gradient
        if method.escape is None or not stuck or memory.steps < memory.searched + _PATIENCE:
            return None
        memory.searched = memory.steps
        if kind != "hessian":
            _, _, operator = self.objective.linearise(
                self.samples.curvature, self.samples.curvature, "hessian"
            )
        operator.shift = 0.0
        before = operator.count
        movable = None if self.scale is None else self.scale != 0
        with self.ledger.part("escape"):
            found = method.escape.search(
                operator, gradient, self.before, self.point, self.loss_along, memory.steps, movable
            )
        self.ledger.spend("hessian", self.samples.sizes[1], operator.count - before)
        return found

    def record(
        self,
        kind: Curvature,
        norm: float,
        trial: _Trial | None,
        alpha: float,
        after: float,
        escapes: int = 0,
    ) -> StepRecord:
        """What has happened so far."""
        ledger, sizes = self.ledger, self.samples.sizes
        return StepRecord(
            step=self.memory.steps,
            accepted=alpha > 0,
            loss_before=self.before,
            loss_after=after,
            gradient_norm=norm,
            damping=self.memory.damping if trial is None else trial.damping,
            rho=math.nan if trial is None else trial.rho,
            alpha=alpha,
            curvature=kind,
            outcome=None if trial is None else trial.directions.outcome,
            iterations=0 if trial is None else trial.directions.iterations,
            products=ledger.products,
            evaluations=ledger.counts["loss"],
            candidate=0 if trial is None else trial.candidate,
            negative_curvature=trial is not None and trial.negative_curvature,
            escapes=escapes,
            gradient_samples=sizes[0],
            curvature_samples=sizes[1],
            evaluation_samples=sizes[2],
            cost=ledger.cost,
            gradient_equivalents=ledger.cost / sizes[0],
            collectives=ledger.collectives,
            bytes=ledger.bytes,
            seconds=ledger.seconds(),
        )


def _refuse_non_finite(value: float, gradient: Tensor | None = None) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} before the step: a batch or the parameters hold NaN or infinity, or the model "
            "overflows. The parameters are as they were"
        )
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        raise FloatingPointError(
            "the gradient has entries that are NaN or infinite though the loss is finite (a square root or logarithm "
            "at zero?). The parameters are as they were"
        )
