from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def line(row: dict[str, Any]) -> str:
    ratio = "" if row["ratio"] is None else f", ratio {row['ratio']:.3g}"
    if row.get("median") is not None:
        ratio += f" (median of rounds {row['median']:.3g})"
    bar = f", bar {row['bar']}" if row["bar"] else ""
    return f"{row['what']}, n = {row['n']:,}: {row['ours']} against {row['reference']}{ratio}{bar}"


@pytest.fixture
def judge(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """Keep a row's figures with the timing (``--benchmark-json``), and fail where its bar is missed."""

    def keep(row: dict[str, Any]) -> None:
        benchmark.extra_info.setdefault("rows", []).append(row)
        request.config.stash.setdefault(ROWS, []).append(row)
        assert row["met"] is not False, line(row)

    return keep


@pytest.fixture
def judge_all(judge: Any) -> Callable[[list[dict[str, Any]]], None]:
    """The same for a table: all its rows are kept, and all that miss their bar are named."""

    def keep(rows: list[dict[str, Any]]) -> None:
        missed = []
        for row in rows:
            try:
                judge(row)
            except AssertionError as error:
                missed.append(str(error).splitlines()[0])
        assert not missed, "\n".join(missed)

    return keep


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("ratios")
        for row in rows:
            terminalreporter.line(line(row))
