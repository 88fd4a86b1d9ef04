"""Which preconditioner a step gets, and what it learns from step to step."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from krylov.checks import choice, finite_number, integer
from krylov.outcome import Outcome
from krylov.preconditioners import (
    JacobiPreconditioner,
    LBFGSPreconditioner,
    NystromPreconditioner,
    RitzPreconditioner,
)
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.diagonals import EmpiricalFisherDiagonal, GaussNewtonDiagonal
from krylov.torch.optim.preconditioning.kronecker import KroneckerFactors

__all__ = ["PRECONDITIONERS", "Preconditioning", "make_preconditioning"]

State = dict[str, Any]


class Preconditioning(Protocol):
    """A policy: an M for each system of a sequence.

    Attributes
    ----------
    probes : int
        Backward passes that the last M was made with; products count themselves.
    """

    probes: int

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

    probes = 0

    def __init__(self, name: str, options: State, n: int, dtype: torch.dtype) -> None:
        kind = _LEARNERS[name]
        allowed = [k for k in inspect.signature(kind).parameters if k not in _OWN]
        _refuse_unknown(options, allowed)
        self._name = name
        self._M = kind(n, dtype=_numpy(dtype), harvest=True, **options)

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        self._M.shift = damping
        return self._M

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """M has listened to the run itself."""

    def state_dict(self) -> State:
        return {"kind": self._name, "M": self._M.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _refuse_other(state, self.state_dict())
        self._M.load_state_dict(state["M"])

    def __getstate__(self) -> State:
        return {"_name": self._name, "_M": self._M.state_dict()}

    def __setstate__(self, state: State) -> None:
        self._name = state["_name"]
        self._M = _LEARNERS[self._name].from_state_dict(state["_M"])


class _Nystrom:
    """A sketch of m products, while the iterations that it saves are more than its share of these.

    A run without it sets the measure. A sketch is taken when that run was longer than `worth` times m, and serves the
    systems that follow until runs with it have become half as long again as the first one. Every `remeasure` systems,
    or when it saves nothing, the next run does without and sets the measure anew. Where a sketch is impossible, because
    the matrix is not positive semidefinite after all, as many systems do without.
    """

    probes = 0

    def __init__(self, options: State, dtype: torch.dtype, seed: int) -> None:
        _refuse_unknown(options, ("m", "worth", "remeasure"))
        self._m = integer(options.get("m", 32), "m", 1)
        self._worth = finite_number(options.get("worth", 1.5), "worth")
        self._remeasure = integer(options.get("remeasure", 20), "remeasure", 1)
        self._dtype, self._seed = _numpy(dtype), seed
        self._M: NystromPreconditioner | None = None
        self._plain: int | None = None  # iterations of the last run without
        self._first: int | None = None  # iterations of the first run with the present sketch
        self._age = 0
        self._sketches = 0
        self._rest = 0  # systems to do without

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        self._rest = max(0, self._rest - 1)
        if self._M is None and self._plain is not None and self._plain > self._worth * self._m:
            self._sketch(operator)
        if self._M is not None:
            self._M.shift = damping
        return self._M

    def _sketch(self, operator: CurvatureOperator) -> None:
        if self._rest:
            return
        self._sketches += 1
        try:
            self._M = NystromPreconditioner(
                operator.to_scipy(),
                min(self._m, operator.shape[0]),
                seed=(self._seed + self._sketches) % _SEEDS,
                dtype=self._dtype,
            )
        except ValueError:  # not positive semidefinite, or not finite
            self._rest = self._remeasure
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
            "kind": "nystrom",
            "M": None if self._M is None else self._M.state_dict(),
            "plain": self._plain,
            "first": self._first,
            "age": self._age,
            "sketches": self._sketches,
            "rest": self._rest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _refuse_other(state, self.state_dict())
        saved = state["M"]
        runs = [None if state[k] is None else integer(state[k], k, 0) for k in ("plain", "first")]
        counts = [integer(state[k], k, 0) for k in ("age", "sketches", "rest")]
        if saved is not None and runs[0] is None:
            raise ValueError("plain of the state is missing, which a sketch is measured by")
        self._M = None if saved is None else NystromPreconditioner.from_state_dict(saved)
        self._plain, self._first = runs
        self._age, self._sketches, self._rest = counts

    def __getstate__(self) -> State:
        M = None if self._M is None else self._M.state_dict()
        return {**self.__dict__, "_M": M}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        if state["_M"] is not None:
            self._M = NystromPreconditioner.from_state_dict(state["_M"])


class _Jacobi:
    """A diagonal, computed anew for each operator: ``(diagonal + damping)^-power``."""

    def __init__(self, options: State, curvature: str, seed: int) -> None:
        _refuse_unknown(options, ("diagonal", "power", "probes"))
        own = "gauss_newton" if curvature == "ggn" else "fisher"
        self._kind: str = options.get("diagonal", own)
        choice(self._kind, "diagonal", ("fisher", "gauss_newton"))
        if self._kind == "gauss_newton" and curvature != "ggn":
            raise ValueError(
                "diagonal='gauss_newton' needs curvature='ggn': take diagonal='fisher'"
            )
        self._power = finite_number(options.get("power", 0.75), "power")
        self._probes = integer(options.get("probes", 4), "probes", 1)
        self._seed, self._operators = seed, 0
        self._operator: Any = None  # a weak reference to that of the diagonal
        self._diagonal = torch.zeros(0)
        self.probes = 0

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        self.probes = 0
        if self._operator is None or self._operator() is not operator:
            self._operator, self._diagonal = weakref.ref(operator), self._measured(operator)
            self._operators += 1
        largest = float(self._diagonal.max())
        if not 0 < largest < math.inf:
            return None
        # Parameters without curvature, where there is no damping either.
        least = torch.finfo(operator.dtype).eps * largest
        diagonal = torch.clamp(self._diagonal + damping, min=least)
        return JacobiPreconditioner(diagonal.cpu(), self._power)

    def _measured(self, operator: CurvatureOperator) -> Tensor:
        if self._kind == "fisher":
            diagonal = EmpiricalFisherDiagonal.of(operator).diagonal
            return diagonal if operator.penalty is None else diagonal + operator.penalty
        self.probes = self._probes
        seed = self._seed + self._operators
        return GaussNewtonDiagonal(operator, probes=self._probes, seed=seed % _SEEDS).diagonal

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """Nothing is kept from run to run."""

    def state_dict(self) -> State:
        return {"kind": "jacobi", "operators": self._operators}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _refuse_other(state, self.state_dict())
        self._operators = integer(state["operators"], "operators", 0)
        self._operator = None

    def __getstate__(self) -> State:
        return {**self.__dict__, "_operator": None}


class _Kronecker:
    """Factors that follow the samples; see `KroneckerFactors`."""

    def __init__(
        self, options: State, n: int, dtype: torch.dtype, curvature: str, seed: int
    ) -> None:
        _refuse_unknown(options, ("every", "decay", "probes", "storage"))
        if curvature != "ggn":
            raise ValueError(
                "preconditioner='kronecker' approximates the Gauss-Newton matrix: take curvature='ggn'"
            )
        self._factors = KroneckerFactors(n, dtype, **options, seed=seed)
        self.probes = 0

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        self.probes = self._factors.update(operator)
        return self._factors.preconditioner(operator, damping)

    def learn(self, iterations: int, outcome: Outcome) -> None:
        """The run itself teaches nothing."""

    def state_dict(self) -> State:
        return {"kind": "kronecker", **self._factors.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _refuse_other(state, self.state_dict())
        self._factors.load_state_dict(state)


class _None:
    probes = 0

    def prepare(self, operator: CurvatureOperator, damping: float) -> Any:
        return None

    def learn(self, iterations: int, outcome: Outcome) -> None:
        pass

    def state_dict(self) -> State:
        return {"kind": "none"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _refuse_other(state, self.state_dict())


PRECONDITIONERS = ("lbfgs", "ritz", "nystrom", "jacobi", "kronecker")
_LEARNERS: dict[str, type[LBFGSPreconditioner] | type[RitzPreconditioner]] = {
    "lbfgs": LBFGSPreconditioner,
    "ritz": RitzPreconditioner,
}
# Set by the policy, not by the user.
_OWN = frozenset(("self", "n", "A", "dtype", "shift", "harvest", "seed"))
# Below which the seeds of sketches lie.
_SEEDS = 1 << 44


def make_preconditioning(
    name: str | None,
    options: Mapping[str, Any] | None,
    *,
    n: int,
    dtype: torch.dtype,
    curvature: str,
    solver: str,
    seed: int,
) -> Preconditioning:
    """The policy of this name.

    Raises
    ------
    TypeError, ValueError
        The name or an option is unknown, or the preconditioner does not fit the curvature or the solver.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"preconditioner_options must be a mapping of names to values, not {type(options).__name__}"
        )
    given = dict(options or {})
    if name is None:
        if given:
            raise ValueError("preconditioner_options are given, but preconditioner is None")
        return _None()
    choice(name, "preconditioner", PRECONDITIONERS)
    if solver in ("subspace", "dense"):
        raise ValueError(
            f"solver={solver!r} takes no preconditioner: leave it out, or take solver='flexible_cg'"
        )
    if name == "jacobi":
        return _Jacobi(given, curvature, seed)
    if name == "kronecker":
        return _Kronecker(given, n, dtype, curvature, seed)
    if name == "nystrom":
        if curvature != "ggn":
            raise ValueError(
                "preconditioner='nystrom' needs a positive semidefinite matrix: curvature='ggn'"
            )
        return _Nystrom(given, dtype, seed)
    if solver == "bicgstab":
        raise ValueError(
            f"preconditioner={name!r} learns from conjugate gradients only: take solver='flexible_cg' or 'cg'"
        )
    return _Learned(name, given, n, dtype)


def _refuse_unknown(options: Mapping[str, Any], allowed: Iterable[str]) -> None:
    if unknown := set(options) - set(allowed):
        raise TypeError(
            f"unknown preconditioner_options: {', '.join(sorted(map(str, unknown)))}; "
            f"there are {', '.join(allowed)}"
        )


def _refuse_other(state: Mapping[str, Any], own: State) -> None:
    """Raise where a state is not of the kind that `own` is."""
    if state.get("kind") != own["kind"]:
        raise ValueError(
            f"the state has preconditioner {state.get('kind')!r}, this optimizer {own['kind']!r}"
        )
    if missing := own.keys() - state.keys():
        raise ValueError(f"the state of the preconditioner has no {', '.join(sorted(missing))}")


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(str(dtype).removeprefix("torch."))
