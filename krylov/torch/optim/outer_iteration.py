"""One outer iteration of Hessian-free optimization.

Martens (2010); Sainath et al. (2013), algorithm 1; He et al. (2016), algorithm 2. With theta the parameters, L the loss
on the evaluation sample, g the gradient, B the curvature and lambda the damping:

    d_1 ... d_N   iterates of the solver on (B + lambda I) d = -g, from eta times the last d_N
    d             the iterate with the smallest L(theta + d), from d_N backwards
    rho         = (L(theta + d) - L(theta)) / q(d_N)      [1]
    lambda        times 2 for rho < 1/4, times 1/2 for rho > 3/4 [3]
    alpha         Armijo's rule along d, or another line search [4]
    theta         += alpha d

A step with L(theta + d) >= L(theta) is rejected: lambda times 2, the next run starts from zero, and with `retries` it
starts at once [2]. Where all learning rates are zero nothing is tried, and lambda stays.

[1] The sign printed by Sainath et al. is wrong: both differences are negative for a good step.
[2] The paper goes on to the next gradient. The graph of this one is still there: trying again costs products only.
[3] The papers have 3/2 and 2/3. A warm start may be so far off that q(d_N) >= 0 after a short run: lambda then stays.
[4] One that `rescues` is asked before a step is rejected: a good direction may only be too long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from krylov.torch.optim.linesearch import LineSearch, backtrack
from krylov.torch.optim.local_model import LocalModel, Memory, Method, Place
from krylov.torch.optim.objective import Curvature
from krylov.torch.optim.record import StepRecord
from krylov.torch.optim.saddle import Escape
from krylov.torch.optim.solvers.directions import Directions
from krylov.torch.statistics import GradientStatistics

__all__ = ["HessianFreeMemory", "HessianFreeMethod", "outer_iteration"]

# A gradient this much smaller than the largest one so far is taken for a stationary point's.
_CALM = 1e-4
# Steps between two searches for negative curvature that found none.
_PATIENCE = 10


@dataclass(frozen=True)
class HessianFreeMethod(Method):
    """The choices that stay the same from step to step."""

    line_search: LineSearch
    escape: Escape | None
    retries: int


@dataclass
class HessianFreeMemory(Memory):
    """What one step leaves for the next.

    Attributes
    ----------
    met_negative : bool
        Whether a run of the last step met negative curvature.
    largest_gradient : float
        Norm.
    searched : int
        Step of the last search for negative curvature.
    rejected : bool
        Whether the last step was.
    """

    met_negative: bool = False
    largest_gradient: float = 0.0
    searched: int = -_PATIENCE
    rejected: bool = False


@dataclass(frozen=True)
class _Trial:
    """What came of one run of the solver."""

    directions: Directions
    damping: float
    candidate: int
    step: Tensor
    rho: float
    alpha: float  # 0: rejected
    after: float
    negative_curvature: bool  # in this run or one before it in the same step


def outer_iteration(
    method: HessianFreeMethod, memory: HessianFreeMemory, place: Place
) -> tuple[Tensor, StepRecord, GradientStatistics]:
    """The next parameters; `memory` is brought up to date."""
    kind: Curvature = (
        "ggn"
        if method.curvature == "ggn" or (method.curvature == "hybrid" and memory.met_negative)
        else "hessian"
    )
    model = LocalModel(place, method, memory, kind)
    before = model.before
    memory.largest_gradient = max(memory.largest_gradient, model.norm)
    memory.steps += 1
    found = _escape(method, memory, model)
    if found is not None:
        memory.direction, memory.met_negative, memory.rejected = None, False, False
        record = model.record(alpha=1.0, after=found[1], damping=memory.damping, escapes=1)
        return found[0], record, model.statistics
    if not model.norm > 0:
        memory.direction, memory.met_negative, memory.rejected = None, False, True
        record = model.record(alpha=0.0, after=before, damping=memory.damping)
        return place.point, record, model.statistics
    if place.still:
        directions = model.solve(memory.damping)
        memory.direction = _resumable(directions)
        memory.met_negative = directions.negative_curvature
        record = model.record(
            alpha=0.0, after=before, damping=memory.damping, directions=directions
        )
        return place.point, record, model.statistics
    trial = _solve(method, memory, model)
    memory.met_negative = trial.negative_curvature
    alpha = trial.alpha
    memory.rejected = not alpha  # no length was good enough
    last = trial.directions.candidates[-1]
    if alpha and last.value >= 0:  # [3]
        memory.damping = trial.damping
    else:
        length = 0.0 if math.isnan(last.value) else alpha  # the model knows nothing of such a step
        memory.damping = method.damping.following(trial.damping, trial.rho, length)
    memory.direction = _resumable(trial.directions) if alpha else None
    point = place.point + alpha * trial.step if alpha else place.point
    return point, _record(model, trial), model.statistics


def _solve(method: HessianFreeMethod, memory: HessianFreeMemory, model: LocalModel) -> _Trial:
    """Run the solver with more and more damping until the loss decreases, or patience ends; then the line search."""
    place, before = model.place, model.before
    negative = False
    for attempt in range(method.retries + 1):
        damping = memory.damping
        directions = model.solve(damping)
        negative = negative or directions.negative_curvature
        steps = [place.scaled(c.step) for c in directions.candidates]
        chosen, loss = backtrack(steps, place.loss_after)
        last = directions.candidates[-1]
        value = model.value_of(last, steps[-1])
        rho = (loss - before) / value if value < 0 else math.nan
        iteration, step = directions.candidates[chosen].iteration, steps[chosen]
        alpha, after = 0.0, before
        if loss < before or method.line_search.rescues:
            alpha, after = method.line_search.search(
                before, model.slope(step), loss, _along(place, step)
            )
        trial = _Trial(directions, damping, iteration, step, rho, alpha, after, negative)
        if loss < before or alpha or attempt == method.retries:
            break
        memory.direction = None
        memory.damping = method.damping.after(damping, math.nan)
    return trial


def _resumable(directions: Directions) -> Tensor | None:
    """What the next run may begin from."""
    last = directions.candidates[-1]
    return last.step if last.iteration > 0 else None


def _along(place: Place, step: Tensor) -> Callable[[float], float]:
    return lambda alpha: place.loss_after(alpha * step)


def _escape(
    method: HessianFreeMethod, memory: HessianFreeMemory, model: LocalModel
) -> tuple[Tensor, float] | None:
    """A lower point along negative curvature, where the gradient says nothing."""
    place, operator = model.place, model.operator
    stuck = memory.rejected or model.norm <= _CALM * memory.largest_gradient
    if method.escape is None or place.still or not stuck:
        return None
    if memory.steps < memory.searched + _PATIENCE:
        return None
    memory.searched = memory.steps
    curvature = place.samples.curvature
    if model.kind != "hessian":
        _, _, operator = place.objective.linearise(curvature, curvature, "hessian")
    operator.shift = 0.0
    before = operator.count
    movable = place.scale != 0 if isinstance(place.scale, Tensor) else None
    with place.ledger.part("escape"):
        found = method.escape.search(
            operator,
            model.gradient,
            model.before,
            place.point,
            place.loss_after,
            memory.steps,
            movable,
        )
    place.ledger.spend("hessian", place.samples.sizes[1], operator.count - before)
    return found


def _record(model: LocalModel, trial: _Trial) -> StepRecord:
    return model.record(
        alpha=trial.alpha,
        after=trial.after,
        damping=trial.damping,
        rho=trial.rho,
        directions=trial.directions,
        candidate=trial.candidate,
        negative_curvature=trial.negative_curvature,
    )
