from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from cases import residual_norm, spd, vector

import krylov
from krylov import Outcome

SOLVERS = [krylov.cg, krylov.flexible_cg, krylov.bicgstab, krylov.neumann]


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_is_advice(outcome):
    assert outcome.value.endswith(".")
    assert len(outcome.value.split()) >= 5


def test_which_outcomes_are_ok():
    ok = {"CONVERGED", "CONVERGED_INDEFINITE", "STOPPED_BY_RULE", "TRUST_RADIUS"}
    assert {o.name for o in Outcome if o.ok} == ok


@pytest.mark.parametrize("solver", SOLVERS)
def test_everything_is_there(solver, dtype):
    A, b, count = spd(dtype, condition=10), vector(40, dtype), [0]

    def multiply(v):
        count[0] += 1
        return A @ v

    res = solver(multiply, b, rtol=1e-4)
    assert isinstance(res, tuple)
    assert res == (res.x, res.info) == (res[0], res[1])
    assert res.nmatvec == count[0]
    assert res.residual_norms.size == res.niter + 1
    assert res.residual_norms[0] == pytest.approx(np.linalg.norm(b), rel=1e-6)
    assert res.residual_norm == pytest.approx(res.true_residual_norm, rel=0.1)
    assert res.true_residual_norm == pytest.approx(residual_norm(A, b, res.x), rel=0.1)
    assert res.curvature == pytest.approx(np.vdot(res.x, A @ res.x).real, rel=1e-4)
    assert (res.restarts, res.direction, res.direction_curvature, res.candidates) == (
        0,
        None,
        0,
        [],
    )


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_copies(duplicate):
    res = krylov.cg(spd(float), vector(40), candidates="all")
    other = duplicate(res)
    assert np.array_equal(other.x, res.x)
    assert np.array_equal(other.ritz_values(), res.ritz_values())
    assert (other.outcome, other.info, len(other.candidates)) == (
        res.outcome,
        0,
        len(res.candidates),
    )


def test_repr_says_how_it_ended():
    assert repr(krylov.cg(np.eye(2), np.ones(2))).startswith(
        "SolveResult(CONVERGED, info=0, niter=1,"
    )


def test_results_are_independent_of_later_solves():
    A, workspace = spd(float), krylov.Workspace("cg", 40)
    first = krylov.cg(A, vector(40), workspace=workspace, candidates="all", curvature="stop")
    kept = pickle.dumps(first)
    krylov.cg(-A, vector(40, seed=1), workspace=workspace, curvature="stop")
    assert pickle.dumps(first) == kept


def test_direction_is_independent_of_later_solves():
    A, workspace = -spd(float), krylov.Workspace("cg", 40)
    first = krylov.cg(A, vector(40), workspace=workspace, curvature="stop")
    kept = first.direction.copy()
    krylov.cg(A, vector(40, seed=1), workspace=workspace, curvature="stop")
    assert np.array_equal(first.direction, kept)
