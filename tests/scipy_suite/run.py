"""Runs SciPy's own tests of its iterative solvers with our `cg` and `bicgstab` in the place of SciPy's.

    python tests/scipy_suite/run.py

SciPy's wheels carry their tests. The names are replaced before the tests are collected; a test that is not about cg or
bicgstab runs as SciPy ships it.
"""

from __future__ import annotations

import os
import sys

import pytest
import scipy.sparse.linalg
from scipy.sparse.linalg import _isolve
from scipy.sparse.linalg._isolve import iterative

import krylov

MODULES = [
    "scipy.sparse.linalg._isolve.tests.test_iterative",
    "scipy.sparse.tests.test_array_api",
    "scipy.optimize.tests.test_nonlin",
]


def main() -> int:
    """Replace, run, and make sure that it is our solvers that were tested."""
    calls = dict.fromkeys(("cg", "bicgstab"), 0)

    def counted(name: str):
        solver = getattr(krylov, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return solver(*args, **kwargs)

        call.__name__ = name  # SciPy's tests tell the solvers apart by their names
        call.__doc__ = solver.__doc__
        return call

    for name in calls:
        replacement = counted(name)
        for module in (scipy.sparse.linalg, _isolve, iterative):
            setattr(module, name, replacement)
    status = pytest.main(
        ["--pyargs", *MODULES, "-q", "-p", "no:cacheprovider", "-c", os.devnull, *sys.argv[1:]]
    )
    print(f"calls of krylov's solvers: {calls}")
    if min(calls.values()) == 0:
        print("SciPy's tests did not reach our solvers", file=sys.stderr)
        return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
