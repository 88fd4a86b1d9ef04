"""krylov and SciPy on the same system, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse.linalg as scipy_solvers

import krylov
from krylov.cli.systems import System


@dataclass
class Side:
    """One solver's part in a race."""

    seconds: float = float("inf")  #: the best of its runs
    iterations: int = 0
    residual: float = float("nan")  #: |b - A x| / |b|, computed from x


@dataclass
class Race:
    """Both solvers on one system."""

    system: System
    history: np.ndarray  #: krylov's relative residuals
    outcome: Any
    rounds: int = 0  #: timed runs of each
    scipy: Side = field(default_factory=Side)
    ours: Side = field(default_factory=Side)
    x: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def speed_up(self) -> float:
        """How many times faster than SciPy."""
        return self.scipy.seconds / self.ours.seconds


def solve_ours(system: System, rtol: float, stop: Callable[[Any], bool] | None = None) -> Any:
    """Solve with krylov."""
    options: dict[str, Any] = {} if stop is None else {"stop": stop}
    if system.jacobi:
        options["M"] = krylov.JacobiPreconditioner(system.A.diagonal())
    return getattr(krylov, system.method)(system.A, system.b, rtol=rtol, **options)


def solve_scipy(
    system: System, rtol: float, callback: Callable[[np.ndarray], None] | None = None
) -> np.ndarray:
    """Solve with SciPy, Jacobi in the fastest form that SciPy takes."""
    M = None
    if system.jacobi:
        inverse = 1 / system.A.diagonal()
        M = scipy_solvers.LinearOperator(
            system.A.shape, matvec=lambda r: inverse * r, dtype=inverse.dtype
        )
    solver = getattr(scipy_solvers, system.method)
    x, _ = solver(system.A, system.b, rtol=rtol, atol=0.0, M=M, callback=callback)
    return np.asarray(x)


def run_race(
    system: System,
    *,
    rtol: float,
    budget: float,
    most: int,
    stop: Callable[[Any], bool] | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Race:
    """Let both solve the system, by turns, and keep each one's best time.

    krylov's first run is not timed, since somebody watches it; SciPy's first run is, since counting
    its iterations costs nothing that can be measured. After that both run bare.

    Parameters
    ----------
    rtol : float
        The relative tolerance of both; the absolute one is zero.
    budget : float
        Seconds after which no further round begins; there is always one.
    most : int
        Rounds after which no further one begins.
    stop : callable, optional
        Looks at the trace of krylov's first run.
    announce : callable, optional
        Hears what is going on.
    """
    began = time.perf_counter()
    announce("krylov, first run")
    first = solve_ours(system, rtol, stop)
    start = float(np.linalg.norm(system.b))
    race = Race(system, np.asarray(first.residual_norms) / start, first.outcome, x=first.x)
    race.ours.iterations = int(first.niter)
    race.ours.residual = _relative_residual(system, first.x)

    announce("SciPy, first run")
    counted = 0

    def count(_: np.ndarray) -> None:
        nonlocal counted
        counted += 1

    scipy_began = time.perf_counter()
    x = solve_scipy(system, rtol, count)
    race.scipy.seconds = time.perf_counter() - scipy_began
    race.scipy.residual = _relative_residual(system, x)
    race.scipy.iterations = counted

    while race.rounds == 0 or (race.rounds < most and time.perf_counter() - began < budget):
        race.rounds += 1
        announce(f"both, timed, round {race.rounds}")
        race.ours.seconds = min(race.ours.seconds, _timed(solve_ours, system, rtol))
        if race.rounds == 1 and time.perf_counter() - began > budget:
            break  # SciPy has had its timed run, the first one
        race.scipy.seconds = min(race.scipy.seconds, _timed(solve_scipy, system, rtol))
    return race


def _timed(solver: Callable[[System, float], Any], system: System, rtol: float) -> float:
    began = time.perf_counter()
    solver(system, rtol)
    return time.perf_counter() - began


def _relative_residual(system: System, x: np.ndarray) -> float:
    return float(np.linalg.norm(system.b - system.A @ x) / np.linalg.norm(system.b))
