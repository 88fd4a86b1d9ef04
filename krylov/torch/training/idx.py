"""MNIST's file format: a header, then bytes; gzipped or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from krylov.torch.training.files import read_bytes

__all__ = ["find_idx", "read_idx"]

_BYTES = 8  # the code of unsigned bytes, the only element type that MNIST and its relatives use


def find_idx(folder: Path, name: str) -> Path:
    """Find the file of that name in a folder, gzipped or not.

    Raises
    ------
    ValueError
        It is not there.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(
        f"{folder}: no {name} or {name}.gz there; give the folder that holds MNIST's four idx files"
    )


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an array of so many dimensions.

    Raises
    ------
    ValueError
        The file is not what its name says; the message says how.
    """
    content = read_bytes(path)
    head = 4 + 4 * dimensions
    if len(content) < head:
        raise ValueError(f"{path}: truncated, only {len(content)} bytes; fetch it again")
    if content[:4] != bytes((0, 0, _BYTES, dimensions)):
        raise ValueError(
            f"{path}: not an idx file of bytes in {dimensions} dimensions (it begins with {content[:4].hex(' ')})"
        )
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    wanted = head + int(np.prod(shape, dtype=object))
    if len(content) != wanted:
        what = "truncated" if len(content) < wanted else "too long"
        raise ValueError(
            f"{path}: {what}, {len(content)} bytes where the header announces {wanted}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
