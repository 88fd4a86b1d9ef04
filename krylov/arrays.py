"""The boundary: what comes in as a vector, and in which form it goes out. Nothing else touches DLPack or strides.

Inside, every vector is a contiguous NumPy array. A vector of another library (a torch tensor, anything with DLPack) is
a second view of the same memory; no library is imported here that the caller has not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from krylov.workspace import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Exchange", "common_dtype", "is_torch", "view"]


def is_torch(value: Any) -> bool:
    """Whether this is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def view(value: Any, name: str) -> NDArray[Any]:
    """The numbers of `value` as a NumPy array: the same memory where there is any, else (lists, scalars) a new one.

    Raises
    ------
    TypeError
        The value lives on another device, is sparse or masked, or holds no numbers.
    """
    if type(value) is np.ndarray:
        array = value
    elif is_torch(value):
        array = _view_tensor(value.detach() if value.requires_grad else value, name)
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill it first")
    elif sp.issparse(value):
        raise TypeError(f"{name} is sparse, but a dense vector is needed: use .toarray()")
    elif hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        array = _import_dlpack(value, name)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise TypeError(f"{name} is no array of numbers: {error}") from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} has entries of dtype {array.dtype}, which are not numbers")
    return array


def _view_tensor(tensor: Any, name: str) -> NDArray[Any]:
    try:  # a tenth of the cost of DLPack; it refuses whatever is not plain CPU memory, lazy conjugates included
        array: NDArray[Any] = tensor.numpy()
        return array
    except (RuntimeError, TypeError):
        pass
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is on device '{tensor.device}', and this build computes on the CPU: move it with .cpu()"
        )
    if tensor.layout is not sys.modules["torch"].strided:
        raise TypeError(f"{name} is a sparse tensor, but a dense one is needed: use .to_dense()")
    return _import_dlpack(tensor.resolve_conj().resolve_neg(), name)


def _import_dlpack(value: Any, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} ({getattr(value, 'dtype', type(value).__name__)}) cannot be shared with NumPy: {error}"
        ) from error
    return array


def common_dtype(*dtypes: Any) -> np.dtype[Any]:
    """float32, float64, complex64 or complex128 that holds them all; as in SciPy everything else is float64."""
    dtype = np.result_type(*dtypes).newbyteorder("=")
    if dtype in DTYPES:
        return dtype
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def as_vector(array: NDArray[Any], n: int, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A contiguous vector of the dtype of the solve; a copy only where strides or dtype make one necessary."""
    if array.ndim not in (1, 2) or array.size != n or (array.ndim == 2 and array.shape[1] != 1):
        raise ValueError(
            f"{name} must have shape ({n},) or ({n}, 1), but its shape is {array.shape}"
        )
    refuse_complex(array.dtype, dtype, name)
    with np.errstate(over="ignore"):  # what overflows here is reported by its index
        return np.ascontiguousarray(array.reshape(n), dtype)


def refuse_complex(given: np.dtype[Any], dtype: np.dtype[Any], name: str) -> None:
    """Raise where an argument has imaginary parts that the solve would have to drop."""
    if given.kind == "c" and dtype.kind != "c":
        raise TypeError(
            f"{name} is {given}, but A and b are real ({dtype}): give b as complex128, or take the real part of {name}"
        )


def refuse_non_finite(vector: NDArray[Any], name: str) -> None:
    """Raise at the first NaN or infinity."""
    finite = np.isfinite(vector)
    if not finite.all():
        i = int(np.argmin(finite))
        raise ValueError(f"{name} contains {vector[i]} at index {i}; every entry must be finite")


class Exchange:
    """Carries vectors between the caller's library and NumPy views, for one right-hand side."""

    def __init__(self, like: Any) -> None:
        self._from_numpy = _importer(like)

    def outward(self, vector: NDArray[Any]) -> Any:
        """The same memory as the caller's kind of array."""
        return vector if self._from_numpy is None else self._from_numpy(vector)

    @property
    def foreign(self) -> bool:
        """Whether the caller's vectors are not NumPy arrays."""
        return self._from_numpy is not None


def _importer(like: Any) -> Callable[[Any], Any] | None:
    if isinstance(like, np.ndarray):
        return None
    if is_torch(like):
        from_dlpack: Callable[[Any], Any] = sys.modules["torch"].from_dlpack
        return from_dlpack
    if hasattr(like, "__dlpack__") and hasattr(like, "__array_namespace__"):
        from_dlpack = like.__array_namespace__().from_dlpack
        return from_dlpack
    return None


def mark_written(value: Any) -> None:
    """Tell torch's autograd that memory of this tensor was written behind its back."""
    if is_torch(value):
        sys.modules["torch"].autograd.graph.increment_version(value)


def as_answer(
    value: Any, n: int, dtype: np.dtype[Any], who: str, *, narrow: bool = False
) -> NDArray[Any]:
    """What an operator returned as a contiguous vector of the run's dtype.

    Widening (float32 to float64, real to complex) is exact and done. Narrowing would lose digits: it is refused, or
    with `narrow` done within real or complex, as a preconditioner need not be exact.
    """
    if value is None:
        raise TypeError(f"{who} returned None; it must return the product")
    array = view(value, f"what {who} returned")
    if array.size != n or array.ndim > 2 or (array.ndim == 2 and 1 not in array.shape):
        raise ValueError(f"{who} returned shape {array.shape}, but ({n},) is needed")
    if array.dtype != dtype and not _holds(dtype, array.dtype, narrow):
        raise TypeError(
            f"{who} returned {array.dtype}, which does not fit into the {dtype} of this solve: give b as "
            f"{common_dtype(array.dtype, dtype)}, or let the operator return {dtype}"
        )
    return np.ascontiguousarray(array, dtype=dtype).reshape(n)


def _holds(target: np.dtype[Any], given: np.dtype[Any], narrow: bool) -> bool:
    if given.kind in "biu" or given.itemsize > 8 * (1 + (given.kind == "c")):
        return given.kind != "c" or target.kind == "c"
    return np.can_cast(given, target, "same_kind" if narrow else "safe")
