"""What an inner solve leaves to the globalisation: steps of any length with their model values, without products.

The model is ``m(d) = g.d + ½ d.Hd``. The iterates x_i of conjugate gradients grow along a path, and ``x_j - x_i`` for
i < j is conjugate to x_i. So along the chord ``x_i + t D``, ``D = x_j - x_i``,

    m = m_i + t g.D + ½ t² D.HD,    D.HD = x_j.H x_j - x_i.H x_i,

and a step shortened after a rejection costs no product. Keeping every iterate would be Steihaug's piecewise linear path
itself; a few of them, at doubling iterations, give a path close to it on which the model falls as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["ConjugatePath", "Path", "RayPath", "Step", "steepest"]

# A step counts as one to the boundary from this share of the radius.
_BOUNDARY = 0.99


@dataclass(frozen=True)
class Step:
    """A trial step.

    Attributes
    ----------
    d : ndarray
        The step.
    norm : float
        Its length.
    slope, curvature : float
        g.d and d.Hd.
    at_boundary : bool
        Whether the trust radius holds it back.
    """

    d: Vector
    norm: float
    slope: float
    curvature: float
    at_boundary: bool = False

    @property
    def decrease(self) -> float:
        """By how much the model falls."""
        return -(self.slope + 0.5 * self.curvature)


class Path(Protocol):
    """Steps by their length."""

    def step(self, radius: float) -> Step:
        """The step for this trust radius."""


class ConjugatePath:
    """The path of conjugate gradients through some of its iterates.

    Parameters
    ----------
    gradient : ndarray
        g.
    points : list of (ndarray, float)
        Iterates in order of their iterations, each with its curvature x.Hx; at least one.
    open_ended : bool
        Whether the radius, and not the accuracy, ended the run: the last chord may then be prolonged.
    """

    def __init__(
        self, gradient: Vector, points: list[tuple[Vector, float]], open_ended: bool
    ) -> None:
        self._points = [
            Step(x, float(np.linalg.norm(x)), float(gradient @ x), curvature)
            for x, curvature in points
        ]
        self._open_ended = open_ended

    def step(self, radius: float) -> Step:
        before: Step | None = None
        for point in self._points:
            if point.norm > radius * (1 + 1e-10):
                return self._on_chord(before, point, radius)
            before = point
        last = self._points[-1]
        if not self._open_ended:
            return last
        if last.norm >= _BOUNDARY * radius:
            return Step(last.d, last.norm, last.slope, last.curvature, True)
        return self._on_chord(self._points[-2] if len(self._points) > 1 else None, last, radius)

    def _on_chord(self, start: Step | None, end: Step, radius: float) -> Step:
        """Where the line from start to end meets the radius, or the minimum of the model on it, if that is nearer."""
        x = np.zeros_like(end.d) if start is None else start.d
        slope = 0.0 if start is None else start.slope
        curvature = 0.0 if start is None else start.curvature
        chord = end.d - x
        a, b = float(chord @ chord), float(x @ chord)
        room = max(radius * radius - float(x @ x), 0.0)
        root = math.sqrt(b * b + a * room)
        t = room / (b + root) if b > 0 else (root - b) / a
        along, bend = end.slope - slope, end.curvature - curvature
        lowest = -along / bend if bend > 0 else math.inf
        # Up to `end` the model falls, whatever rounding says of its minimum.
        bounded = t <= max(lowest, 1.0)
        t = t if bounded else max(lowest, 1.0)
        d = x + t * chord
        return Step(
            d, float(np.linalg.norm(d)), slope + t * along, curvature + t * t * bend, bounded
        )


class RayPath:
    """Candidates of which each is followed along its ray: those of Bi-CG-STAB, which lie on no path.

    Parameters
    ----------
    gradient : ndarray
        g.
    points : list of (ndarray, float)
        Descent directions with their curvatures; at least one.
    """

    def __init__(self, gradient: Vector, points: list[tuple[Vector, float]]) -> None:
        self._rays = [
            Step(x, float(np.linalg.norm(x)), float(gradient @ x), curvature)
            for x, curvature in points
        ]

    def step(self, radius: float) -> Step:
        return max((_along(ray, radius) for ray in self._rays), key=lambda step: step.decrease)


def _along(ray: Step, radius: float) -> Step:
    longest = radius / ray.norm
    best = -ray.slope / ray.curvature if ray.curvature > 0 else math.inf
    t = min(longest, best)
    if not math.isfinite(t):
        t = 1.0  # negative curvature and no radius: the line search finds the length
    return Step(t * ray.d, t * ray.norm, t * ray.slope, t * t * ray.curvature, longest <= best)


def steepest(gradient: Vector, norm: float) -> Path:
    """The ray of steepest descent, its curvature unknown and taken for zero."""
    return RayPath(gradient, [(-gradient / norm, 0.0)])
