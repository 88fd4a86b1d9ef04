"""What panels of columns hold and what the operations on them give, in NumPy."""

from __future__ import annotations

import numpy as np

from krylov import _core
from krylov.workspace import DTYPES

GUARD = 64  # bytes around every column
REALS = {"float64": np.dtype("f8"), "float32": np.dtype("f4"), "bfloat16": np.dtype("u2")}
# Relative rounding error of a stored real number.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}


def storages(dtype):
    """Those that vectors of this dtype may have."""
    return list(REALS)[1 if np.dtype(dtype) in (np.dtype("f4"), np.dtype("c8")) else 0 :]


# Every dtype with every storage that fits it.
KINDS = [(dtype, storage) for dtype in DTYPES for storage in storages(dtype)]


def wide(array):
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def bfloat16_bits(values):
    """float32 numbers rounded to the nearest bfloat16, ties to the even one."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def encode(values, storage):
    """A vector as a column keeps it: its real numbers in the storage."""
    reals = wide(np.ascontiguousarray(values)).view(np.float64)
    if storage == "bfloat16":
        return bfloat16_bits(reals.astype(np.float32))
    return reals.astype(REALS[storage])


def decode(reals, storage, dtype):
    """A column as a vector in double precision."""
    values = (from_bfloat16(reals) if storage == "bfloat16" else reals).astype(np.float64)
    return values.view(np.complex128) if np.dtype(dtype).kind == "c" else values


def rounded(vector, storage):
    """A vector after it has been a column."""
    return decode(encode(vector, storage), storage, vector.dtype)


_NUMBERS = np.random.default_rng(0).standard_normal(200_003)


def random(seed, n, dtype):
    """Random numbers, cheap: a piece of one long list."""
    reals = n * (2 if dtype.kind == "c" else 1)
    start = seed * 7919 % (_NUMBERS.size - reals)
    return _NUMBERS[start : start + reals].astype(dtype.type(0).real.dtype).view(dtype)


class GuardedPanel:
    """A panel of random columns in larger buffers, each starting `offset` reals beyond an aligned address."""

    def __init__(self, n, dtype, storage, count, offset=0, seed=0):
        self.n, self.dtype, self.storage = n, dtype, storage
        real = REALS[storage]
        self.bytes = n * (2 if dtype.kind == "c" else 1) * real.itemsize
        start = GUARD + offset * real.itemsize
        self.place = slice(start, start + self.bytes)
        self.buffers = []
        for k in range(count):
            memory = np.empty(2 * GUARD + start + self.bytes, np.uint8)
            memory = memory[-memory.ctypes.data % 64 :][: GUARD + start + self.bytes]
            memory[:] = 171
            memory[self.place] = encode(random(seed + k, n, dtype), storage).view(np.uint8)
            self.buffers.append(memory)
        self.before = [memory.copy() for memory in self.buffers]
        columns = [memory[self.place] for memory in self.buffers]
        self.panel = _core.Panel(n, DTYPES.index(dtype), storage, columns)

    def reals(self, k):
        return self.buffers[k][self.place].view(REALS[self.storage])

    def matrix(self, columns):
        """Columns side by side, in double precision."""
        kind = np.complex128 if self.dtype.kind == "c" else np.float64
        matrix = np.empty((self.n, len(columns)), kind)
        for j, k in enumerate(columns):
            matrix[:, j] = decode(self.reals(k), self.storage, self.dtype)
        return matrix

    def assert_untouched(self, but=()):
        """Nothing has been written outside these columns."""
        for k, (now, before) in enumerate(zip(self.buffers, self.before, strict=True)):
            now = now.copy()
            if k in but:
                now[self.place] = before[self.place]
            assert now.tobytes() == before.tobytes(), f"around column {k}"
