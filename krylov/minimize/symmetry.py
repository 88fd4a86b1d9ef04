"""Whether the Hessian is symmetric, from what there is anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["SymmetryCheck", "check_matrix"]

# Relative; products in float32 differ by about 1e-6.
_TOLERANCE = 1e-5


class SymmetryCheck:
    """Compares ``u.Hv`` with ``v.Hu`` for the first two products of an inner solve, which costs no product.

    Once they agree at an iterate it is `done`.
    """

    def __init__(self) -> None:
        self.done = False
        self._first: tuple[Vector, Vector] | None = None

    def begin(self) -> None:
        """Start at another iterate."""
        self._first = None

    def see(self, p: Vector, product: Vector) -> None:
        """Take note of a product.

        Raises
        ------
        ValueError
            It does not fit the first one.
        """
        if self.done or not np.isfinite(product).all():
            return
        if self._first is None:
            self._first = p.copy(), product.copy()
            return
        u, hu = self._first
        u_size, p_size = float(np.abs(u).max()), float(np.abs(p).max())
        if u_size == 0.0 or p_size == 0.0:
            return
        # As if of directions of size one: squares of tiny vectors vanish.
        left, right = float((u / u_size) @ (product / p_size)), float((p / p_size) @ (hu / u_size))
        scale = max(_bound(u / u_size, product / p_size), _bound(p / p_size, hu / u_size))
        if abs(left - right) > _TOLERANCE * scale:
            raise ValueError(
                f"the products are not those of a symmetric matrix: u.Hv = {left:.6g}, but v.Hu = {right:.6g}, for two "
                "directions u and v at the same x. Repair hessp (or hess), leave it out (products are then "
                "differences of the gradient), or pass check_symmetry=False"
            )
        self.done = True


def _bound(a: Vector, b: Vector) -> float:
    """An upper bound of a.b that squares nothing (Hölder)."""
    return float(np.abs(a).max() * np.abs(b).sum())


def check_matrix(matrix: Any) -> None:
    """Compare a matrix with its transpose.

    Raises
    ------
    ValueError
        They differ; the entry is named.
    """
    difference = abs(matrix - matrix.T)
    scale = abs(matrix).max() if matrix.shape[0] else 0.0
    if sp.issparse(difference):
        entries = difference.tocoo()
        worst = int(np.argmax(entries.data)) if entries.nnz else None
        row, column, size = (
            (0, 0, 0.0)
            if worst is None
            else (int(entries.row[worst]), int(entries.col[worst]), float(entries.data[worst]))
        )
    else:
        row, column = (int(k) for k in np.unravel_index(np.argmax(difference), difference.shape))
        size = float(difference[row, column])
    if size > _TOLERANCE * scale:
        raise ValueError(
            f"hess is not symmetric: its entries ({row}, {column}) and ({column}, {row}) differ by {size:.6g}. "
            "Repair hess, or pass check_symmetry=False"
        )
