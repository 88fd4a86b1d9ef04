"""The way out of a saddle: along negative curvature that a seeded random vector finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from krylov.ritz_probe import lowest_ritz
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.solvers.saddle_free import ROUNDING

__all__ = ["Escape"]

# Products of a search.
_STEPS = 20
_HALVINGS, _DOUBLINGS = 20, 20


class Escape:
    """Searches with Lanczos' method and follows the Ritz vector of the most negative Ritz value.

    Parameters
    ----------
    seed : int
        Of the random vectors; each search has its own.

    Notes
    -----
    The papers expect Bi-CG-STAB to leave saddles. Its iterates stay in the Krylov space of the gradient, which at
    ``f = x^2 / 2 + y^4 / 4 - y^2 / 2`` and (1, 0) never contains the way down.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def search(
        self,
        operator: CurvatureOperator,
        gradient: Tensor,
        before: float,
        point: Tensor,
        loss_along: Callable[[Tensor], float],
        step: int,
        movable: Tensor | None = None,
    ) -> tuple[Tensor, float] | None:
        """A lower point and the loss there; None where the curvature is not negative or leads to none.

        Entries that are not `movable` stay as they are.
        """
        rng = np.random.default_rng((self._seed, step))
        matrix = operator.to_scipy()
        start = rng.standard_normal(operator.shape[0]).astype(matrix.dtype)
        lowest = lowest_ritz(matrix, start, min(_STEPS, operator.shape[0]))
        if lowest is None or not lowest.value < -ROUNDING[operator.dtype] * lowest.scale:
            return None
        direction = torch.from_numpy(lowest.vector.astype(matrix.dtype)).to(gradient)
        if movable is not None:
            direction *= movable
        if float(direction.double() @ gradient.double()) > 0:
            direction = -direction
        reach = max(1.0, float(torch.linalg.vector_norm(point, dtype=torch.float64)))
        for sign in (1.0, -1.0):
            found = _follow(sign * direction, before, -lowest.value, 0.1 * reach, loss_along)
            if found is not None:
                return point + found[0], found[1]
        return None


def _follow(
    direction: Tensor,
    before: float,
    curvature: float,
    length: float,
    loss_along: Callable[[Tensor], float],
) -> tuple[Tensor, float] | None:
    """A step with a tenth of the decrease that the curvature promises, made longer while that pays."""
    for _ in range(_HALVINGS):
        loss = loss_along(length * direction)
        if loss <= before - 0.05 * curvature * length * length and math.isfinite(loss):
            break
        length /= 2
    else:
        return None
    if not loss < before:
        return None
    for _ in range(_DOUBLINGS):
        further = loss_along(2 * length * direction)
        if not further < loss:
            break
        length, loss = 2 * length, further
    return length * direction, loss
