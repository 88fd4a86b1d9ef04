"""Saved states: NumPy arrays as tensors, which checkpoints can hold, and back, bit for bit; damage by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["arrays_of", "entry", "reading", "saved_tensor", "tensors_of"]

_MARK = "numpy"


def tensors_of(state: Any) -> Any:
    """The state with each array as its bytes; torch has not all of NumPy's dtypes."""
    if isinstance(state, np.ndarray):
        values = np.ascontiguousarray(state)
        data = torch.from_numpy(values.reshape(-1).view(np.uint8).copy())
        return {_MARK: values.dtype.str, "shape": list(state.shape), "bytes": data}
    if isinstance(state, Mapping):
        return {key: tensors_of(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [tensors_of(value) for value in state]
    return state


def arrays_of(state: Any) -> Any:
    """The inverse of `tensors_of`."""
    if isinstance(state, Mapping):
        if state.keys() == {_MARK, "shape", "bytes"}:
            data = state["bytes"].cpu().numpy()
            return data.view(np.dtype(state[_MARK])).reshape(state["shape"]).copy()
        return {key: arrays_of(value) for key, value in state.items()}
    if isinstance(state, list):
        return [arrays_of(value) for value in state]
    return state


def entry(state: Mapping[str, Any], name: str, kind: type) -> Any:
    """One entry of a state.

    Raises
    ------
    ValueError
        It is missing, or is of another kind.
    """
    if name not in state:
        raise ValueError(f"the state has no {name}")
    value = state[name]
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} of the state must be a {kind.__name__.lower()}, not {type(value).__name__}"
        )
    return value


def saved_tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    """A tensor of a state.

    Raises
    ------
    ValueError
        It is no tensor of real numbers of this shape, or has entries that are not finite.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} of the state must be a tensor of real numbers, not {kind}")
    if value.shape != tuple(shape):
        raise ValueError(
            f"{name} of the state has shape {tuple(value.shape)}, but the parameters want {tuple(shape)}"
        )
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} of the state has entries that are NaN or infinite")
    return value


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Within: a state is read. What a damaged one gives rise to is a ValueError that says whose state it was."""
    try:
        yield
    except (LookupError, AttributeError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"the state of {name} does not fit: {error}") from error
