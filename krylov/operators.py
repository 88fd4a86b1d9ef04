"""What a solver needs of A and M, from whatever the caller has: matrix, LinearOperator, duck object, callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from krylov import _core
from krylov.arrays import Exchange, as_answer, is_torch, view

__all__ = ["Multiplier", "Operator", "as_operator"]

# multiply(source, target) returns the product with source; it may have put it into target (both are NumPy views).
Multiplier = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Operator:
    """An operator as the drive loop uses it.

    Attributes
    ----------
    shape : (int, int) or None
        None for a callable, which takes its size from `b`.
    dtype : dtype or None
        None where the operator does not say.
    matrix : sparse array, ndarray or None
        The entries, where there are any.
    function : callable or None
        ``function(v)`` returns the product, where there are no entries.
    native : bool
        Whether the function takes NumPy vectors whatever `b` is (SciPy operators).
    name : str
        How messages call it.
    """

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None
    matrix: Any
    function: Callable[[Any], Any] | None
    native: bool
    name: str

    def csr(self, dtype: np.dtype[Any]) -> _core.CsrMatrix | None:
        """The matrix for the threaded product of the native core, where A is sparse."""
        if not sp.issparse(self.matrix):
            return None
        csr = self.matrix.tocsr()
        index = csr.indices.dtype if csr.indices.dtype == csr.indptr.dtype else np.dtype(np.int64)
        if index not in (np.dtype(np.int32), np.dtype(np.int64)):
            index = np.dtype(np.int64)
        return _core.CsrMatrix(
            csr.shape[1],
            np.ascontiguousarray(csr.indptr, index),
            np.ascontiguousarray(csr.indices, index),
            np.ascontiguousarray(csr.data, dtype),
        )

    def multiplier(self, n: int, dtype: np.dtype[Any], exchange: Exchange) -> Multiplier:
        """The product as the drive loop calls it."""
        if self.matrix is not None:
            matrix = self.csr(dtype)
            if matrix is not None:
                native = matrix
                return lambda source, target: _sparse_product(native, source, target)
            dense = np.ascontiguousarray(self.matrix, dtype)
            return lambda source, target: _dense_product(dense, source, target)
        function = self.function
        assert function is not None
        if self.native or not exchange.foreign:
            return lambda source, _: function(source)
        # The view of the latest source in the caller's library: most solvers multiply one vector of the workspace.
        latest: list[Any] = [None, None]

        def multiply(source: Any, _: Any) -> Any:
            if latest[0] is not source:
                latest[:] = source, exchange.outward(source)
            return function(latest[1])

        return multiply

    def converter(
        self, n: int, dtype: np.dtype[Any], *, narrow: bool = False
    ) -> Callable[[Any], Any]:
        """Turns an unusual answer into a plain vector, or says what is wrong with it."""
        return lambda answer: as_answer(answer, n, dtype, self.name, narrow=narrow)


def _dense_product(dense: Any, source: Any, target: Any) -> Any:
    return np.dot(dense, source, out=target)


def _sparse_product(matrix: _core.CsrMatrix, source: Any, target: Any) -> Any:
    matrix.multiply(source, target)
    return target


def as_operator(value: Any, name: str) -> Operator:
    """Classify an operator.

    Raises
    ------
    TypeError
        No product can be formed with this object.
    ValueError
        It is not square.
    """
    operator = _classify(value, name)
    if operator.shape is not None and (
        len(operator.shape) != 2 or operator.shape[0] != operator.shape[1]
    ):
        raise ValueError(f"{name} must be square, but its shape is {operator.shape}")
    return operator


def _classify(value: Any, name: str) -> Operator:
    if isinstance(value, np.ndarray):
        return _dense(np.asarray(value), name)
    if sp.issparse(value):
        return Operator(tuple(value.shape), value.dtype, value, None, True, name)
    if is_torch(value):
        return _torch_matrix(value, name)
    if hasattr(value, "aspreconditioner"):  # a PyAMG hierarchy
        return _classify(value.aspreconditioner(), name)
    if isinstance(value, LinearOperator):
        # SciPy's own wrapper of a matrix gives the matrix back.
        inner = getattr(value, "A", None)
        if type(value).__name__ == "MatrixLinearOperator" and (
            isinstance(inner, np.ndarray) or sp.issparse(inner)
        ):
            return _classify(inner, name)
        # matvec() checks and reshapes what as_answer() checks again; _matvec() is the documented hook behind it.
        plain = type(value).matvec is LinearOperator.matvec
        function = value._matvec if plain else value.matvec
        return Operator(tuple(value.shape), value.dtype, None, function, True, name)
    if hasattr(value, "shape") and hasattr(value, "matvec"):
        dtype = getattr(value, "dtype", None)
        shape = tuple(int(k) for k in value.shape)
        return Operator(
            shape, None if dtype is None else _numpy_dtype(dtype), None, value.matvec, False, name
        )
    if hasattr(value, "__dlpack__") and getattr(value, "ndim", 0) == 2:
        return _dense(view(value, name), name)
    if callable(value):
        return Operator(None, None, None, value, False, name)
    raise TypeError(
        f"{name} must be an array, a sparse array, a LinearOperator, an object with shape and matvec, or a "
        f"callable, not {type(value).__name__}"
    )


def _dense(matrix: np.ndarray[Any, Any], name: str) -> Operator:
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a square matrix, but its shape is {matrix.shape}")
    return Operator(tuple(matrix.shape), matrix.dtype, matrix, None, True, name)


def _torch_matrix(tensor: Any, name: str) -> Operator:
    layout = str(tensor.layout)
    if layout == "torch.strided":
        return _dense(view(tensor, name), name)
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is on device '{tensor.device}', and this build computes on the CPU"
        )
    if layout != "torch.sparse_csr":
        tensor = tensor.to_sparse_csr()
    parts = (tensor.values(), tensor.col_indices(), tensor.crow_indices())
    matrix = sp.csr_array(tuple(view(part, name) for part in parts), shape=tuple(tensor.shape))
    return Operator(matrix.shape, matrix.dtype, matrix, None, True, name)


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    named = str(dtype).startswith("torch.")
    numpy_dtype: np.dtype[Any] = np.dtype(str(dtype).removeprefix("torch.") if named else dtype)
    return numpy_dtype
