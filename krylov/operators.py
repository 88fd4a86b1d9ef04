"""What a solver needs of A and M, from whatever the caller has: matrix, LinearOperator, duck object, callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from krylov import _core
from krylov.arrays import Exchange, as_answer, is_torch, refuse_complex, view
from krylov.sparse_tensors import as_sparse_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BoundOperator", "Multiplier", "Operator", "as_operator"]

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

    def bind(
        self, n: int, dtype: np.dtype[Any], exchange: Exchange, *, narrow: bool = False
    ) -> BoundOperator:
        """The operator for vectors of this size and dtype; `narrow` allows it less precision than theirs.

        Raises
        ------
        TypeError
            It is complex, and the vectors are real.
        ValueError
            It has another size, or a sparse matrix is corrupt.
        """
        if self.shape is not None and self.shape[0] != n:
            raise ValueError(f"shapes of {self.name} {self.shape} and b ({n},) are incompatible")
        name = self.name

        def convert(answer: Any) -> NDArray[Any]:
            return as_answer(answer, n, dtype, name, narrow=narrow)

        if self.matrix is None:
            assert self.function is not None
            foreign = exchange.foreign and not self.native
            multiply = _outward(self.function, exchange) if foreign else _inward(self.function)
            return BoundOperator(multiply, convert, None)
        refuse_complex(self.matrix.dtype, dtype, name)
        if sp.issparse(self.matrix):
            csr = _csr(self.matrix, dtype)
            return BoundOperator(_sparse_multiplier(csr), convert, csr)
        return BoundOperator(
            _dense_multiplier(np.ascontiguousarray(self.matrix, dtype)), convert, None
        )


@dataclass(frozen=True)
class BoundOperator:
    """An operator for vectors of one size and dtype.

    Attributes
    ----------
    multiply : callable
        The product as the drive loop asks for it.
    convert : callable
        Turns an unusual answer into a plain vector, or says what is wrong with it.
    csr : _core.CsrMatrix or None
        The matrix, where C++ can form the product.
    """

    multiply: Multiplier
    convert: Callable[[Any], NDArray[Any]]
    csr: _core.CsrMatrix | None

    def __call__(self, vector: NDArray[Any]) -> NDArray[Any]:
        return self.convert(self.multiply(vector, np.empty_like(vector)))


def _inward(function: Callable[[Any], Any]) -> Multiplier:
    return lambda source, _: function(source)


def _outward(function: Callable[[Any], Any], exchange: Exchange) -> Multiplier:
    # The latest source in the caller's library: most solvers multiply one vector of the workspace.
    latest: list[Any] = [None, None]

    def multiply(source: Any, _: Any) -> Any:
        if latest[0] is not source:
            latest[:] = source, exchange.outward(source)
        return function(latest[1])

    return multiply


def _dense_multiplier(matrix: NDArray[Any]) -> Multiplier:
    def multiply(source: Any, target: Any) -> Any:
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # the recurrence reports what is not finite
            return np.dot(matrix, source, out=target)

    return multiply


def _sparse_multiplier(matrix: _core.CsrMatrix) -> Multiplier:
    def multiply(source: Any, target: Any) -> Any:
        matrix.multiply(source, target)
        return target

    return multiply


def _csr(matrix: Any, dtype: np.dtype[Any]) -> _core.CsrMatrix:
    csr = matrix.tocsr()
    same = csr.indices.dtype == csr.indptr.dtype and csr.indices.dtype in (np.int32, np.int64)
    index = csr.indices.dtype if same else np.dtype(np.int64)
    return _core.CsrMatrix(
        csr.shape[1],
        np.ascontiguousarray(csr.indptr, index),
        np.ascontiguousarray(csr.indices, index),
        np.ascontiguousarray(csr.data, dtype),
    )


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
    if operator.dtype is not None and operator.dtype.kind not in "biufc":
        raise TypeError(f"{name} has entries of dtype {operator.dtype}, which are not numbers")
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


def _dense(matrix: NDArray[Any], name: str) -> Operator:
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a square matrix, but its shape is {matrix.shape}")
    return Operator(tuple(matrix.shape), matrix.dtype, matrix, None, True, name)


def _torch_matrix(tensor: Any, name: str) -> Operator:
    if str(tensor.layout) == "torch.strided":
        return _dense(view(tensor, name), name)
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is on device '{tensor.device}', and this build computes on the CPU"
        )
    matrix = as_sparse_array(tensor, name)
    return Operator(matrix.shape, matrix.dtype, matrix, None, True, name)


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    named = str(dtype).startswith("torch.")
    numpy_dtype: np.dtype[Any] = np.dtype(str(dtype).removeprefix("torch.") if named else dtype)
    return numpy_dtype
