"""A cheap check of the gradient against the objective, which names the coordinate where they part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.minimize.objective import Iterate, Objective

    Vector = NDArray[np.float64]

__all__ = ["check_gradient"]

_EPS = float(np.finfo(np.float64).eps)
# Relative difference between slope and gradient that is a mistake, and the share of it that the two one-sided slopes
# may differ by: where they differ more, the objective has a kink or noise, and nothing can be said.
_MISTAKE = 1e-3
_KINK = 0.2
# Longer steps that must show the same mistake.
_LONGER = (8.0, 64.0)


def check_gradient(objective: Objective, at: Iterate, seed: int) -> None:
    """Compare the slope along a random direction with the gradient: two evaluations of the objective.

    Where they differ, and differ as much over longer steps, halving the coordinates again and again (4 evaluations each
    time) finds one that is wrong.

    Raises
    ------
    ValueError
        The gradient is wrong; a coordinate is named, with both numbers.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], at.x.size)
    coordinates = np.arange(at.x.size)
    if not _differs(objective, at, signs, coordinates):
        return
    while coordinates.size > 1:
        first, second = np.array_split(coordinates, 2)
        # The one with the larger error: errors of several coordinates may cancel in their sum.
        if abs(_error(objective, at, signs, first)[0]) >= abs(
            _error(objective, at, signs, second)[0]
        ):
            coordinates = first
        else:
            coordinates = second
    index = int(coordinates[0])
    error, _ = _error(objective, at, np.ones(at.x.size), coordinates)
    slope = float(at.gradient[index]) + error
    raise ValueError(
        f"jac is not the gradient of fun: at coordinate {index} it gives {at.gradient[index]:.6g}, differences of fun "
        f"give {slope:.6g}. Repair jac, or pass check_gradient=False"
    )


def _differs(
    objective: Objective, at: Iterate, signs: Vector, coordinates: NDArray[np.intp]
) -> bool:
    error, spread = _error(objective, at, signs, coordinates)
    if not math.isfinite(error):
        return False  # the domain ends nearby
    slope = float(at.gradient[coordinates] @ signs[coordinates]) / math.sqrt(coordinates.size)
    scale = max(abs(slope), abs(slope + error), at.norm / math.sqrt(at.x.size))
    rounding = 10 * _EPS * abs(at.value) / _step(at)
    if abs(error) <= _MISTAKE * scale + rounding or spread >= _KINK * abs(error):
        return False
    # Noise shrinks with a longer step, truncation grows; a mistake stays.
    others = (_error(objective, at, signs, coordinates, longer)[0] for longer in _LONGER)
    return all(abs(other - error) < _KINK * abs(error) for other in others)


def _error(
    objective: Objective,
    at: Iterate,
    signs: Vector,
    coordinates: NDArray[np.intp],
    longer: float = 1.0,
) -> tuple[float, float]:
    """Central slope along these coordinates less the gradient's, and how far the one-sided slopes lie apart."""
    h = longer * _step(at)
    v = np.zeros(at.x.size)
    v[coordinates] = signs[coordinates] / math.sqrt(coordinates.size)
    ahead, behind = objective.value(at.x + h * v), objective.value(at.x - h * v)
    central = (ahead - behind) / (2 * h)
    return central - float(at.gradient @ v), abs(ahead - 2 * at.value + behind) / h


def _step(at: Iterate) -> float:
    """Where truncation and rounding of a central difference weigh the same."""
    return float(_EPS ** (1 / 3) * max(1.0, float(np.linalg.norm(at.x))))
