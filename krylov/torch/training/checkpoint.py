"""A run on disk, replaced in one stroke: whatever happens, the file there is a whole one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "replace_file",
    "save_checkpoint",
]

_FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says which, why, and what to do."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state beside the file, to the disk itself, and put it in its place.

    Raises
    ------
    CheckpointError
        It cannot be written, for a full disk as an example; the file that was there is intact.
    TypeError
        The state holds something that `torch.load` with ``weights_only=True`` would not read again.
    """
    _check_plain(state, "state")
    with replace_file(path) as part:
        torch.save({"format": _FORMAT, **state}, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state back, its tensors on the CPU; nothing in the file is executed.

    Raises
    ------
    CheckpointError
        It is missing, or not a checkpoint of this version.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds, by torch and by pickle
            first = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{path}: not a checkpoint, or a damaged one ({type(error).__name__}: {first}); begin anew"
            ) from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint that this version of krylov reads; begin anew"
        )
    return state


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a new file beside the old one; at the end it takes its place, unless anything failed.

    The new file always has the same name, so that one that a killed process left behind is overwritten.

    Raises
    ------
    CheckpointError
        It cannot be written; the old file is intact.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        _to_disk(part)
        os.replace(part, path)
        _to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        with suppress(OSError):
            part.unlink()
        first = str(error).partition("\n")[0]
        why = getattr(error, "strerror", None) or f"is the disk full? torch says: {first}"
        kept = "; what was there before is intact" if path.exists() else ""
        raise CheckpointError(f"{path}: cannot be written ({why}){kept}") from error


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for k, item in enumerate(value):
            _check_plain(item, f"{where}[{k}]")
    elif not (value is None or isinstance(value, (Tensor, bool, int, float, complex, str))):
        raise TypeError(
            f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: state_dict() must be made of "
            "tensors, numbers, strings, lists and dictionaries"
        )
    elif isinstance(value, np.generic):  # np.float64 is a float, but is not read back as one
        raise TypeError(f"{where} is a NumPy scalar: convert it with .item()")
