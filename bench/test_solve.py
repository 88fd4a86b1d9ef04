"""Whole solves beside SciPy's and PyAMG's (and PETSc's, see peers.py), and equal bits for any number of threads."""

from __future__ import annotations

import pytest

import krylov
from krylov.bench import bits, solve
from krylov.bench.poisson import poisson, right_hand_side


def test_poisson(benchmark, judge):
    a, b = poisson(1000), right_hand_side(10**6)
    benchmark.pedantic(krylov.cg, (a, b), {"rtol": 0.0, "maxiter": 100}, rounds=3, warmup_rounds=1)
    for row in solve.against_peers(petsc_python=solve.petsc_interpreter()):
        judge(row)


@pytest.mark.parametrize("method", bits.METHODS)
def test_equal_bits(benchmark, judge, method):
    judge(benchmark.pedantic(bits.equal_bits, (method,)))
