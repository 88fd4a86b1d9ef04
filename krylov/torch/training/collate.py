"""A map-style dataset as two tensors: each item is read once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from krylov.torch.memory import available_bytes

__all__ = ["collate"]

_PARTS = ("inputs", "targets")


def collate(dataset: Any, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all items, put together as a ``DataLoader`` does.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are pairs of tensors, arrays or numbers, all of one shape and dtype.
    name : str
        For messages.

    Raises
    ------
    TypeError
        It has no length, or its items are no pairs of numbers.
    ValueError
        It is empty, or its items differ in shape or dtype.
    RuntimeError
        There is no room for all of them.
    """
    try:
        count = len(dataset)
    except (TypeError, NotImplementedError):
        raise TypeError(
            f"{name}: {type(dataset).__name__} has no length: give it __len__, or give a pair of tensors"
        ) from None
    if not count:
        raise ValueError(f"{name}: there are no samples, the dataset is empty")
    with torch.no_grad():
        first = _item(dataset, 0, name)
        _check_room(first, count, name)
        rows = [torch.empty((count, *part.shape), dtype=part.dtype) for part in first]
        for i in range(count):
            item = first if i == 0 else _item(dataset, i, name)
            for words, row, like, part in zip(_PARTS, rows, first, item, strict=True):
                if part.shape != like.shape or part.dtype != like.dtype:
                    raise ValueError(
                        f"{name}: the {words} of item {i} are {_words(part)}, those of item 0 {_words(like)}: bring "
                        "all items to one shape and dtype (resize, pad or crop them in the dataset)"
                    )
                row[i] = part
    return rows[0], rows[1]


def _item(dataset: Any, index: int, name: str) -> list[Tensor]:
    item = dataset[index]
    parts: list[Any] = []
    if isinstance(item, tuple | list) and len(item) == 2:
        try:
            parts = [default_collate([part]) for part in item]
        except TypeError:  # of what it cannot put together
            parts = []
    if not all(isinstance(part, Tensor) for part in parts) or not parts:
        held = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise TypeError(
            f"{name}: item {index} must be a pair (inputs, targets) of tensors, arrays or numbers, got a "
            f"{type(item).__name__}{held}"
        )
    return [part[0] for part in parts]


def _check_room(item: list[Tensor], count: int, name: str) -> None:
    needed = count * sum(part.numel() * part.element_size() for part in item)
    room = available_bytes(torch.device("cpu"))
    if needed > room:
        raise RuntimeError(
            f"{name}: its {count} items would need {needed / 2**30:.1f} GiB as tensors, and {room / 2**30:.1f} GiB are "
            "free: give a torch.utils.data.Subset of it"
        )


def _words(part: Tensor) -> str:
    return f"{tuple(part.shape)} of {str(part.dtype).removeprefix('torch.')}"
