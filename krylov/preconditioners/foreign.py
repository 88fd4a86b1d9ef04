"""SciPy's LinearOperator for vectors and matrices of other libraries too, torch's as an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from krylov.arrays import Exchange, view

__all__ = ["ForeignLinearOperator"]


class ForeignLinearOperator(LinearOperator):  # type: ignore[misc]
    """What SciPy would turn into a NumPy array comes back as the kind of array that it was.

    Raises
    ------
    TypeError
        An argument lives on a device other than the CPU, is sparse, or holds no numbers that NumPy knows.
    """

    def matvec(self, x: Any) -> Any:
        return _carried(super().matvec, x)

    def rmatvec(self, x: Any) -> Any:
        return _carried(super().rmatvec, x)

    def matmat(self, X: Any) -> Any:
        return _carried(super().matmat, X)

    def rmatmat(self, X: Any) -> Any:
        return _carried(super().rmatmat, X)

    def dot(self, x: Any) -> Any:
        """M x for a vector or a matrix x."""
        return _carried(super().dot, x)

    def __matmul__(self, other: Any) -> Any:
        return _carried(super().__matmul__, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _carried(super().__rmatmul__, other)


def _carried(product: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, (np.ndarray, LinearOperator)):
        return product(x)
    exchange = Exchange(x)
    return exchange.outward(product(view(x, "x"))) if exchange.foreign else product(x)
