"""Products of an operator with columns of a pool, in batches where the operator takes matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from krylov.arrays import Exchange
from krylov.operators import as_operator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.preconditioners.columns import Columns

__all__ = ["products_of_columns"]

# Columns of a batch: bounds the memory that a batch takes beside the pool.
_BATCH = 8


def products_of_columns(A: Any, columns: Columns, which: Sequence[int]) -> Iterator[NDArray[Any]]:
    """``A c`` for each of these columns, one after the other.

    Raises
    ------
    TypeError, ValueError
        A does not fit the columns.
    """
    bound = as_operator(A, "A").bind(columns.n, columns.dtype, Exchange(np.empty(0)))
    batches = isinstance(A, (np.ndarray, LinearOperator)) or sp.issparse(A)
    for start in range(0, len(which), _BATCH):
        vectors = [columns.read(c) for c in which[start : start + _BATCH]]
        if batches:
            yield from (bound.convert(y) for y in np.asarray(A @ np.stack(vectors, axis=1)).T)
        else:
            yield from (bound(v) for v in vectors)
