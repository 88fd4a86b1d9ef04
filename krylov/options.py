"""Keywords of a solve, checked once, before any work."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from krylov.checks import integer, number
from krylov.stopping import Residual, Trace, Verdict, flatten
from krylov.workspace import Workspace

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """Keywords common to the solvers.

    Raises
    ------
    TypeError, ValueError
        One of them makes no sense.
    """

    rtol: float = 1e-5
    atol: float = 0.0
    maxiter: int | None = None
    M: Any = None
    callback: Callable[[Any], Any] | None = None
    curvature: str = "ignore"
    radius: float | None = None
    stop: Callable[[Trace], Verdict] | None = None
    candidates: Literal["all", "geometric"] | Iterable[int] | None = None
    workspace: Workspace | None = None
    check_every: int = 1
    out: Any = None
    max_restarts: int = 0
    scale: float | Literal["auto"] = 1.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if not number(getattr(self, name), name) >= 0:
                raise ValueError(
                    f"{name} must be a number and not negative, got {getattr(self, name)!r}"
                )
        if self.maxiter is not None:
            integer(self.maxiter, "maxiter", 0)
        integer(self.check_every, "check_every", 1)
        integer(self.max_restarts, "max_restarts", 0)
        if self.radius is not None and not 1e-140 <= number(self.radius, "radius") <= 1e140:
            raise ValueError(
                f"radius must be positive, with a square that float64 holds (1e-140 to 1e140), got {self.radius!r}"
            )
        if self.curvature == "boundary" and self.radius is None:
            raise ValueError(
                "curvature='boundary' follows a direction to the trust radius: give radius"
            )
        if self.scale != "auto" and not 0 < abs(number(self.scale, "scale")) < math.inf:
            raise ValueError(f"scale must be finite and not zero, or 'auto', got {self.scale!r}")
        for name in ("callback", "stop"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable, not {type(value).__name__}")
        if self.workspace is not None and not isinstance(self.workspace, Workspace):
            raise TypeError(f"workspace must be a Workspace, not {type(self.workspace).__name__}")
        object.__setattr__(self, "candidates", _candidates(self.candidates))

    @property
    def tolerance(self) -> tuple[float, float]:
        """Relative and absolute tolerance: those of `Residual` rules, where there are any, else the keywords."""
        rules = [rule for rule in flatten(self.stop) if isinstance(rule, Residual)]
        if not rules:
            return float(self.rtol), float(self.atol)
        return max(rule.rtol for rule in rules), max(rule.atol for rule in rules)

    @property
    def watched(self) -> bool:
        """Whether iterates are judged on behalf of the caller."""
        return not (self.callback is None and self.stop is None and self.candidates is None)

    @property
    def track(self) -> bool:
        """Whether Bi-CG-STAB measures the curvature of every iterate."""
        needs_quadratic = getattr(self.stop, "needs_quadratic", False)
        return self.curvature == "track" or self.candidates is not None or needs_quadratic


def _candidates(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value in ("all", "geometric")):
        return value
    message = f"candidates must be 'all', 'geometric' or iterations from 1, got {value!r}"
    if isinstance(value, str):
        raise ValueError(message)
    try:
        iterations = frozenset(operator.index(i) for i in value)
    except TypeError:
        raise TypeError(message) from None
    if any(i < 1 for i in iterations):
        raise ValueError(message)
    return iterations
