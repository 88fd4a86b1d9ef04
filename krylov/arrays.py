"""The boundary: what comes in as a vector, and in which form it goes out. Nothing else touches DLPack or strides.

Inside, every vector is a contiguous NumPy array. A vector of another library (a torch tensor, anything with DLPack) is
a second view of the same memory; no library is imported here that the caller has not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov.workspace import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Exchange", "common_dtype", "is_torch", "view"]


def is_torch(value: Any) -> bool:
    """Whether this is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def view(value: Any, name: str) -> NDArray[Any]:
    """The same memory as a NumPy array; raises where there is no such view.

    Raises
    ------
    TypeError
        The value lives on another device, is sparse, or is no array at all.
    """
    if isinstance(value, np.ndarray):
        return value
    if is_torch(value):
        value = value.detach()
        if value.device.type != "cpu":
            raise TypeError(
                f"{name} is on device '{value.device}', and this build computes on the CPU: move it with .cpu()"
            )
        if value.layout is not sys.modules["torch"].strided:
            raise TypeError(f"{name} is a sparse tensor; a dense vector is needed")
        return np.from_dlpack(value.resolve_conj().resolve_neg())
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, ValueError) as error:
            raise TypeError(f"{name} cannot be shared with the CPU: {error}") from error
    return np.asarray(value)


def common_dtype(*dtypes: Any) -> np.dtype[Any]:
    """float32, float64, complex64 or complex128 that holds them all; as in SciPy everything else is float64."""
    dtype = np.result_type(*dtypes)
    if dtype in DTYPES:
        return dtype.newbyteorder("=")
    if dtype.kind in "biufc":
        return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
    raise TypeError(f"entries of dtype {dtype} are not numbers")


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
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{who} returned entries of dtype {array.dtype}, which are not numbers")
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
