"""Stopping rules: functions of the trace of a run, combinable with ``|``.

A rule is called with a `Trace` after an iteration and returns True (or an `Outcome`) to end the run. Any callable on a
trace will do. Rules come in addition to the tolerance of the solver; give ``rtol=0`` to have the rule alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krylov.checks import finite_number, integer, not_negative, number
from krylov.outcome import Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from krylov import _core

__all__ = ["FixedIterations", "QuadraticProgress", "Residual", "Rule", "TimeLimit", "Trace"]


class Trace:
    """What a run has seen so far; index 0 is the start.

    Attributes
    ----------
    niter : int
        Iterations done.
    residual_norm, quadratic_value : float
        Of the current iterate (the quadratic value of a `bicgstab` that does not track is NaN).
    residual_norms, quadratic_values : ndarray
        Of all iterates; each access makes a copy, so prefer ``residual_norm_at(i)`` in a rule.
    b_norm : float
        Norm of the right-hand side.
    elapsed : float
        Seconds since the run began.
    """

    def __init__(self, run: _core.Run) -> None:
        self._run = run
        self._start = time.perf_counter()

    @property
    def niter(self) -> int:
        return self._run.iterations

    @property
    def residual_norm(self) -> float:
        return self._run.residual_norm_at(self._run.iterations)

    @property
    def quadratic_value(self) -> float:
        return self._run.quadratic_value_at(self._run.iterations)

    def residual_norm_at(self, iteration: int) -> float:
        return self._run.residual_norm_at(iteration)

    def quadratic_value_at(self, iteration: int) -> float:
        return self._run.quadratic_value_at(iteration)

    @property
    def residual_norms(self) -> NDArray[np.float64]:
        return self._run.residual_norms

    @property
    def quadratic_values(self) -> NDArray[np.float64]:
        return self._run.quadratic_values

    @property
    def b_norm(self) -> float:
        return self._run.b_norm

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start


Verdict = bool | Outcome | None


class Rule:
    """Base of the rules below: ``first | second`` ends the run when either does."""

    needs_quadratic = False

    def __call__(self, trace: Trace) -> Verdict:
        raise TypeError(f"{type(self).__name__} defines no __call__(trace)")

    def __or__(self, other: Callable[[Trace], Verdict]) -> Rule:
        return AnyOf((self, other))

    def __ror__(self, other: Callable[[Trace], Verdict]) -> Rule:
        return AnyOf((other, self))


@dataclass(frozen=True)
class AnyOf(Rule):
    """Ends the run when one of its rules does."""

    rules: tuple[Callable[[Trace], Verdict], ...]

    def __post_init__(self) -> None:
        for rule in self.rules:
            if not callable(rule):
                raise TypeError(f"a rule must be callable, not {type(rule).__name__}")

    @property
    def needs_quadratic(self) -> bool:  # type: ignore[override]
        return any(getattr(rule, "needs_quadratic", False) for rule in self.rules)

    def __call__(self, trace: Trace) -> Verdict:
        for rule in self.rules:
            if verdict := rule(trace):
                return verdict
        return None


def flatten(rule: Callable[[Trace], Verdict] | None) -> tuple[Callable[[Trace], Verdict], ...]:
    """The rules that a combination consists of."""
    if rule is None:
        return ()
    if isinstance(rule, AnyOf):
        return tuple(part for each in rule.rules for part in flatten(each))
    return (rule,)


@dataclass(frozen=True)
class Residual(Rule):
    """Convergence at ``|r| < max(atol, rtol |b|)``: replaces the tolerance of the solver, which verifies it."""

    rtol: float = 1e-5
    atol: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if not number(getattr(self, name), name) >= 0:
                raise ValueError(
                    f"{name} must be a number and not negative, got {getattr(self, name)!r}"
                )

    def __call__(self, trace: Trace) -> Verdict:
        return None


@dataclass(frozen=True)
class FixedIterations(Rule):
    """Exactly this many iterations, if the tolerance is not met before."""

    iterations: int

    def __post_init__(self) -> None:
        integer(self.iterations, "iterations", 1)

    def __call__(self, trace: Trace) -> Verdict:
        return trace.niter >= self.iterations


@dataclass(frozen=True)
class TimeLimit(Rule):
    """At most this many seconds; ends with `Outcome.TIME_LIMIT`."""

    seconds: float

    def __post_init__(self) -> None:
        if not number(self.seconds, "seconds") > 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")

    def __call__(self, trace: Trace) -> Verdict:
        return Outcome.TIME_LIMIT if trace.elapsed >= self.seconds else None


@dataclass(frozen=True)
class QuadraticProgress(Rule):
    """Martens' rule (2010, section 4.4): stop when the quadratic model hardly falls any more.

    At iteration i with ``k = max(minimum, fraction * i)``: stop when ``i > k``, ``phi_i < 0`` and
    ``(phi_i - phi_{i-k}) / phi_i < k * epsilon``.
    """

    epsilon: float = 5e-4
    minimum: int = 10
    fraction: float = 0.1
    needs_quadratic = True

    def __post_init__(self) -> None:
        integer(self.minimum, "minimum", 1)
        if not finite_number(self.epsilon, "epsilon") > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon!r}")
        not_negative(self.fraction, "fraction")

    def __call__(self, trace: Trace) -> Verdict:
        i = trace.niter
        k = max(self.minimum, int(self.fraction * i))
        if i <= k:
            return None
        value = trace.quadratic_value_at(i)
        return value < 0 and (value - trace.quadratic_value_at(i - k)) / value < k * self.epsilon
