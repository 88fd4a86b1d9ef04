"""Low-rank preconditioners: the time of M r or of fused iterations, and the rows that `krylov bench lowrank` prints."""

from __future__ import annotations

import pytest

from krylov.bench import bits, lowrank
from krylov.bench.taught import ACTIVE, FORMS, lbfgs, ritz
from krylov.bench.vector_part import VectorPart, filled


def test_apply_against_reading(benchmark, judge):
    M = lbfgs(10**6, 32)
    r, z = filled(2, 10**6)
    benchmark.pedantic(M.native.apply, (r, z), rounds=5, warmup_rounds=1)
    judge(lowrank.against_reading())


def test_apply_against_scipy(benchmark, judge):
    M = lbfgs(10**6, 32)
    (r,) = filled(1, 10**6)
    benchmark.pedantic(M.matvec, (r,), rounds=5, warmup_rounds=1)
    judge(lowrank.against_scipy())


@pytest.mark.parametrize(("kind", "make"), [("L-BFGS", lbfgs), ("Ritz", ritz)])
def test_fused_against_bound(benchmark, judge_all, kind, make):
    M = make(10**6, 16, active=ACTIVE)
    part = VectorPart("flexible_cg", 10**6, False, iterations=7, window=1, low_rank=M.native)
    benchmark.pedantic(part.turn, rounds=3, warmup_rounds=1)
    judge_all(lowrank.fused_against_bound(kind))


def test_ritz_against_lbfgs(benchmark, judge_all):
    judge_all(benchmark.pedantic(lowrank.ritz_against_lbfgs))


def test_storages(benchmark, judge_all):
    judge_all(benchmark.pedantic(lowrank.storages))


@pytest.mark.parametrize("form", FORMS)
def test_equal_bits_of_form(benchmark, judge, form):
    judge(benchmark.pedantic(bits.equal_bits_of_form, (form,)))
