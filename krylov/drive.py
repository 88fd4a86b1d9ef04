"""The one loop that answers a recurrence.

A recurrence (C++) asks for products, preconditioning and judgement; operators that C++ knows never come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from krylov import _core
from krylov.operators import Multiplier

__all__ = ["drive"]

_DONE = int(_core.Request.DONE)
_MULTIPLY = int(_core.Request.MULTIPLY)
_PRECONDITION = int(_core.Request.PRECONDITION)
_JUDGE = int(_core.Request.JUDGE)

# How many references a fresh array has while it is passed on like an answer below.
_core.Run.calibrate(np.empty(1))


def drive(
    run: _core.Run,
    multiply: Multiplier,
    precondition: Multiplier | None,
    judge: Callable[[], None] | None,
) -> None:
    """Run a recurrence to its end.

    Parameters
    ----------
    run : _core.Run
        The recurrence.
    multiply, precondition : callable
        ``multiply(source, target)`` returns the product.
    judge : callable, optional
        Called when an iterate is to be judged; ends the run with ``run.stop()``.
    """
    advance, vectors = run.advance, run.vectors  # by slot; a borrowed answer takes its place there
    once_a: Multiplier | None = _checked(multiply, "A")
    once_m = None if precondition is None else _checked(precondition, "M")
    code = advance(None)
    request = code & 15
    while request != _DONE:
        if request == _MULTIPLY:
            source, target = vectors[(code >> 4 & 4095) - 1], vectors[(code >> 16) - 1]
            # The answer must stay a nameless temporary: the core borrows what nobody else refers to.
            if once_a is None:
                code = advance(multiply(source, target))
            else:
                code, once_a = advance(once_a(source, target)), None
        elif request == _PRECONDITION:
            source, target = vectors[(code >> 4 & 4095) - 1], vectors[(code >> 16) - 1]
            assert precondition is not None
            if once_m is None:
                code = advance(precondition(source, target))
            else:
                code, once_m = advance(once_m(source, target)), None
        elif request == _JUDGE:
            assert judge is not None
            judge()
            code = advance(None)
        else:
            raise RuntimeError("this run has partial sums, which the drive loop does not reduce")
        request = code & 15


def _checked(multiply: Multiplier, name: str) -> Multiplier:
    """The first product, with a check that it leaves its input alone: one pass over memory, once a solve."""

    def first(source: Any, target: Any) -> Any:
        before = _square(source)
        answer = multiply(source, target)
        after = _square(source)
        if before != after and not (math.isnan(before) and math.isnan(after)):
            raise ValueError(
                f"{name} has written into the vector it was given; it must return the product in other memory"
            )
        return answer

    return first


def _square(vector: Any) -> float:
    return _core.run_pass("auto", "dot", [vector, vector])[0].real
