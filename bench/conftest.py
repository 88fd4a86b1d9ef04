from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def judge(benchmark: Any) -> Callable[[dict[str, Any]], None]:
    """Keep a row's figures with the timing (``--benchmark-json``), and fail where its bar is missed."""

    def keep(row: dict[str, Any]) -> None:
        benchmark.extra_info.update(row)
        assert row["met"] is not False, (
            f"{row['what']}, n = {row['n']}: {row['ours']} against {row['reference']}, ratio {row['ratio']}, "
            f"bar {row['bar']}"
        )

    return keep
