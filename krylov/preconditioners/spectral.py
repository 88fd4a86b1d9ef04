"""What the preconditioners from approximate eigenvectors share: what they know, and how it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from krylov.checks import number
from krylov.preconditioners.low_rank import LowRankPreconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["SpectralPreconditioner"]


class SpectralPreconditioner(LowRankPreconditioner):
    """``M r = gamma r + V ((Theta + shift)^-1 - gamma) V^H r`` with orthonormal V = B root for the columns B."""

    _kept: list[int]  # B
    _theta: NDArray[Any]  # descending
    _root: NDArray[Any]
    _discarded: float  # the first value that B has no vector for

    def _forget(self) -> None:
        self._kept = []
        self._theta = np.empty(0)
        self._root = np.empty((0, 0), self.dtype)
        self._discarded = 0.0

    # Saving; see `Restorable`.

    def _spectrum(self) -> dict[str, Any]:
        """All of the above but the columns."""
        return {
            "theta": self._theta.copy(),
            "root": self._root.copy(),
            "discarded": self._discarded,
        }

    def _restore_spectrum(self, saved: Saved) -> int:
        """Read it back; returns how many columns belong to it."""
        real, wide = np.dtype(np.float32), np.dtype(np.float64)
        self._theta = saved.array("theta", (None,), real, wide, most=self.m)
        k = len(self._theta)
        self._root = saved.array("root", (k, k), self.dtype, np.result_type(self.dtype, wide))
        self._discarded = number(saved["discarded"], "discarded")
        return k
