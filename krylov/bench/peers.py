"""Other packages' conjugate gradients as contestants: SciPy, PyAMG, and PETSc in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse.linalg as scipy_linalg

import krylov

__all__ = ["PETSC_VARIANTS", "Contestant", "Petsc", "Solve", "krylov_cg", "pyamg_cg", "scipy_cg"]

# Settings of KSPCG that are fast somewhere: a name, the norm that is computed, options.
PETSC_VARIANTS = (
    ("default norm", "unpreconditioned", ()),
    ("natural norm", "natural", ()),
    ("one reduction", "natural", ("-ksp_cg_single_reduction",)),
    ("sliced ELLPACK", "natural", ("-mat_type", "sell")),
)
_WORKER = Path(__file__).with_name("petsc_worker.py")


@dataclass(frozen=True)
class Solve:
    """One finished solve of a contestant."""

    seconds: float
    iterations: int
    relative_residual: float


Contestant = Callable[[int, float], Solve]


def krylov_cg(a: Any, b: Any) -> Contestant:
    """Ours, from the call to the result, with all memory allocated within."""

    def solve(maxiter: int, rtol: float) -> Solve:
        begin = perf_counter()
        result = krylov.cg(a, b, rtol=rtol, maxiter=maxiter)
        seconds = perf_counter() - begin
        return Solve(seconds, result.niter, _relative(a, result.x, b))

    return solve


def scipy_cg(a: Any, b: Any) -> Contestant:
    """SciPy's cg."""

    def solve(maxiter: int, rtol: float) -> Solve:
        begin = perf_counter()
        x, info = scipy_linalg.cg(a, b, rtol=rtol, maxiter=maxiter)
        seconds = perf_counter() - begin
        # SciPy counts only where it fails; to count in a callback would slow it down.
        return Solve(seconds, info, _relative(a, x, b))

    return solve


def pyamg_cg(a: Any, b: Any) -> Contestant:
    """PyAMG's cg; raises ModuleNotFoundError where it is not installed."""
    from pyamg.krylov import cg

    def solve(maxiter: int, rtol: float) -> Solve:
        begin = perf_counter()
        x, info = cg(a, b, tol=rtol, maxiter=maxiter)
        seconds = perf_counter() - begin
        return Solve(seconds, info, _relative(a, x, b))

    return solve


def _relative(a: Any, x: Any, b: Any) -> float:
    return float(np.linalg.norm(b - a @ x) / np.linalg.norm(b))


class Petsc:
    """KSPCG without preconditioner, in a process of its own (or several), which sleeps while others are measured.

    Parameters
    ----------
    python : str
        An interpreter that has petsc4py.
    side : int
        Points along a side of the grid.
    launcher : sequence of str
        What starts several processes, ``("mpiexec", "-n", "2")`` for example.
    norm : {"unpreconditioned", "natural", "none"}
        The norm that KSP computes; "natural" costs nothing beyond the iteration.
    options : sequence of str
        PETSc options, as ``("-mat_type", "aijsell")``.
    """

    def __init__(
        self,
        python: str,
        side: int,
        launcher: Sequence[str] = (),
        norm: str = "unpreconditioned",
        options: Sequence[str] = (),
    ) -> None:
        self._norm = norm
        self._box = Path(tempfile.mkdtemp(prefix="krylov-petsc-"))
        self._number = 0
        self.version = ""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # Open MPI refuses root, which is the only user in most containers.
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environment.pop("PYTHONPATH", None)
        command = [*launcher, python, str(_WORKER), str(self._box), str(side), *options]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, maxiter: int, rtol: float) -> Solve:
        answer = self._ask(maxiter=maxiter, rtol=rtol, norm=self._norm)
        self.version = answer["version"]
        return Solve(answer["seconds"], answer["iterations"], answer["relative_residual"])

    def close(self) -> None:
        """End the processes."""
        if self._process.poll() is None:
            self._write(stop=True)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        shutil.rmtree(self._box, ignore_errors=True)

    def _write(self, **command: Any) -> Path:
        path = self._box / str(self._number)
        self._number += 1
        part = path.with_suffix(".new")
        part.write_text(json.dumps(command))
        part.rename(path)
        return path.with_suffix(".done")

    def _ask(self, **command: Any) -> dict[str, Any]:
        done = self._write(**command)
        while not done.exists():
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                raise RuntimeError(
                    f"PETSc's process has ended with {self._process.returncode}: "
                    + self._process.stderr.read()[-2000:]
                )
            time.sleep(0.003)
        answer: dict[str, Any] = json.loads(done.read_text())
        return answer
