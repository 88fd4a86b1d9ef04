"""The objective as the outer loop sees it: counted, and infinite where it is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["Iterate", "Objective"]


@dataclass(frozen=True)
class Iterate:
    """A point with its value and gradient, all finite."""

    x: Vector
    value: float
    gradient: Vector
    norm: float


class Objective:
    """Value and gradient, with SciPy's `args`, counted in `nfev` and `njev`.

    The functions get a copy of x each time, which they may keep or change.
    """

    def __init__(self, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...]) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be callable, not {type(fun).__name__}")
        if jac is True:
            fun, jac = _split(fun)
        if not callable(jac):
            raise ValueError(
                "newton_krylov needs the gradient: give jac=, a function that returns it, or jac=True for a fun that "
                "returns (value, gradient). By differences: jac=lambda x, *args: "
                "scipy.optimize.approx_fprime(x, fun, 1.5e-8, *args), which costs n evaluations each"
            )
        self._fun, self._jac, self._args = fun, jac, args
        self.nfev = self.njev = 0

    def value(self, x: Vector) -> float:
        """The objective; infinite where it is NaN, so that the step is taken back."""
        self.nfev += 1
        value = self._fun(x.copy(), *self._args)
        try:
            number = float(np.asarray(value).item())
        except (TypeError, ValueError):
            raise ValueError(
                f"fun must return a real scalar, got {type(value).__name__} of shape {np.shape(value)}"
            ) from None
        return math.inf if math.isnan(number) else number

    def gradient(self, x: Vector) -> Vector:
        """The gradient, finite or not."""
        self.njev += 1
        raw = self._jac(x.copy(), *self._args)
        if np.iscomplexobj(raw):
            raise TypeError("jac must return real numbers, got complex ones")
        gradient = np.array(raw, dtype=np.float64).reshape(-1)  # a copy: fun may reuse its memory
        if gradient.shape != x.shape:
            raise ValueError(
                f"jac must return {x.size} numbers, as x0 has, but its shape is {np.shape(raw)}"
            )
        return gradient

    def iterate(self, x: Vector, value: float) -> Iterate | None:
        """The point with its gradient, or None where one of them is not finite."""
        if not math.isfinite(value):
            return None
        gradient = self.gradient(x)
        norm = _norm(gradient)
        return Iterate(x, value, gradient, norm) if math.isfinite(norm) else None

    def start(self, x: Vector) -> Iterate:
        """The first iterate.

        Raises
        ------
        ValueError
            Value or gradient is not finite there.
        """
        value = self.value(x)
        if not math.isfinite(value):
            raise ValueError("fun(x0) is not finite: start inside the domain of the objective")
        found = self.iterate(x, value)
        if found is None:
            raise ValueError("jac(x0) is not finite: start where the objective is differentiable")
        return found


def _norm(v: Vector) -> float:
    """Euclidean norm; squares of tiny or huge entries would leave the range of float64."""
    largest = float(np.abs(v).max())
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(v / largest))


def _split(fun: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Value and gradient of a function that returns both, which is called once a point.

    `scipy.optimize.minimize` does this itself; here for direct calls with ``jac=True``.
    """
    latest: list[Any] = [None, None, None]

    def both(x: Vector, *args: Any) -> list[Any]:
        if latest[0] is None or not np.array_equal(latest[0], x):
            key = x.copy()
            latest[1], latest[2] = fun(x, *args)
            latest[0] = key
        return latest

    return (lambda x, *args: both(x, *args)[1]), (lambda x, *args: both(x, *args)[2])
