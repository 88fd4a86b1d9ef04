"""Checks of single arguments, with messages that name them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["choice", "finite_number", "flag", "integer", "not_negative", "number"]


def number(value: Any, name: str) -> float:
    """A real number; NaN is one."""
    try:
        if isinstance(value, (str, bytes, bytearray)):  # float() reads them
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        kind = ValueError if value is None or isinstance(value, str) else TypeError  # as SciPy
        raise kind(f"{name} must be a number, got {value!r}") from None


def finite_number(value: Any, name: str) -> float:
    """A real number that is neither NaN nor infinite."""
    result = number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def not_negative(value: Any, name: str) -> float:
    """A finite number that is not below zero."""
    result = finite_number(value, name)
    if result < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return result


def choice(value: Any, name: str, allowed: Iterable[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def integer(value: Any, name: str, least: int | None = None) -> int:
    """An integer, not below `least`."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if least is not None and result < least:
        raise ValueError(f"{name} must be at least {least}, got {result}")
    return result


def flag(value: Any, name: str) -> bool:
    """True or False, and no other truth."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value
