"""NumPy arrays within a state as tensors, which checkpoints can hold, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["arrays_of", "tensors_of"]

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
