"""Whole solves of 2-D Poisson beside other packages, PETSc among them.

    python bench/peers.py                                            SciPy, PyAMG; PETSc if petsc4py is importable
    python bench/peers.py --petsc-python /usr/bin/python3            petsc4py of another interpreter
    python bench/peers.py --petsc-python /usr/bin/python3 --full     to convergence too (2,900 iterations; minutes)

All contestants take turns in one run. PETSc runs in processes of its own, which sleep meanwhile: on one process, and
under mpiexec on as many as we have threads, at several settings of which the fastest counts.
"""

from __future__ import annotations

import argparse

from krylov.bench import solve
from krylov.cli.bench import rows_table
from krylov.cli.report import console


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--petsc-python", help="an interpreter with petsc4py")
    parser.add_argument("--mpiexec", default="mpiexec", help="starts PETSc on several processes")
    parser.add_argument("--side", type=int, default=1000, help="points along a side (1000)")
    parser.add_argument("--iterations", type=int, default=300, help="of every contestant (300)")
    parser.add_argument("--rounds", type=int, default=4, help="solves of each, at least (4)")
    parser.add_argument("--full", action="store_true", help="to convergence instead")
    given = parser.parse_args()
    rows = solve.against_peers(
        given.side,
        None if given.full else given.iterations,
        given.rounds,
        petsc_python=given.petsc_python or solve.petsc_interpreter(),
        mpiexec=given.mpiexec,
    )
    console().print(rows_table(solve.COLUMNS, rows))


if __name__ == "__main__":
    main()
