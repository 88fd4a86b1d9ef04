"""Words and results for the end of a minimisation."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scipy.optimize import OptimizeResult

if TYPE_CHECKING:
    from krylov.minimize.objective import Iterate

__all__ = ["MESSAGES", "Reporter", "announce"]

STOPPED = 99  # SciPy's number for a callback that raises StopIteration
# By status; 4 and 5 are other words for 0.
MESSAGES = {
    0: "Optimization terminated successfully: the gradient is at most gtol, and the saddle check found no way down.",
    1: "Maximum number of iterations has been exceeded.",
    2: "No step decreases fun any further, although the gradient is above gtol: this may be all that the precision "
    "of fun and jac allows, or they do not belong together.",
    3: "fun seems to be unbounded below: it has fallen beyond -1e100.",
    4: "Optimization terminated successfully: the last step is below xtol.",
    5: "Optimization terminated successfully: the gradient is at most gtol (whether this is a saddle was not checked).",
    STOPPED: "`callback` raised `StopIteration`.",
}


class Reporter:
    """Tells the callback, in either of SciPy's signatures."""

    def __init__(self, callback: Callable[..., Any] | None) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        self._callback = callback
        self._by_name = callback is not None and _wants_result(callback)

    def __call__(self, at: Iterate, nit: int) -> bool:
        """Whether the callback ends the run."""
        if self._callback is None:
            return False
        try:
            if self._by_name:
                state = OptimizeResult(x=at.x.copy(), fun=at.value, jac=at.gradient.copy(), nit=nit)
                self._callback(intermediate_result=state)
            else:
                self._callback(at.x.copy())
        except StopIteration:
            return True
        return False


def _wants_result(callback: Callable[..., Any]) -> bool:
    try:
        return set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # a built-in without a signature
        return False


def announce(result: OptimizeResult) -> None:
    """Print the end of a run, as SciPy's methods do with ``disp=True``; a failure is a warning."""
    if result.success:
        print(result.message)
    else:
        warnings.warn(result.message, RuntimeWarning, stacklevel=4)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit:d}")
    print(f"         Function evaluations: {result.nfev:d}")
    print(f"         Gradient evaluations: {result.njev:d}")
    print(f"         Hessian evaluations: {result.nhev:d}")
