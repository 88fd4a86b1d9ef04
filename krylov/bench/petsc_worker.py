"""PETSc's KSPCG as a separate process, under an interpreter that has petsc4py (and need not have krylov).

Started by `krylov.bench.peers`, on one process or several under mpiexec. It waits without using a processor: every rank
looks for the next command ``<box>/<number>`` a few hundred times a second, and rank 0 answers in ``<number>.done``.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

try:
    import petsc4py
except ModuleNotFoundError:  # Debian keeps it beside the library
    sys.path += glob.glob("/usr/lib/petscdir/*/*-real/lib/python3/dist-packages")
    import petsc4py

import numpy as np

petsc4py.init([sys.argv[0], *sys.argv[3:]])
from petsc4py import PETSc  # noqa: E402


def matrix(side: int) -> Any:
    """The 5-point Laplacian: this rank's rows as AIJ."""
    n = side * side
    a = PETSc.Mat().create(comm=PETSc.COMM_WORLD)
    a.setSizes([n, n])
    a.setType("aij")
    a.setUp()
    first, last = a.getOwnershipRange()
    rows = np.arange(first, last, dtype=PETSc.IntType)
    i, j = rows // side, rows % side
    columns = np.stack([rows - side, rows - 1, rows, rows + 1, rows + side], axis=1)
    there = np.stack([i > 0, j > 0, i >= 0, j < side - 1, i < side - 1], axis=1)
    values = np.where(np.arange(5) == 2, 4.0, -1.0) * np.ones((len(rows), 1))
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(PETSc.IntType)
    a.setPreallocationCSR((starts, columns[there].astype(PETSc.IntType), values[there]))
    a.assemble()
    return a


def serve(box: Path, side: int) -> None:
    """Answer commands until one says stop."""
    a = matrix(side)
    x, b = a.createVecs()
    first, last = b.getOwnershipRange()
    b.setArray(np.random.default_rng(2).standard_normal(side * side)[first:last])
    kind = PETSc.Options().getString("mat_type", "aij")
    if kind != "aij":
        a = a.convert(kind)
    ksp = PETSc.KSP().create(comm=PETSc.COMM_WORLD)
    ksp.setType("cg")
    ksp.getPC().setType("none")
    ksp.setOperators(a)
    number = 0
    while True:
        path = box / str(number)
        while not path.exists():
            time.sleep(0.003)
            if os.getppid() == 1:  # whoever asks is gone
                return
        command = json.loads(path.read_text())
        number += 1
        if command.get("stop"):
            return
        ksp.setNormType(getattr(PETSc.KSP.NormType, command["norm"].upper()))
        ksp.setTolerances(rtol=command["rtol"], atol=0.0, divtol=1e30, max_it=command["maxiter"])
        ksp.setFromOptions()
        ksp.setUp()
        PETSc.COMM_WORLD.barrier()
        begin = time.perf_counter()
        ksp.solve(b, x)
        PETSc.COMM_WORLD.barrier()
        seconds = time.perf_counter() - begin
        residual = b - a * x
        answer = {
            "seconds": seconds,
            "iterations": ksp.getIterationNumber(),
            "relative_residual": residual.norm() / b.norm(),
            "version": ".".join(map(str, PETSc.Sys.getVersion())),
            "processes": PETSc.COMM_WORLD.size,
        }
        if PETSc.COMM_WORLD.rank == 0:
            done = box / f"{path.name}.part"
            done.write_text(json.dumps(answer))
            done.rename(box / f"{path.name}.done")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
