"""The quadratic model of a step, ``q(d) = g.d + d.(B + lambda I) d / 2``: made, minimised, and put on record.

What the algorithms of second order share: they differ in what they do with the minimiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krylov.outcome import Outcome
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.objective import Curvature, Objective
from krylov.torch.optim.preconditioning.policies import Preconditioning
from krylov.torch.optim.record import Ledger, StepRecord
from krylov.torch.optim.samples import Samples
from krylov.torch.optim.solvers.directions import Candidate, Directions
from krylov.torch.optim.solvers.factory import SolveModel
from krylov.torch.statistics import GradientStatistics

__all__ = ["LocalModel", "Memory", "Method", "Place"]


@dataclass(frozen=True)
class Method:
    """The choices that stay the same from step to step."""

    curvature: str
    solve: SolveModel
    preconditioning: Preconditioning
    damping: LevenbergMarquardt
    warm_start: float


@dataclass
class Memory:
    """What one step leaves for the next.

    Attributes
    ----------
    damping : float
        lambda.
    direction : Tensor or None
        Result of the last run, where the next one may begin from it.
    steps : int
        Done so far.
    differentiates : bool
        Whether the closure takes derivatives itself; see `Objective`.
    """

    damping: float
    direction: Tensor | None = None
    steps: int = 0
    differentiates: bool = False


@dataclass(frozen=True)
class Place:
    """Where a step begins.

    Attributes
    ----------
    objective : Objective
        The function.
    ledger : Ledger
        Where the work is written down.
    samples : Samples
        Of the data.
    point : Tensor of shape (n,)
        The parameters.
    scale : float, Tensor of shape (n,) or None
        Learning rates, which multiply every step: one for all entries, one each, or None where all are 1.
    """

    objective: Objective
    ledger: Ledger
    samples: Samples
    point: Tensor
    scale: float | Tensor | None

    @property
    def still(self) -> bool:
        """Whether all learning rates are zero: a step moves nothing, and says nothing about the model."""
        return isinstance(self.scale, float) and self.scale == 0

    def scaled(self, direction: Tensor) -> Tensor:
        """The step that learning rates make of a direction."""
        return direction if self.scale is None else direction * self.scale

    def loss_after(self, step: Tensor) -> float:
        """L after a step; NaN where it is not finite: a loss of minus infinity is no progress."""
        loss = self.objective.loss_at(self.point + step, self.samples.evaluation)
        return loss if math.isfinite(loss) else math.nan


class LocalModel:
    """The model at the place where a step begins, and the loss before the step.

    Parameters
    ----------
    place, method, memory
        See there.
    kind : {"ggn", "hessian"}
        B.

    Attributes
    ----------
    before : float
        Loss on the evaluation sample.
    gradient : Tensor of shape (n,)
        g.
    norm : float
        Of g.
    operator : CurvatureOperator
        B.
    statistics : GradientStatistics
        Over the micro-batches of the gradient sample.

    Raises
    ------
    FloatingPointError
        Loss or gradient are not finite.
    """

    def __init__(self, place: Place, method: Method, memory: Memory, kind: Curvature) -> None:
        self.place, self._method, self._memory, self.kind = place, method, memory, kind
        samples = place.samples
        self.statistics = GradientStatistics()
        self.before, self.gradient, self.operator = place.objective.linearise(
            samples.gradient, samples.curvature, kind, self.statistics
        )
        self.norm = float(torch.linalg.vector_norm(self.gradient, dtype=torch.float64))
        _refuse_non_finite(self.before)
        if not math.isfinite(self.norm) and not bool(torch.isfinite(self.gradient).all()):
            raise FloatingPointError(
                "the gradient has entries that are NaN or infinite though the loss is finite (a square root or "
                "logarithm at zero?). The parameters are as they were"
            )
        if samples.evaluation is not samples.gradient:
            self.before = place.objective.loss(samples.evaluation)
            _refuse_non_finite(self.before)

    def solve(self, damping: float) -> Directions:
        """Run the solver with this lambda, from what the last run has left; the preconditioner learns from it.

        Raises
        ------
        FloatingPointError
            A product is not finite, and there is no iterate before it.
        """
        method, ledger, operator = self._method, self.place.ledger, self.operator
        samples, before = self.place.samples.sizes[1], operator.count
        start = None
        if self._memory.direction is not None and method.warm_start > 0:
            start = method.warm_start * self._memory.direction
        with ledger.part("precondition"):
            operator.shift = 0.0
            M = method.preconditioning.prepare(operator, damping)
            if probes := method.preconditioning.probes:
                ledger.spend("probe", samples * probes)
        operator.shift = damping
        with ledger.part("solve"):
            directions = method.solve(operator, self.gradient, start, M)
            if start is not None and _came_to_nothing(directions):
                # From where the start has led the product may overflow.
                directions = method.solve(operator, self.gradient, None, M)
            if _came_to_nothing(directions):
                raise FloatingPointError(self._what_is_not_finite())
        method.preconditioning.learn(directions.iterations, directions.outcome)
        ledger.spend(self.kind, samples, operator.count - before)
        if directions.passes:
            ledger.spend("probe", round(samples * directions.passes))
        return directions

    def _what_is_not_finite(self) -> str:
        name = "Hessian" if self.kind == "hessian" else "Gauss-Newton matrix"
        if bool(torch.isfinite(self.operator @ self.gradient).all()):
            return (
                f"loss, gradient and the {name} are finite, but the run of the solver overflows: compute in float64, "
                "raise damping, or leave out the preconditioner. The parameters are as they were"
            )
        other = ", or take curvature='ggn'" if self.kind == "hessian" else ""
        return (
            f"loss and gradient are finite, but a product with the {name} is not: a second derivative is infinite or "
            "NaN there (a square root, norm or power below 2 at zero?). Keep its argument away from there"
            f"{other}. The parameters are as they were"
        )

    def slope(self, step: Tensor) -> float:
        """``g.step``; not finite where an entry of the step is not."""
        return float(self.gradient.double() @ step.double())

    def value_of(self, iterate: Candidate, step: Tensor) -> float:
        """The model at the step that learning rates make of an iterate.

        With one rate s for all entries ``q(s d) = s g.d + s^2 (q(d) - g.d)``; where groups differ it takes a product.
        """
        scale = self.place.scale
        if scale is None or iterate.iteration == 0:
            return iterate.value
        if isinstance(scale, Tensor):
            return self.value(step, iterate.damping)
        slope = self.slope(iterate.step)
        return scale * (slope + scale * (iterate.value - slope))

    def value(self, step: Tensor, damping: float | None = None) -> float:
        """The model at a step that is no iterate, with this lambda or that of the last run; it takes a product."""
        if damping is not None:
            self.operator.shift = damping
        with self.place.ledger.part("solve"):
            product = self.operator @ step
        self.place.ledger.spend(self.kind, self.place.samples.sizes[1], 1)
        return float(step.double() @ (self.gradient.double() + product.double() / 2))

    def record(
        self,
        *,
        alpha: float,
        after: float,
        damping: float,
        rho: float = math.nan,
        directions: Directions | None = None,
        **more: Any,
    ) -> StepRecord:
        """What has happened up to now."""
        ledger, sizes = self.place.ledger, self.place.samples.sizes
        if directions is not None and directions.shift is not None:
            damping = directions.shift
        entries: dict[str, Any] = {
            "candidate": 0,
            "negative_curvature": directions is not None and directions.negative_curvature,
            "escapes": 0,
            **more,
        }
        return StepRecord(
            step=self._memory.steps,
            accepted=alpha > 0,
            loss_before=self.before,
            loss_after=after,
            gradient_norm=self.norm,
            damping=damping,
            rho=rho,
            alpha=alpha,
            curvature=self.kind,
            outcome=None if directions is None else directions.outcome,
            iterations=0 if directions is None else directions.iterations,
            products=ledger.products,
            evaluations=ledger.counts["loss"],
            gradient_samples=sizes[0],
            curvature_samples=sizes[1],
            evaluation_samples=sizes[2],
            cost=ledger.cost,
            gradient_equivalents=ledger.cost / sizes[0],
            collectives=ledger.collectives,
            bytes=ledger.bytes,
            seconds=ledger.seconds(),
            **entries,
        )


def _came_to_nothing(directions: Directions) -> bool:
    return directions.outcome is Outcome.NON_FINITE and directions.candidates[-1].iteration == 0


def _refuse_non_finite(value: float) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} before the step: a batch or the parameters hold NaN or infinity, or the model "
            "overflows. The parameters are as they were"
        )
