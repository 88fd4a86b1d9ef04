"""The one loop that answers a recurrence.

A recurrence (C++) asks for products, preconditioning and judgement; operators that C++ knows never come here.
"""

from __future__ import annotations

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
_LEARN = int(_core.Request.LEARN)

# How many references a fresh array has while it is passed on like an answer below.
_core.Run.calibrate(np.empty(1))


def drive(
    run: _core.Run,
    multiply: Multiplier,
    precondition: Multiplier | None,
    judge: Callable[[], None] | None,
    iterate: Any = None,
    learn: Callable[[Any, Any], None] | None = None,
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
    iterate : ndarray, optional
        The vector x of the run.
    learn : callable, optional
        ``learn(p, v)`` hears of every direction p with its product v.

    Raises
    ------
    ValueError
        An operator has written into its input: seen at its first product, and whenever the input is x.
    """
    advance, vectors = run.advance, run.vectors  # by slot; a borrowed answer takes its place there
    checked_a, checked_m = _checked(multiply, "A"), _checked(precondition, "M")
    first_a = first_m = True
    code = advance(None)
    request = code & 15
    while request != _DONE:
        if request == _MULTIPLY:
            source, target = vectors[(code >> 4 & 4095) - 1], vectors[(code >> 16) - 1]
            # The answer must stay a nameless temporary: the core borrows what nobody else refers to.
            if first_a or source is iterate:
                first_a = False
                code = advance(checked_a(source, target))
            else:
                code = advance(multiply(source, target))
        elif request == _PRECONDITION:
            assert precondition is not None
            source, target = vectors[(code >> 4 & 4095) - 1], vectors[(code >> 16) - 1]
            if first_m:
                first_m = False
                code = advance(checked_m(source, target))
            else:
                code = advance(precondition(source, target))
        elif request == _JUDGE:
            assert judge is not None
            judge()
            code = advance(None)
        elif request == _LEARN:
            assert learn is not None
            learn(vectors[(code >> 4 & 4095) - 1], vectors[(code >> 16) - 1])
            code = advance(None)
        else:
            raise RuntimeError("this run has partial sums, which the drive loop does not reduce")
        request = code & 15


def _checked(multiply: Multiplier | None, name: str) -> Multiplier:
    """The product with a check that it leaves its input alone."""

    def checked(source: Any, target: Any) -> Any:
        assert multiply is not None
        before = source.copy()
        answer = multiply(source, target)
        if not np.array_equal(before, source, equal_nan=True):
            raise ValueError(
                f"{name} has written into the vector it was given; it must return the product in other memory"
            )
        return answer

    return checked
