"""How numbers, tables and JSON are written, the same in every command."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

#: Columns of a table that goes to a file or a pipe, where nothing wraps it on a screen.
PIPE_WIDTH = 120


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr as they are now (tests replace them)."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def integer(value: int) -> str:
    """Write 1234567 as ``1,234,567``."""
    return f"{value:,}"


def scientific(value: float | None) -> str:
    """Write a residual: two digits are all that anyone compares."""
    return "-" if value is None else f"{value:.1e}"


def seconds(value: float) -> str:
    """Write a duration with three digits, in the unit that needs no zeros."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1.0:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def times(value: float) -> str:
    """Write a speed-up."""
    return f"{value:.2g}x" if value < 1 else f"{value:.1f}x"


def strict_json(value: object) -> str:
    """Write JSON that every parser reads: NaN and infinities become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, complex):
        return {"re": _plain(value.real), "im": _plain(value.imag)}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
