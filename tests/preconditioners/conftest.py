"""Every test of a preconditioner runs on the fast kernel table and on the naive reference."""

from __future__ import annotations

import pytest

from krylov import _core


@pytest.fixture(autouse=True, params=["auto", "reference"])
def table(request):
    previous = _core.use_table(request.param)
    yield request.param
    _core.use_table(previous)
