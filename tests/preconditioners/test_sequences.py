"""Slowly changing systems, one after the other: what the preconditioners are for."""

from __future__ import annotations

import numpy as np
import pytest
from cases import on_the_fast_table, vector
from preconditioners.common import columns_are_accounted_for, slowly_changing

import krylov
from krylov import LBFGSPreconditioner, RitzPreconditioner

pytestmark = on_the_fast_table
N, SHIFT, SYSTEMS = 250, 1e-2, 6
RTOL = 1e-4
SEQUENCE = [(A, vector(N, seed=50 + k)) for k, A in enumerate(slowly_changing(N, SYSTEMS))]
SOLVERS = {"cg": krylov.cg, "flexible_cg": krylov.flexible_cg}
solvers = pytest.mark.parametrize("solver", SOLVERS)


def iterations(solver, M):
    counts = []
    for A, b in SEQUENCE:
        res = SOLVERS[solver](A, b, M=M, rtol=RTOL)
        assert res.outcome.ok
        counts.append(res.niter)
        assert M is None or columns_are_accounted_for(M)
    return counts


@pytest.fixture(scope="module")
def without():
    return {name: iterations(name, None) for name in SOLVERS}


@solvers
@pytest.mark.parametrize("m", [16, 32])
def test_ritz(without, solver, m):
    counts = iterations(solver, RitzPreconditioner(N, m, shift=SHIFT, harvest=True))
    plain = without[solver]
    assert counts[0] == plain[0]
    assert all(now <= before for now, before in zip(counts, plain, strict=True)), (counts, plain)
    assert sum(counts[1:]) <= (0.75 if m == 16 else 0.5) * sum(plain[1:]), (counts, plain)


@solvers
@pytest.mark.parametrize("refresh", [False, True])
def test_lbfgs(without, solver, refresh):
    M = LBFGSPreconditioner(N, 32, shift=SHIFT, harvest=True, refresh=refresh)
    counts, plain = iterations(solver, M), without[solver]
    assert all(now <= before for now, before in zip(counts, plain, strict=True)), (counts, plain)
    assert sum(counts[1:]) <= 0.85 * sum(plain[1:]), (counts, plain)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_reduced_storage_costs_few_iterations(storage):
    full, reduced = (
        iterations("cg", RitzPreconditioner(N, 32, shift=SHIFT, harvest=True, storage=kept))
        for kept in (None, storage)
    )
    assert sum(reduced) <= 1.1 * sum(full) + 2, (reduced, full)
    full, reduced = (
        iterations("cg", LBFGSPreconditioner(N, 32, shift=SHIFT, harvest=True, storage=kept))
        for kept in (None, storage)
    )
    assert sum(reduced) <= 1.1 * sum(full) + 2, (reduced, full)


def test_it_is_deterministic():
    runs = [
        iterations("flexible_cg", make(harvest=True, shift=SHIFT))
        for make in (
            lambda **k: RitzPreconditioner(N, 16, **k),
            lambda **k: LBFGSPreconditioner(N, 16, **k),
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]


def test_renewal_after_an_abrupt_change(without):
    """The same vectors for a scaled operator: stale Ritz values hurt until they are renewed, for m products."""
    A, b = SEQUENCE[0]
    M = RitzPreconditioner(N, 32, shift=SHIFT, harvest=True)
    krylov.cg(A, b, M=M, rtol=RTOL)
    M.harvest = False
    values = M.ritz_values
    changed = 50 * (A - SHIFT * np.eye(N)) + SHIFT * np.eye(N)
    stale = krylov.cg(changed, b, M=M, rtol=RTOL).niter
    assert M.renew(changed - SHIFT * np.eye(N)) == len(M)
    np.testing.assert_allclose(M.ritz_values, 50 * values, rtol=0.2)
    assert krylov.cg(changed, b, M=M, rtol=RTOL).niter <= stale


def test_several_shifts_from_one_sequence():
    """As a damping that changes from system to system: M follows by its shift alone."""
    M, counts, plain = RitzPreconditioner(N, 32, harvest=True), [], []
    for (A, b), shift in zip(SEQUENCE, [1e-2, 2e-2, 3e-2, 1.5e-2, 1e-2, 2e-2], strict=True):
        damped = A + (shift - SHIFT) * np.eye(N)
        M.shift = shift
        counts.append(krylov.cg(damped, b, M=M, rtol=RTOL).niter)
        plain.append(krylov.cg(damped, b, rtol=RTOL).niter)
    assert sum(counts[1:]) <= 0.6 * sum(plain[1:])
    assert all(now <= before for now, before in zip(counts, plain, strict=True))
