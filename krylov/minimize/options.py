"""Options of `newton_krylov`, checked once, before any evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from krylov.checks import integer, not_negative, number

__all__ = ["Options"]

_SOLVERS = ("cg", "flexible_cg", "bicgstab")
_GLOBALIZATIONS = ("trust", "armijo")
_FORCING = ("eisenstat-walker", "superlinear")


@dataclass(frozen=True)
class Options:
    """Options of `newton_krylov`, which says what they mean.

    Raises
    ------
    TypeError, ValueError
        One of them makes no sense.
    """

    solver: str = "cg"
    globalization: str = "trust"
    gtol: float = 1e-5
    xtol: float = 0.0
    maxiter: int | None = None
    forcing: str | float = "eisenstat-walker"
    inner_maxiter: int | None = None
    initial_trust_radius: float | None = None
    max_trust_radius: float | None = None
    M: Any = None
    saddle_check: int = 10
    seed: int = 0
    check_gradient: bool = True
    check_symmetry: bool = True
    return_all: bool = False
    disp: bool = False

    def __post_init__(self) -> None:
        _choice("solver", self.solver, _SOLVERS)
        _choice("globalization", self.globalization, _GLOBALIZATIONS)
        for name in ("gtol", "xtol"):
            not_negative(getattr(self, name), name)
        for name in ("maxiter", "inner_maxiter"):
            if getattr(self, name) is not None:
                integer(getattr(self, name), name, 0 if name == "maxiter" else 1)
        integer(self.saddle_check, "saddle_check", 0)
        integer(self.seed, "seed", 0)
        if isinstance(self.forcing, str):
            _choice("forcing", self.forcing, _FORCING)
        elif not 0 < number(self.forcing, "forcing") < 1:
            raise ValueError(f"forcing must lie between 0 and 1, got {self.forcing!r}")
        for name in ("initial_trust_radius", "max_trust_radius"):
            value = getattr(self, name)
            if value is not None and not 0 < number(value, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if (
            self.initial_trust_radius is not None
            and self.max_trust_radius is not None
            and self.initial_trust_radius > self.max_trust_radius
        ):
            raise ValueError("initial_trust_radius must not be above max_trust_radius")


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
