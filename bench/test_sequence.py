"""Sequences of systems: the time of ten, and the rows that `krylov bench sequence` prints."""

from __future__ import annotations

import pytest

from krylov.bench import sequence


@pytest.mark.parametrize("experiment", sequence.EXPERIMENTS, ids=lambda each: each.name)
def test_sequence(benchmark, judge_all, experiment):
    judge_all(benchmark.pedantic(sequence.table, (experiment,)))
