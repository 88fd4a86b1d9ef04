"""One step of Newton-CG (Reiz et al. 2022, algorithm 2), with Levenberg-Marquardt damping and a line search at will.

With theta the parameters, L the loss on the evaluation sample, g the gradient, B the curvature, tau the damping and lr
the learning rate:

    d       truncated solution of (B + tau I) d = -g, from eta times the last d; where it begins with a direction of
            negative curvature, -g
    d       = -g unless g.d < 0                                            [1]
    alpha   1, or Armijo's rule along lr d
    theta   += alpha lr d
    tau     follows rho = (L(theta + lr d) - L(theta)) / q(lr d), where it is to be adapted

With a fixed rate and a fixed tau no loss is evaluated beside that of the gradient. Otherwise the loss after the step is
known, and a step to where it is not finite, or with an adapted tau to where it is not smaller, is rejected. With a
rate of zero nothing moves and nothing is judged; the run's result serves the next one all the same.

[1] The paper prints ``g.d > tau`` for the fallback, which mixes up the damping with a bound that has the unit of the
loss: directions that lead uphill by less than tau would be taken. Where groups have rates of their own, what is tested
is the step that these make of d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from krylov.torch.optim.linesearch import LineSearch
from krylov.torch.optim.local_model import LocalModel, Memory, Method, Place
from krylov.torch.optim.objective import Curvature
from krylov.torch.optim.record import StepRecord
from krylov.torch.optim.solvers.directions import Candidate
from krylov.torch.statistics import GradientStatistics

__all__ = ["NewtonMethod", "newton_step"]


@dataclass(frozen=True)
class NewtonMethod(Method):
    """The choices that stay the same from step to step."""

    adapts: bool  # the damping
    line_search: LineSearch | None


@dataclass(frozen=True)
class _Step:
    """A step with its slope ``g.step``, and the iterate that it was made of; None for a gradient step."""

    step: Tensor
    slope: float
    iterate: Candidate | None


def newton_step(
    method: NewtonMethod, memory: Memory, place: Place
) -> tuple[Tensor, StepRecord, GradientStatistics]:
    """The next parameters; `memory` is brought up to date.

    Raises
    ------
    FloatingPointError
        The loss, its gradient or a product is not finite, or the step overflows.
    """
    model = LocalModel(place, method, memory, cast(Curvature, method.curvature))
    damping = memory.damping
    memory.steps += 1
    if not model.norm > 0:
        memory.direction = None
        record = model.record(alpha=0.0, after=model.before, damping=damping)
        return place.point, record, model.statistics
    directions = model.solve(damping)
    found = _downhill(model, directions.candidates[-1])
    rho, alpha, after = math.nan, 1.0, math.nan
    judged = place.samples.evaluation is not place.samples.gradient
    if place.still:
        alpha, after = 0.0, model.before
    elif method.adapts or method.line_search is not None or judged:
        full = place.loss_after(found.step)
        value = math.nan if found.iterate is None else model.value_of(found.iterate, found.step)
        rho = (full - model.before) / value if value < 0 else math.nan
        alpha, after = _length(method, model, found, full)
        if method.adapts and not (alpha and value >= 0):  # else the model is not to blame
            memory.damping = method.damping.following(
                damping, rho, 0.0 if math.isnan(value) else alpha
            )
    step = found.step if alpha == 1 else alpha * found.step
    point = place.point + step if alpha else place.point
    if not math.isfinite(float(torch.linalg.vector_norm(point, dtype=torch.float64))):
        raise FloatingPointError(
            f"the step overflows: it is too long for {point.dtype}. Lower lr, raise damping, or give "
            "line_search=Armijo(). The parameters are as they were"
        )
    goes_on = method.warm_start > 0 and found.iterate is not None and (alpha or place.still)
    memory.direction = directions.candidates[-1].step if goes_on else None
    record = model.record(
        alpha=alpha,
        after=after,
        damping=damping,
        rho=rho,
        directions=directions,
        candidate=0 if found.iterate is None else found.iterate.iteration,
    )
    return point, record, model.statistics


def _downhill(model: LocalModel, last: Candidate) -> _Step:
    """The step of an iterate, or that of -g where there is none that leads downhill."""
    place = model.place
    scale = 1.0 if place.scale is None else place.scale
    if last.iteration > 0:
        step = place.scaled(last.step)
        # Of d itself where that says the same: a rate of zero, as at the start of a warm-up, is no fault of d.
        slope = model.slope(step if isinstance(scale, Tensor) else last.step)
        if -math.inf < slope < 0:
            return _Step(step, slope if isinstance(scale, Tensor) else scale * slope, last)
    step = place.scaled(-model.gradient)
    return _Step(step, model.slope(step), None)


def _length(
    method: NewtonMethod, model: LocalModel, found: _Step, full: float
) -> tuple[float, float]:
    """How far to go along a step, and the loss there; 0 where it is rejected."""
    if method.line_search is not None:
        return method.line_search.search(
            model.before,
            found.slope,
            full,
            lambda alpha: model.place.loss_after(alpha * found.step),
        )
    good = full < model.before if method.adapts else math.isfinite(full)
    return (1.0, full) if good else (0.0, model.before)
