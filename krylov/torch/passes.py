"""Fused passes of the kernel table on torch tensors, in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from krylov import _core
from krylov.workspace import dtype_code

__all__ = ["run", "runs_on"]

_CODES = {
    torch.float32: dtype_code(np.dtype(np.float32)),
    torch.float64: dtype_code(np.dtype(np.float64)),
}
# Tensors of other classes (distributed, fake) need not have memory of their own.
_CLASSES = (Tensor, nn.Parameter)
_STORED = {
    row["name"]: [k for k in range(row["vectors"]) if row["stores"] >> k & 1]
    for row in _core.passes()
}


def runs_on(tensors: Sequence[Tensor]) -> bool:
    """Whether a pass may take these: contiguous memory of the CPU, one dtype, float32 or float64, and one size."""
    dtype, size = tensors[0].dtype, tensors[0].numel()
    if dtype not in _CODES:
        return False
    for tensor in tensors:
        if (
            type(tensor) not in _CLASSES
            or tensor.dtype != dtype
            or tensor.numel() != size
            or not (tensor.is_cpu and tensor.is_contiguous())
            # Memory that holds the negative, and memory that autograd could not be told about.
            or tensor.is_neg()
            or tensor.is_inference()
        ):
            return False
    return True


def run(name: str, groups: Sequence[Sequence[Tensor]], coefs: Sequence[float]) -> list[float]:
    """Run a pass in place on one group of tensors after the other, by the table in use.

    Parameters
    ----------
    name : str
        As in ``csrc/kernels/passes.hpp``.
    groups : sequence of sequences of Tensor
        The vectors of each call in order; `runs_on` holds for each group, and all are of one dtype.
    coefs : sequence of float
        Coefficients, the same for all.

    Returns
    -------
    list of float
        The sums, one group after the other.
    """
    if not groups:
        return []
    sums = _core.run_pass_at(
        _core.current_table(),
        name,
        _CODES[groups[0][0].dtype],
        [group[0].numel() for group in groups],
        [[tensor.data_ptr() for tensor in group] for group in groups],
        coefs,
    )
    for group in groups:
        for k in _STORED[name]:
            increment_version(group[k])
    return sums
