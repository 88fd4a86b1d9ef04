"""One iteration without its products: a real run whose operator touches a few entries of its memory.

The operator is ``diag(d)`` on the first 64 unknowns and zero beyond, and so are the preconditioner and the right-hand
side: a proper positive semi-definite system for any number of iterations, at half a microsecond a product. That half
microsecond is measured and taken off. What is left is all that an iteration does besides: passes over the vectors,
scalars, the loop in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from krylov import _core
from krylov.bench.timing import best_call, spans
from krylov.drive import drive
from krylov.workspace import Workspace, dtype_code, staggered

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PassCalls", "Peer", "VectorPart", "axpy_bound", "filled", "products", "traffic_of"]

_ACTIVE = 64
_FLOAT = np.dtype(np.float64)
_PASSES = {row["name"]: row["reads"] + row["writes"] for row in _core.passes()}
_PASSES["panel_column"] = 1  # read beside a pass
# Iterations before the steady state.
_SKIP = 2


def products(method: str) -> int:
    """Products with A in an iteration."""
    return 2 if method == "bicgstab" else 1


def traffic_of(launches: dict[str, int]) -> int:
    """Vectors read and written by these launches of passes."""
    return sum(_PASSES[name] * count for name, count in launches.items())


def _zeros(n: int) -> NDArray[np.float64]:
    """Zeros in memory of their own; the pages of np.zeros are all one and the same until they are written to."""
    return np.full(n, 0.0)


def _right_hand_side(n: int) -> NDArray[np.float64]:
    b = _zeros(n)
    b[:_ACTIVE] = np.random.default_rng(7).standard_normal(min(n, _ACTIVE))
    return b


class _Stamped:
    """The operator, with the time at which each product was asked for."""

    def __init__(self, n: int) -> None:
        self.head = min(n, _ACTIVE)
        self.diagonal = np.logspace(-4, 0, self.head)
        self.stamps: list[float] = []

    def multiply(self, source: Any, target: Any) -> Any:
        self.stamps.append(perf_counter())
        return self.apply(source, target)

    def apply(self, source: Any, target: Any) -> Any:
        np.multiply(self.diagonal, source[: self.head], target[: self.head])
        return target

    def seconds(self, vector: Any, other: Any) -> tuple[float, float]:
        """Of a product with and without the stamp."""
        with_stamp = best_call(lambda: self.multiply(vector, other))
        self.stamps.clear()
        return with_stamp, best_call(lambda: self.apply(vector, other))


class VectorPart:
    """Iterations of ours on memory of our own, as any operator meets them that puts its product where it is asked to.

    Parameters
    ----------
    method : {"cg", "flexible_cg", "bicgstab"}
        The solver.
    n : int
        Number of unknowns.
    preconditioned : bool
        Whether a general preconditioner takes part.
    iterations, window : int
        Iterations of a turn, and how many of them make one sample.
    low_rank : LowRank, optional
        A preconditioner fused into the iteration (`cg` and `flexible_cg`).
    """

    def __init__(
        self,
        method: str,
        n: int,
        preconditioned: bool,
        iterations: int,
        window: int,
        low_rank: _core.LowRank | None = None,
    ) -> None:
        self.method, self.n, self.preconditioned = method, n, preconditioned
        self._low_rank = low_rank
        self.iterations, self.window = iterations, window
        self.memory = Workspace(method, n, _FLOAT).vectors
        for vector in self.memory.values():
            vector[:] = 0.0
        self.memory["b"], self.memory["x"] = _right_hand_side(n), np.ones(n)
        self._operator = _Stamped(n)
        stamped, plain = self._operator.seconds(self.memory["r"], self.memory["v"])
        self.operator_seconds = products(method) * (stamped + preconditioned * plain)
        few, more = self._launches(4), self._launches(8)
        steady = {name: more[name] - few.get(name, 0) for name in more}
        # Once per iteration; what happens now and then (keeping the best iterate) is no part of the minimum.
        self.passes = {name: count // 4 for name, count in steady.items() if count >= 4}

    @property
    def traffic(self) -> int:
        """Vectors read and written by an iteration."""
        return traffic_of(self.passes)

    @property
    def _columns(self) -> int:
        return 0 if self._low_rank is None else self._low_rank.count

    @property
    def held(self) -> int:
        """Vectors that an iteration touches."""
        count = {"cg": 4, "flexible_cg": 4, "bicgstab": 6}[self.method]
        return count + self.preconditioned * products(self.method) + self._columns

    def turn(self) -> list[float]:
        """Seconds of one iteration, from several windows."""
        self._run(self.iterations)
        stamps = self._operator.stamps[:: products(self.method)]
        return [t - self.operator_seconds for t in spans(stamps, self.window, _SKIP)]

    def _launches(self, iterations: int) -> dict[str, int]:
        launches: dict[str, int] = self._run(iterations).launches()
        return launches

    def _run(self, iterations: int) -> _core.Run:
        self._operator.stamps.clear()
        self.memory["x"][:] = 0.0
        run = _core.Run(
            self.method,
            self.n,
            dtype_code(_FLOAT),
            rtol=0.0,
            atol=0.0,
            maxiter=iterations,
            preconditioned=self.preconditioned,
            verify=False,
            low_rank=self._low_rank,
        )
        for slot, name in enumerate(run.slots):
            if name in self.memory:
                run.set_vector(slot, self.memory[name])
        operator = self._operator
        drive(run, operator.multiply, operator.apply if self.preconditioned else None, None)
        if run.iterations != iterations:
            raise RuntimeError(
                f"{self.method} ended after {run.iterations} iterations: {run.status}"
            )
        return run


class PassCalls:
    """A pass called again and again, on one group of vectors after the other.

    Parameters
    ----------
    table, name : str
        Kernel table and pass.
    groups : list of lists of arrays
        What the calls work on, in turn.
    coefs : list of float
        Coefficients of the pass.
    calls, window : int
        Calls of a turn, and how many of them make one sample.
    """

    def __init__(
        self,
        table: str,
        name: str,
        groups: list[list[NDArray[Any]]],
        coefs: list[float],
        calls: int,
        window: int,
    ) -> None:
        self._what, self._coefs = (table, name), coefs
        self._groups = [groups[k % len(groups)] for k in range(calls)]
        self._window = window
        # Entering and leaving C++, which an iteration does once where this does it with every call.
        tiny = [np.ones(16) for _ in groups[0]]
        self._entry_seconds = best_call(lambda: _core.run_pass(*self._what, tiny, coefs))

    def turn(self) -> list[float]:
        """Seconds of one call, from several windows."""
        what, coefs = self._what, self._coefs
        stamps = [perf_counter()]
        for group in self._groups:
            _core.run_pass(*what, group, coefs)
            stamps.append(perf_counter())
        return [t - self._entry_seconds for t in spans(stamps, self._window)]


def filled(count: int, n: int) -> list[NDArray[Any]]:
    """Vectors as a workspace has them, with memory behind every page."""
    vectors = staggered(count, n, _FLOAT)
    for vector in vectors:
        vector[:] = 1.0
    return vectors


def axpy_bound(n: int, held: int, calls: int, window: int) -> PassCalls:
    """``y += a x`` over as many vectors as a method holds, pair after pair: plain streams, same level of caches."""
    v = filled(held, n)
    pairs = [[v[2 * k % held], v[(2 * k + 1) % held]] for k in range(held)]
    return PassCalls("auto", "axpy", pairs, [1e-9], calls, window)


class Peer:
    """The same iterations through a solver with SciPy's signature and one LinearOperator.

    The operator returns memory that it keeps (two vectors in turn for Bi-CG-STAB, whose v outlives the next product).

    Parameters
    ----------
    solver : callable
        ``solver(A, b, rtol=..., atol=..., maxiter=...)``
    method : {"cg", "bicgstab"}
        What it computes.
    n : int
        Number of unknowns.
    iterations, window : int
        Iterations of a turn, and how many of them make one sample.
    """

    def __init__(
        self, solver: Callable[..., Any], method: str, n: int, iterations: int, window: int
    ) -> None:
        self._solver, self._method = solver, method
        self._iterations, self._window = iterations, window
        self._b = _right_hand_side(n)
        self._stamped = _Stamped(n)
        targets = cycle([_zeros(n) for _ in range(products(method))])

        def multiply(source: Any) -> Any:
            return self._stamped.multiply(source, next(targets))

        self._a = LinearOperator((n, n), matvec=multiply, dtype=_FLOAT)
        self.operator_seconds = products(method) * best_call(lambda: multiply(self._b))

    def turn(self) -> list[float]:
        """Seconds of one iteration, from several windows, with the half microsecond of each product."""
        self._stamped.stamps.clear()
        self._solver(self._a, self._b, rtol=0.0, atol=0.0, maxiter=self._iterations)
        return spans(self._stamped.stamps[:: products(self._method)], self._window, _SKIP)
