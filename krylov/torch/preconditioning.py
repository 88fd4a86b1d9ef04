"""Which preconditioner a step gets, and what it learns from step to step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from krylov.checks import choice
from krylov.outcome import Outcome
from krylov.preconditioners import (
    JacobiPreconditioner,
    LBFGSPreconditioner,
    NystromPreconditioner,
    RitzPreconditioner,
)
from krylov.torch.curvature import CurvatureOperator

__all__ = ["PRECONDITIONERS", "Preconditioning", "make_preconditioning"]

State = dict[str, Any]


class Preconditioning(Protocol):
    """A policy: an M for each system of a sequence."""

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        """M for ``operator + damping I``, or None where none would pay."""

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """The run that M was for took so many iterations."""

    def state_dict(self) -> State:
        """All that later systems depend on: numbers, strings, NumPy arrays."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class _Learned:
    """One M for all systems, which learns from the directions of every run."""

    def __init__(self, kind: type[LBFGSPreconditioner] | type[RitzPreconditioner], options: State):
        self._kind, self._options = kind, {"harvest": True, **options}
        self._M: LBFGSPreconditioner | RitzPreconditioner | None = None
        self._saved: Mapping[str, Any] | None = None

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        if self._M is None:
            self._M = self._kind(operator.shape[0], dtype=_dtype(operator), **self._options)
            if self._saved is not None:
                self._M.load_state_dict(self._saved)
                self._saved = None
        self._M.shift = damping
        return self._M

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """M has listened to the run itself."""

    def state_dict(self) -> State:
        if self._M is not None:
            return {"M": self._M.state_dict()}
        return {"M": self._saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._M, self._saved = None, state["M"]


class _Nystrom:
    """A sketch of m products, while the iterations that it saves are more than its share of these.

    A run without it sets the measure. A sketch is taken when that run was longer than `worth` times m, and serves the
    systems that follow until runs with it have become half as long again as the first one. Every `remeasure` systems,
    or when it saves nothing, the next run does without and sets the measure anew.
    """

    def __init__(self, options: State, seed: int) -> None:
        self._m: int = options.pop("m", 32)
        self._worth: float = options.pop("worth", 1.5)
        self._remeasure: int = options.pop("remeasure", 20)
        if options:
            raise _unknown(options, ("m", "worth", "remeasure"))
        self._seed = seed
        self._M: NystromPreconditioner | None = None
        self._plain: int | None = None  # iterations of the last run without
        self._first: int | None = None  # iterations of the first run with the present sketch
        self._age = 0
        self._sketches = 0

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        if self._M is None and self._plain is not None and self._plain > self._worth * self._m:
            self._sketch(operator)
        if self._M is not None:
            self._M.shift = damping
        return self._M

    def _sketch(self, operator: CurvatureOperator) -> None:
        self._sketches += 1
        self._M = NystromPreconditioner(
            operator.to_scipy(),
            min(self._m, operator.shape[0]),
            seed=self._seed + self._sketches,
            dtype=_dtype(operator),
        )
        self._first, self._age = None, 0

    def learn(self, iterations: int, outcome: Outcome) -> None:
        if self._M is None:
            self._plain = iterations
            return
        self._age += 1
        if self._first is None:
            self._first = iterations
        assert self._plain is not None
        if iterations >= self._plain or self._age >= self._remeasure:
            self._M = self._plain = None
        elif iterations > 1.5 * self._first:
            self._M = None

    def state_dict(self) -> State:
        return {
            "M": None if self._M is None else self._M.state_dict(),
            "plain": self._plain,
            "first": self._first,
            "age": self._age,
            "sketches": self._sketches,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        saved = state["M"]
        self._M = None if saved is None else NystromPreconditioner.from_state_dict(saved)
        self._plain, self._first = state["plain"], state["first"]
        self._age, self._sketches = state["age"], state["sketches"]


class _Jacobi:
    """A diagonal, computed anew for each system: ``(diagonal + damping)^-power``."""

    def __init__(self, options: State, seed: int) -> None:
        self._kind: str = options.pop("diagonal", "gauss_newton")
        self._power: float = options.pop("power", 0.75)
        self._probes: int = options.pop("probes", 4)
        if options:
            raise _unknown(options, ("diagonal", "power", "probes"))
        choice(self._kind, "diagonal", ("fisher", "gauss_newton"))
        self._seed, self._systems = seed, 0

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        from krylov.torch.diagonals import EmpiricalFisherDiagonal, GaussNewtonDiagonal

        self._systems += 1
        if self._kind == "fisher":
            diagonal = EmpiricalFisherDiagonal.of(operator).diagonal
        else:
            diagonal = GaussNewtonDiagonal(
                operator, probes=self._probes, seed=self._seed + self._systems
            ).diagonal
        return JacobiPreconditioner(diagonal, self._power, damping)

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """Nothing is kept from run to run."""

    def state_dict(self) -> State:
        return {"systems": self._systems}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._systems = state["systems"]


class _None:
    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        return None

    def learn(self, iterations: int, outcome: Outcome) -> None:
        pass

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


PRECONDITIONERS = ("lbfgs", "ritz", "nystrom", "jacobi")
_LEARNERS = {"lbfgs": LBFGSPreconditioner, "ritz": RitzPreconditioner}
# Set by the policy, not by the user.
_OWN = frozenset(("self", "n", "A", "dtype", "shift", "harvest", "seed"))


def make_preconditioning(
    name: str | None, options: Mapping[str, Any], curvature: str, seed: int
) -> Preconditioning:
    """The policy of this name.

    Raises
    ------
    TypeError, ValueError
        The name or an option is unknown, or the preconditioner does not fit the curvature.
    """
    given = dict(options)
    if name is None:
        if given:
            raise ValueError("preconditioner_options are given, but preconditioner is None")
        return _None()
    choice(name, "preconditioner", PRECONDITIONERS)
    if name == "jacobi":
        return _Jacobi(given, seed)
    if name == "nystrom":
        if curvature != "ggn":
            raise ValueError(
                "preconditioner='nystrom' needs a positive semidefinite matrix: curvature='ggn'"
            )
        return _Nystrom(given, seed)
    kind = _LEARNERS[name]
    allowed = [k for k in inspect.signature(kind).parameters if k not in _OWN]
    if unknown := set(given) - set(allowed):
        raise _unknown(unknown, allowed)
    kind(2, dtype=np.float64, **{**given, "m": min(given.get("m", 2), 2)})  # refuses bad values now
    return _Learned(kind, given)


def _unknown(names: Iterable[str], allowed: Iterable[str]) -> TypeError:
    return TypeError(
        f"unknown preconditioner_options: {', '.join(sorted(names))}; there are {', '.join(allowed)}"
    )


def _dtype(operator: CurvatureOperator) -> np.dtype[Any]:
    return np.dtype(str(operator.dtype).removeprefix("torch."))
