"""A pool of long columns: what the low-rank preconditioners keep, in full or reduced precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core
from krylov.workspace import dtype_code, staggered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["STORAGES", "Columns", "norm_of", "storage_for"]

# What holds a real number; NumPy has no bfloat16.
STORAGES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("f8"),
    "float32": np.dtype("f4"),
    "bfloat16": np.dtype("u2"),
}


def storage_for(dtype: np.dtype[Any], storage: Any) -> str:
    """The storage of columns for vectors of this dtype: their own precision by default, never more.

    Raises
    ------
    ValueError
        Unknown storage, or more digits than the vectors have.
    """
    own = "float32" if dtype in (np.dtype("f4"), np.dtype("c8")) else "float64"
    if storage is None:
        return own
    allowed = [name for name, real in STORAGES.items() if real.itemsize <= STORAGES[own].itemsize]
    if not isinstance(storage, str) or storage not in allowed:
        raise ValueError(
            f"storage must be None or one of {', '.join(allowed)} for {dtype} vectors, got {storage!r}"
        )
    return storage


def norm_of(vector: NDArray[Any]) -> float:
    """Euclidean norm at any scale (Blue 1978); NaN and infinity stay what they are."""
    factors = [2.0**-520, 2.0**500]
    plain, huge, tiny = (s.real for s in _core.run_pass("auto", "norm", [vector], factors))
    if plain > 2.0**900:
        return math.sqrt(huge) / factors[0]
    return math.sqrt(tiny) / factors[1] if plain < 2.0**-900 else math.sqrt(plain)


class Columns:
    """Memory of `count` columns of n elements, taken and given back by number.

    Parameters
    ----------
    n, count : int
        Length of a column, and how many there are.
    dtype : dtype
        Of the vectors that meet them.
    storage : str
        Of each real number in them.
    """

    def __init__(self, n: int, count: int, dtype: np.dtype[Any], storage: str) -> None:
        self.n, self.dtype, self.storage = n, dtype, storage
        self._real = STORAGES[storage]
        self._reals = n * (2 if dtype.kind == "c" else 1)
        self._memory = staggered(count, self._reals * self._real.itemsize, np.dtype("u1"))
        self.panel = _core.Panel(n, dtype_code(dtype), storage, self._memory)
        self._free = list(range(count))[::-1]

    @property
    def rounds(self) -> bool:
        """Whether columns have fewer digits than the vectors that they are made from."""
        return self.storage != storage_for(self.dtype, None)

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        return sum(column.nbytes for column in self._memory)

    def take(self) -> int:
        """Number of a free column."""
        return self._free.pop()

    def give_back(self, columns: Sequence[int]) -> None:
        """These are free again."""
        self._free.extend(columns)

    def put(self, column: int, vector: NDArray[Any], scale: float) -> None:
        """Store ``scale * vector``, rounded."""
        self.panel.put(column, vector, scale)

    def gram(self, left: Sequence[int], right: Sequence[int]) -> NDArray[Any]:
        """Inner products of the columns as they are stored, conjugated on the left."""
        return self._plain(self.panel.gram(list(left), list(right)))

    def project(self, columns: Sequence[int], vector: NDArray[Any]) -> NDArray[Any]:
        """Inner products with a vector: ``B^H v``."""
        _, c = self.panel.run("auto", "project", "dot", [vector, vector], [], list(columns), 0)
        return self._plain(np.asarray(c))

    def combine(self, columns: Sequence[int], weights: NDArray[Any]) -> NDArray[Any]:
        """The vector ``B d``."""
        out = np.empty(self.n, self.dtype)
        self.panel.run(
            "auto",
            "combine",
            "copy",
            [out, None],
            [],
            list(columns),
            1,
            weights=np.concatenate([[0.0], weights]),
        )
        return out

    def rotate(self, sources: Sequence[int], targets: Sequence[int], u: NDArray[Any]) -> None:
        """Columns ``targets`` become ``B U`` for the columns B of `sources`, which may be among them."""
        self.panel.rotate(list(sources), list(targets), u)

    def read(self, column: int) -> NDArray[Any]:
        """A column as a vector."""
        return self.combine([column], np.ones(1))

    # Where a column lies in the pool changes no result, so that a state need not know.

    def state(self, columns: Sequence[int]) -> dict[str, Any]:
        """These columns as they are stored, a row for each."""
        rows = np.empty((len(columns), self._reals), self._real)
        for row, column in zip(rows, columns, strict=True):
            row[:] = self._memory[column].view(self._real)
        return {"columns": rows}

    def restore(self, saved: Saved, count: int) -> list[int]:
        """Take this many columns for those that were saved, in their order."""
        columns = [self.take() for _ in range(count)]
        rows = saved.array("columns", (count, self._reals), self._real, copy=False)
        for row, column in zip(rows, columns, strict=True):
            self._memory[column].view(self._real)[:] = row
        return columns

    def _plain(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self.dtype.kind == "c" else np.ascontiguousarray(values.real)
