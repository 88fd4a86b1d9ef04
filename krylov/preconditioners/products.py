"""Products of an operator with columns of a pool, in batches where the operator takes matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    multiply = _of_matrices(A)
    for start in range(0, len(which), _BATCH):
        vectors = [columns.read(c) for c in which[start : start + _BATCH]]
        if multiply is None:
            yield from (bound(v) for v in vectors)
        else:
            block = np.asarray(multiply(np.stack(vectors, axis=1)))
            yield from (bound.convert(y) for y in block.T)


def _of_matrices(A: Any) -> Callable[[NDArray[Any]], Any] | None:
    """The product of A with a matrix, where A knows one of its own."""
    if isinstance(A, np.ndarray) or sp.issparse(A):
        return lambda block: A @ block
    if not isinstance(A, LinearOperator):
        return None
    # SciPy's makeshift hands out columns of shape (n, 1), which many a matvec does not expect.
    own = type(A)._matmat is not LinearOperator._matmat
    given: Any = getattr(A, "_CustomLinearOperator__matmat_impl", own)
    return A.matmat if given else None
