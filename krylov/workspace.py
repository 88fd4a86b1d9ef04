"""Memory of a solve, allocated once and reused."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from krylov import _core
from krylov.checks import integer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Workspace"]

# Vectors with equal low address bits compete for the same cache sets: a few lines between them keep a fused pass twice
# as fast (4K aliasing).
_PAGE = 4096
_STAGGER = 5 * 64

DTYPES = (np.dtype("f4"), np.dtype("f8"), np.dtype("c8"), np.dtype("c16"))
_METHODS = ("cg", "flexible_cg", "bicgstab", "neumann")
# Slots that hold the caller's vectors.
_FOREIGN = frozenset({"b", "x", "diag"})


def dtype_code(dtype: np.dtype[Any]) -> int:
    """Number of a dtype in the native core."""
    return DTYPES.index(dtype)


class Workspace:
    """Vectors of one solver for systems of one size and dtype, reused from solve to solve.

    Parameters
    ----------
    method : {"cg", "flexible_cg", "bicgstab", "neumann"}
        The solver.
    n : int
        Number of unknowns.
    dtype : dtype
        float32, float64, complex64 or complex128.
    device : {"cpu"}
        Where the vectors live.

    Notes
    -----
    A workspace serves one solve at a time; a second one that starts inside or beside it is refused. Without
    ``workspace=`` every solve allocates its own.
    """

    def __init__(
        self, method: str, n: int, dtype: DTypeLike = np.float64, device: str = "cpu"
    ) -> None:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        self.method = method
        self.n = integer(n, "n", 0)
        self.dtype = np.dtype(dtype)
        self.device = device
        if device != "cpu":
            raise ValueError(f"device {device!r} is not available: this build computes on 'cpu'")
        if self.dtype not in DTYPES:
            raise TypeError(
                f"dtype must be one of float32, float64, complex64, complex128, got {self.dtype}"
            )
        own = [name for name in _slots(method) if name not in _FOREIGN]
        self.vectors = dict(zip(own, staggered(len(own), self.n, self.dtype), strict=True))
        self._lock = threading.Lock()

    def acquire(self, method: str, n: int, dtype: np.dtype[Any]) -> None:
        """Reserve for one solve; raises if it does not fit or is in use."""
        if (method, n, dtype) != (self.method, self.n, self.dtype):
            raise ValueError(
                f"workspace is for {self.method}, n = {self.n}, {self.dtype}; this solve is {method}, "
                f"n = {n}, {dtype}"
            )
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "workspace is in use by another solve; give each concurrent or nested solve its own"
            )

    def release(self) -> None:
        """End the reservation."""
        self._lock.release()

    def __repr__(self) -> str:
        return f"Workspace({self.method!r}, {self.n}, {self.dtype.name!r}, {self.device!r})"


@cache
def _slots(method: str) -> tuple[str, ...]:
    return tuple(_core.slots(method))


def staggered(count: int, n: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
    """Vectors of one allocation, a few cache lines apart modulo the page size."""
    stride = -(-n * dtype.itemsize // _PAGE) * _PAGE + _STAGGER
    memory = np.empty(count * stride + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return [memory[start + k * stride :][: n * dtype.itemsize].view(dtype) for k in range(count)]
