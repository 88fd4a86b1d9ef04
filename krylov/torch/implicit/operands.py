"""What A is, and whether it fits b."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from krylov.arrays import common_dtype
from krylov.operators import as_operator
from krylov.torch.implicit.linear_map import (
    ConstantMap,
    DenseMap,
    FunctionMap,
    LinearMap,
    SparseMap,
)

__all__ = ["as_linear_map", "refuse_unfit_matrix"]

_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


def as_linear_map(value: Any, like: Tensor, name: str) -> LinearMap:
    """Classify an operator for vectors like `like`, of shape (n,).

    Raises
    ------
    TypeError
        No product can be formed with this object; its dtype or device is not that of the vectors.
    ValueError
        It is not square, or has another size.
    """
    if isinstance(value, Tensor):
        refuse_unfit_matrix(value, like, name)
        if value.dtype != like.dtype:
            raise TypeError(
                f"{name} is {value.dtype} and b is {like.dtype}: convert one of them with .to()"
            )
        if value.layout is torch.strided:
            return DenseMap(value)
        if value.requires_grad and value.layout is torch.sparse_csc:
            raise TypeError(
                f"{name} is {value.layout} and requires grad: convert it with .to_sparse()"
            )
        return SparseMap(value)
    if isinstance(value, np.ndarray | LinearOperator) or sp.issparse(value):
        _refuse_unfit(value.shape, value.dtype, torch.device("cpu"), like, name)
        return ConstantMap(value, name)
    if hasattr(value, "shape") and hasattr(value, "matvec"):
        device = getattr(value, "device", like.device)
        _refuse_unfit(value.shape, getattr(value, "dtype", None), device, like, name)
        return FunctionMap(value.matvec, like, name, getattr(value, "rmatvec", None))
    if callable(value):
        return FunctionMap(value, like, name)
    as_operator(value, name)  # the core's message
    return ConstantMap(value, name)


def refuse_unfit_matrix(matrix: Tensor, like: Tensor, name: str) -> None:
    """Raise where a tensor is no matrix for these vectors, whatever its precision."""
    _refuse_unfit(matrix.shape, None, matrix.device, like, name)
    if matrix.layout in (torch.sparse_bsr, torch.sparse_bsc):
        raise TypeError(f"{name} is {matrix.layout}: convert it with .to_sparse()")
    if matrix.layout not in _LAYOUTS:
        raise TypeError(f"{name} is {matrix.layout}: convert it with .to_dense()")
    if matrix.layout is not torch.strided and matrix.dense_dim() > 0:
        raise TypeError(f"{name} is a hybrid sparse tensor: its entries must be numbers")


def _refuse_unfit(shape: Any, dtype: Any, device: Any, like: Tensor, name: str) -> None:
    shape, n = tuple(int(k) for k in shape), like.shape[0]
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{name} must be a square matrix, but its shape is {shape}")
    if shape[0] != n:
        raise ValueError(f"{name} has shape {shape}, but b has {n} rows")
    if torch.device(device).type != like.device.type:
        raise TypeError(
            f"{name} is on device '{device}' and b on '{like.device}': move one of them with .to()"
        )
    if dtype is None:
        return
    wanted = _numpy_dtype(like.dtype)
    try:
        fits = common_dtype(_numpy_dtype(dtype), wanted) == wanted
    except TypeError:  # bfloat16 and the like, which NumPy does not know
        fits = False
    if not fits:
        raise TypeError(
            f"{name} is {dtype}, which does not fit into the {like.dtype} of b: give b in that dtype, or convert {name}"
        )


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    named: np.dtype[Any] = np.dtype(
        str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    )
    return named
