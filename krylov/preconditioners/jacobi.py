"""Preconditioners. Each is a SciPy LinearOperator that SciPy's own solvers accept as `M`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from krylov.arrays import common_dtype, view
from krylov.checks import finite_number
from krylov.preconditioners.foreign import ForeignLinearOperator
from krylov.preconditioners.state import Restorable, Saved

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["JacobiPreconditioner", "inverse_diagonal_of"]


class JacobiPreconditioner(Restorable, ForeignLinearOperator):
    """Diagonal preconditioner ``M = (diagonal + shift) ** -power``.

    The solvers of this package fuse it into their passes and never form M r.

    Parameters
    ----------
    diagonal : array_like of shape (n,)
        Diagonal of A, or of an approximation such as a Fisher diagonal.
    power : float
        1 for Jacobi; 0.75 is Martens' choice (2010, section 4.7) for a Fisher diagonal.
    shift : float
        Added first: preconditions ``A + shift I``. May be changed between solves.

    Raises
    ------
    ValueError
        An entry of ``diagonal + shift`` is zero, NaN or infinite, or negative with a fractional power.
    """

    def __init__(self, diagonal: ArrayLike, power: float = 1.0, shift: float = 0.0) -> None:
        values = view(diagonal, "diagonal")
        if values.ndim != 1:
            raise ValueError(f"diagonal must be a vector, but its shape is {values.shape}")
        self.diagonal = np.array(values, common_dtype(values.dtype))
        self.power = finite_number(power, "power")
        self._shift = finite_number(shift, "shift")
        super().__init__(self.diagonal.dtype, (values.size, values.size))
        self._refresh()

    @property
    def shift(self) -> float:
        """What is added to the diagonal."""
        return self._shift

    @shift.setter
    def shift(self, value: float) -> None:
        previous, self._shift = self._shift, finite_number(value, "shift")
        try:
            self._refresh()
        except ValueError:
            self._shift = previous
            raise

    def _refresh(self) -> None:
        shifted = self.diagonal + self.diagonal.dtype.type(self._shift)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            inverse = 1 / shifted if self.power == 1.0 else shifted**-self.power
        bad = ~np.isfinite(shifted) | ~np.isfinite(inverse)
        if shifted.dtype.kind == "f" and self.power != 1.0:
            bad |= shifted < 0
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"diagonal + shift is {shifted[i]} at index {i}: every entry and its inverse must be finite "
                "(and positive for a power other than 1); add a shift or leave the preconditioner out"
            )
        self.inverse_diagonal: NDArray[Any] = inverse

    # Saving; see `Restorable`.

    _kind = "jacobi"

    def _fixed(self) -> dict[str, Any]:
        return {"n": self.shape[0], "dtype": self.dtype.name}

    def _changing(self) -> dict[str, Any]:
        return {"diagonal": self.diagonal.copy(), "power": self.power, "shift": self.shift}

    def _restore(self, saved: Saved) -> None:
        diagonal = saved.array("diagonal", (saved.integer("n", 0),), saved.dtype())
        JacobiPreconditioner.__init__(self, diagonal, saved["power"], saved["shift"])

    def _matvec(self, x: NDArray[Any]) -> Any:
        return self.inverse_diagonal * np.reshape(x, -1)

    def _matmat(self, x: NDArray[Any]) -> Any:
        return self.inverse_diagonal[:, None] * x

    def _rmatvec(self, x: NDArray[Any]) -> Any:
        return self.inverse_diagonal.conj() * np.reshape(x, -1)

    def _transpose(self) -> JacobiPreconditioner:
        return self

    def _adjoint(self) -> JacobiPreconditioner:
        return JacobiPreconditioner(self.diagonal.conj(), self.power, self._shift)


def inverse_diagonal_of(preconditioner: Any) -> NDArray[Any] | None:
    """The diagonal of M where M is one, so that it can be fused; None otherwise."""
    if isinstance(preconditioner, JacobiPreconditioner):
        return preconditioner.inverse_diagonal
    if sp.issparse(preconditioner) and preconditioner.shape[0] == preconditioner.shape[1]:
        coo = preconditioner.tocoo()
        if np.array_equal(coo.row, coo.col):
            diagonal: NDArray[Any] = preconditioner.diagonal()
            return diagonal
    return None
