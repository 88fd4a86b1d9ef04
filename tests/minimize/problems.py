"""Objectives that several files use, with what is known about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

import krylov

newton_krylov = krylov.minimize.newton_krylov
both_solvers = pytest.mark.parametrize("solver", ["cg", "bicgstab"])
both_globalizations = pytest.mark.parametrize("globalization", ["trust", "armijo"])


def solve(problem, x0=None, **options):
    """Minimise a `krylov.bench.objectives.Problem`."""
    return minimize(
        problem.fun,
        problem.x0 if x0 is None else x0,
        jac=problem.jac,
        hessp=problem.hessp,
        method=newton_krylov,
        options=options,
    )


def hessian(problem, x):
    """The dense Hessian, symmetrised."""
    rows = np.array([problem.hessp(x, e) for e in np.eye(x.size)])
    return (rows + rows.T) / 2


def quadratic(n=6, seed=0):
    """½ x.Ax - b.x for a positive definite A: (A, b, fun, jac)."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = (q * np.linspace(1.0, 9.0, n)) @ q.T
    a, b = (a + a.T) / 2, rng.standard_normal(n)
    return a, b, (lambda x: 0.5 * x @ a @ x - b @ x), (lambda x: a @ x - b)
