"""What the preconditioners ``M = gamma I + B K B^H`` share: apply, shift, and learning from runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core
from krylov.arrays import as_vector, view
from krylov.checks import finite_number, integer
from krylov.preconditioners.columns import Columns, storage_for
from krylov.preconditioners.foreign import ForeignLinearOperator
from krylov.preconditioners.state import Restorable, Saved
from krylov.workspace import DTYPES

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["LowRankPreconditioner"]


class LowRankPreconditioner(Restorable, ForeignLinearOperator):
    """A multiple of the identity, corrected on the span of a few columns.

    `cg` and `flexible_cg` fuse it into their iteration (2 k + 10 vector reads and writes for k columns, and M r is
    never formed); the other solvers apply it in two sweeps over the columns, without Python.

    Attributes
    ----------
    shift : float
        M preconditions ``A + shift I`` for the A that it has learnt. May be changed at any time between solves.
    """

    m: int

    def __init__(
        self, n: int, dtype: DTypeLike, storage: str | None, shift: float, used: int, kept: int
    ) -> None:
        """M uses at most `used` columns, and a pool of `kept` stands behind it."""
        size = integer(n, "n", 1)
        try:
            vectors = np.dtype(dtype)
        except TypeError as error:
            raise TypeError(f"dtype must be that of the vectors, got {dtype!r}") from error
        if vectors not in DTYPES:
            raise TypeError(
                f"dtype must be one of float32, float64, complex64, complex128, got {vectors}"
            )
        if kept > _core.max_columns:
            raise ValueError(
                f"this preconditioner would keep {kept} columns; at most {_core.max_columns} are possible"
            )
        self._shift = _not_negative(shift)
        self._columns = Columns(size, kept, vectors, storage_for(vectors, storage))
        self._native = _core.LowRank(self._columns.panel, used)
        self._stale = True
        self._in_run = threading.Lock()
        super().__init__(vectors, (size, size))

    @property
    def shift(self) -> float:
        """What is added to A."""
        return self._shift

    @shift.setter
    def shift(self, value: float) -> None:
        self._shift = _not_negative(value)
        self._stale = True

    @property
    def storage(self) -> str:
        """Of each real number in the columns: "float64", "float32" or "bfloat16"."""
        return self._columns.storage

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        return self._columns.nbytes

    # What a kind of preconditioner must say.

    @property
    def is_native(self) -> bool:
        """Whether C++ applies M without Python."""
        return True

    def _small(self) -> tuple[list[int], float, NDArray[Any]]:
        """Columns of B, gamma, K for the present shift."""
        raise NotImplementedError

    def _enter_run(self) -> None:
        if not self._in_run.acquire(blocking=False):
            raise RuntimeError(
                "this preconditioner is learning from another run; give each concurrent or nested run its own"
            )

    def _outside_runs(self, to: str = "change it") -> None:
        if self._in_run.locked():
            raise RuntimeError(f"this preconditioner is learning from a run: {to} afterwards")

    # Saving; see `Restorable`. Pickling and copying are made of it.

    def _fixed(self) -> dict[str, Any]:
        return {
            "n": self.shape[0],
            "m": self.m,
            "dtype": self.dtype.name,
            "storage": self.storage,
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(Saved(state, self._kind))

    # Use.

    @property
    def native(self) -> _core.LowRank:
        """The operator as C++ applies it, up to date."""
        if self._stale:
            self._native.set(*self._small())
            self._stale = False
        return self._native

    def _vector(self, value: Any, name: str) -> NDArray[Any]:
        return as_vector(view(value, name), self.shape[0], self.dtype, name)

    def _apply(self, r: NDArray[Any], z: NDArray[Any]) -> None:
        self.native.apply(r, z)

    def _matvec(self, x: Any) -> Any:
        r = self._vector(x, "r")
        z = np.empty_like(r)
        self._apply(r, z)
        return z

    def _rmatvec(self, x: Any) -> Any:
        return self._matvec(x)

    def _adjoint(self) -> LowRankPreconditioner:
        return self  # Hermitian

    def _transpose(self) -> Any:
        return self if self.dtype.kind == "f" else super()._transpose()


def _not_negative(shift: float) -> float:
    value = finite_number(shift, "shift")
    if value < 0:
        raise ValueError(
            f"shift must not be negative, got {value}: M would not be positive definite"
        )
    return value
