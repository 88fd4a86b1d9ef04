"""Pairs (s, y = A s) and their inner products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov.preconditioners.columns import norm_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.preconditioners.columns import Columns
    from krylov.preconditioners.state import Saved

__all__ = ["Pairs", "Products"]

# Of y.y, which divides.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Products:
    """Inner products of pairs, oldest first, for the operator A + shift I.

    Attributes
    ----------
    ss, sy, yy : ndarray of shape (k, k)
        Of the columns as they are stored.
    moved : ndarray of shape (k,)
        The products of the operator are ``y + moved s``.
    curvature, length : ndarray of shape (k,)
        ``s.y`` and ``y.y`` of these products.
    """

    ss: NDArray[Any]
    sy: NDArray[Any]
    yy: NDArray[Any]
    moved: NDArray[Any]

    @property
    def curvature(self) -> NDArray[Any]:
        return np.asarray(np.diag(self.sy).real + self.moved * np.diag(self.ss).real)

    @property
    def length(self) -> NDArray[Any]:
        t, sy = self.moved, np.diag(self.sy).real
        return np.asarray(np.diag(self.yy).real + 2 * t * sy + t * t * np.diag(self.ss).real)

    def usable(self, epsilon: float) -> NDArray[Any]:
        """The curvature guard: ``s.y > epsilon |s| |y|``; false for what is not finite or too small to divide by."""
        with np.errstate(over="ignore", invalid="ignore"):
            curvature, length = self.curvature, self.length
            scale = np.sqrt(np.diag(self.ss).real * np.maximum(length, 0))
            finite = (length > _TINY) & np.isfinite(curvature + length)
        return np.asarray(finite & (curvature > epsilon * scale))

    def take(self, which: NDArray[Any]) -> Products:
        """Those of some of the pairs."""
        grid = np.ix_(which, which)
        return Products(self.ss[grid], self.sy[grid], self.yy[grid], self.moved[which])


class Pairs:
    """A list of pairs in a pool of columns. Each knows the shift that its product came with.

    Parameters
    ----------
    columns : Columns
        Where they are stored, two columns a pair.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.s: list[int] = []
        self.y: list[int] = []
        self._shifts = np.empty(0)
        self._gram = np.empty((0, 0), columns.dtype)  # of s_1, y_1, s_2, y_2, ...

    def __len__(self) -> int:
        return len(self.s)

    def products(self, shift: float) -> Products:
        """Their inner products for the operator shifted by so much."""
        g = self._gram
        return Products(g[::2, ::2], g[::2, 1::2], g[1::2, 1::2], shift - self._shifts)

    def append(self, s: NDArray[Any], y: NDArray[Any], shift: float, epsilon: float) -> bool:
        """Store a pair whose product came with this shift; False where it is refused by the curvature guard."""
        norm = norm_of(s)
        if not (0 < norm < np.inf):
            return False
        pair = [self._columns.take(), self._columns.take()]
        self._columns.put(pair[0], s, 1 / norm)
        self._columns.put(pair[1], y, 1 / norm)
        before = self._interleaved()
        new = self._columns.gram([*before, *pair], pair)
        gram = np.empty((len(before) + 2,) * 2, self._gram.dtype)
        gram[:-2, :-2] = self._gram
        gram[:, -2:] = new
        gram[-2:, :] = new.conj().T
        alone = new[-2:]
        moved = np.zeros(1)  # at the shift that it came with
        if not Products(alone[:1, :1], alone[:1, 1:], alone[1:, 1:], moved).usable(epsilon)[0]:
            self._columns.give_back(pair)
            return False
        self._gram = gram
        self.s.append(pair[0])
        self.y.append(pair[1])
        self._shifts = np.append(self._shifts, shift)
        return True

    def drop(self, positions: Sequence[int]) -> None:
        """Forget the pairs at these positions."""
        gone = set(positions)
        kept = [i for i in range(len(self)) if i not in gone]
        self._columns.give_back([column for i in gone for column in (self.s[i], self.y[i])])
        wide = np.array([2 * i + j for i in kept for j in (0, 1)], int)
        self._gram = self._gram[np.ix_(wide, wide)]
        self._shifts = self._shifts[kept]
        self.s = [self.s[i] for i in kept]
        self.y = [self.y[i] for i in kept]

    def state(self) -> dict[str, Any]:
        """The pairs, oldest first."""
        columns = self._columns.state(self._interleaved())
        return {"shifts": self._shifts.copy(), "gram": self._gram.copy(), **columns}

    def restore(self, saved: Saved, most: int) -> None:
        """Hold these pairs, `most` of them at most."""
        self._shifts = saved.array("shifts", (None,), np.dtype(np.float64), most=most)
        k = len(self._shifts)
        self._gram = saved.array("gram", (2 * k, 2 * k), self._gram.dtype)
        columns = self._columns.restore(saved, 2 * k)
        self.s, self.y = columns[::2], columns[1::2]

    def _interleaved(self) -> list[int]:
        return [column for pair in zip(self.s, self.y, strict=True) for column in pair]
