"""The scale of H0 from all directions of the last runs, also those whose pairs are not kept."""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["LargestRatio"]

# Runs that are remembered.
_RUNS = 10


@dataclass(frozen=True)
class _Pair:
    ss: float
    sy: float
    yy: float
    shift: float

    def ratio(self, shift: float) -> float:
        """``s.y / y.y`` for the operator shifted by so much."""
        moved = shift - self.shift
        return (self.sy + moved * self.ss) / (self.yy + moved * (2 * self.sy + moved * self.ss))


class LargestRatio:
    """The largest ``s.y / y.y`` that the directions of the last ten runs have shown.

    It is never above 1 over the smallest eigenvalue, which is where H0 should be: on the bulk that the pairs do not
    know. A few pairs that were kept from a preconditioned run may all be far below it.
    """

    def __init__(self) -> None:
        self._runs: deque[_Pair] = deque(maxlen=_RUNS)
        self._best: _Pair | None = None

    def see(self, p: NDArray[Any], Ap: NDArray[Any], shift: float) -> None:
        """A direction of a run and its product at this shift; 4 vector reads."""
        sy, yy = (c.real for c in _core.run_pass("auto", "dot_pair", [p, Ap, Ap]))
        ss = _core.run_pass("auto", "dot", [p, p])[0].real
        tiny = float(np.finfo(np.float64).tiny)
        if not (np.isfinite(ss + yy) and sy > tiny and yy > tiny):
            return
        if self._best is None or sy / yy > self._best.ratio(shift):
            self._best = _Pair(ss, sy, yy, shift)

    def end_run(self, complete: bool) -> None:
        """What has been seen counts from now on."""
        if complete and self._best is not None:
            self._runs.append(self._best)
        self._best = None

    def forget(self) -> None:
        """Everything."""
        self._runs.clear()

    def state(self) -> dict[str, Any]:
        """What the runs have shown, oldest first, a row for each."""
        rows = [astuple(pair) for pair in self._runs]
        return {"runs": np.array(rows, np.float64).reshape(-1, 4)}

    def restore(self, saved: Saved) -> None:
        """Remember these runs."""
        rows = saved.array("runs", (None, 4), np.dtype(np.float64), most=_RUNS)
        self._runs.extend(_Pair(*row) for row in rows.tolist())

    def at(self, shift: float) -> float:
        """The largest ratio for the operator at this shift; 0 where nothing has been seen."""
        ratios = [pair.ratio(shift) for pair in self._runs]
        return max((ratio for ratio in ratios if np.isfinite(ratio)), default=0.0)
