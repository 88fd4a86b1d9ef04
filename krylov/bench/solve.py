"""Whole solves of a sparse system against other packages, and equal bits for any number of threads."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from krylov import _core
from krylov.bench.bits import METHODS, equal_bits
from krylov.bench.peers import PETSC_VARIANTS, Contestant, Petsc, krylov_cg, pyamg_cg, scipy_cg
from krylov.bench.poisson import poisson, right_hand_side
from krylov.bench.rows import COLUMNS, at_least, duration, row
from krylov.bench.timing import PAUSE, interleave

__all__ = ["COLUMNS", "against_peers", "petsc_interpreter", "run"]

RTOL = 1e-8
BARS = {"SciPy": 3.0, "PyAMG": 1.5, "PETSc": 1.5}


def petsc_interpreter() -> str | None:
    """An interpreter with petsc4py: the one that KRYLOV_PETSC_PYTHON names, or this one."""
    named = os.environ.get("KRYLOV_PETSC_PYTHON")
    if named:
        return named
    return sys.executable if importlib.util.find_spec("petsc4py") else None


def against_peers(
    side: int = 1000,
    maxiter: int | None = 300,
    rounds: int = 4,
    *,
    petsc_python: str | None = None,
    mpiexec: str = "mpiexec",
) -> list[dict[str, Any]]:
    """Solve 2-D Poisson with ``side * side`` unknowns by everyone's conjugate gradients.

    Parameters
    ----------
    side : int
        Points along a side of the grid.
    maxiter : int, optional
        Iterations of every contestant; None: to convergence at a relative residual of 1e-8.
    rounds : int
        Solves of each.
    petsc_python : str, optional
        An interpreter with petsc4py; None leaves PETSc out.
    mpiexec : str
        Starts PETSc on as many processes as we have threads.
    """
    a, b = poisson(side), right_hand_side(side * side)
    with _contestants(a, b, side, petsc_python, mpiexec) as everybody:
        contestants = _at_their_best(everybody)
        turns = {name: _Turn(solve, maxiter or 20 * side) for name, solve in contestants.items()}
        patience, warm_up = (2, True) if maxiter else (1, False)
        times = interleave(turns, rounds, patience=patience, pause=PAUSE, warm_up=warm_up)
    what = f"{maxiter} iterations" if maxiter else f"solve to {RTOL:g}"
    threads = _core.threads()
    lines = []
    for rival in turns:
        if rival == "krylov":
            continue
        ratio = times.ratio(rival, "krylov")
        spread = {turns[name].relative_residual for name in ("krylov", rival)}
        if max(spread) > 1.01 * min(spread) and maxiter:
            raise RuntimeError(f"{rival} has not done the same work: residuals {spread}")
        lines.append(
            row(
                f"cg, 2-D Poisson, {what}, {rival} over krylov with {threads} threads",
                b.size,
                duration(times.best("krylov")),
                f"{duration(times.best(rival))} {rival.split(':')[0]}",
                ratio,
                median=times.median_ratio(rival, "krylov"),
                bar=at_least(ratio, BARS[rival.split()[0].rstrip(":")]),
            )
        )
    return lines


class _Turn:
    """A solve per turn; remembers how far it got."""

    def __init__(self, solve: Contestant, maxiter: int) -> None:
        self._solve, self._maxiter = solve, maxiter
        self.relative_residual = float("nan")

    def __call__(self) -> list[float]:
        done = self._solve(self._maxiter, RTOL)
        self.relative_residual = done.relative_residual
        return [done.seconds]


@contextlib.contextmanager
def _contestants(
    a: Any, b: Any, side: int, petsc_python: str | None, mpiexec: str
) -> Iterator[dict[str, Contestant]]:
    contestants: dict[str, Contestant] = {"krylov": krylov_cg(a, b), "SciPy": scipy_cg(a, b)}
    with contextlib.suppress(ModuleNotFoundError):
        contestants["PyAMG"] = pyamg_cg(a, b)
    with contextlib.ExitStack() as stack:
        if petsc_python:
            several = _core.threads() if shutil.which(mpiexec) else 1
            for count in sorted({1, several}):
                launcher = () if count == 1 else (mpiexec, "-n", str(count))
                for label, norm, options in PETSC_VARIANTS:
                    petsc = Petsc(petsc_python, side, launcher, norm, options)
                    stack.callback(petsc.close)
                    processes = f"{count} process{'es' if count > 1 else ''}"
                    contestants[f"PETSc on {processes}: {label}"] = petsc
        yield contestants


def _at_their_best(contestants: dict[str, Contestant]) -> dict[str, Contestant]:
    """Leave those of PETSc's settings that are the fastest for their number of processes."""
    settings = {name: _Turn(solve, 60) for name, solve in contestants.items() if ":" in name}
    times = interleave(settings, 3, pause=PAUSE)
    best: dict[str, str] = {}
    for name in settings:
        group = name.split(":")[0]
        if group not in best or times.best(name) < times.best(best[group]):
            best[group] = name
    return {name: s for name, s in contestants.items() if ":" not in name or name in best.values()}


def run(
    quick: bool = False,
    *,
    full: bool = False,
    petsc_python: str | None = None,
    mpiexec: str = "mpiexec",
) -> list[dict[str, Any]]:
    """All rows; quick: a small system for a trial; full: to convergence too."""
    petsc_python = petsc_python or petsc_interpreter()
    peers = functools.partial(against_peers, petsc_python=petsc_python, mpiexec=mpiexec)
    if quick:
        lines = [{**line, "met": None} for line in peers(200, 50, 2)]
    else:
        lines = peers()
        if full:
            lines += peers(maxiter=None, rounds=3)
    return lines + [equal_bits(method) for method in METHODS]
