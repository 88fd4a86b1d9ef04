"""torch's sparse tensors as SciPy's sparse arrays, on the same memory where the layouts agree."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from krylov.arrays import view

__all__ = ["as_sparse_array"]


def as_sparse_array(tensor: Any, name: str) -> Any:
    """The matrix that a sparse tensor holds.

    Parameters
    ----------
    tensor : Tensor
        On the CPU, of any layout but strided; it is read without its graph.
    name : str
        How messages call it.

    Returns
    -------
    sparse array
        CSR, CSC or COO for the tensor's layout; BSR for those in blocks.

    Raises
    ------
    TypeError
        The tensor has another layout, or its entries are no numbers but vectors (hybrid tensors).
    ValueError
        It is a vector, or a batch of matrices, or its indices do not fit.
    """
    tensor = tensor.detach()
    layout = str(tensor.layout)
    if layout not in _PARTS and layout != "torch.sparse_coo":
        raise TypeError(f"{name} has the layout {layout}: convert it with .to_dense()")
    shape = tuple(tensor.shape)
    if tensor.dense_dim() > 0:
        raise TypeError(
            f"{name} is a hybrid sparse tensor, whose entries are vectors: they must be numbers"
        )
    if len(shape) != 2:
        raise ValueError(f"{name} must be a square matrix, but its shape is {shape}")
    try:
        if layout == "torch.sparse_coo":
            return _from_entries(tensor.coalesce(), name)
        return _from_compressed(tensor, layout, name)
    except ValueError as error:
        raise ValueError(f"{name} is no valid {layout} tensor: {error}") from error


def _from_entries(tensor: Any, name: str) -> Any:
    rows, columns = view(tensor.indices(), name)
    return sp.coo_array((view(tensor.values(), name), (rows, columns)), shape=tuple(tensor.shape))


def _from_compressed(tensor: Any, layout: str, name: str) -> Any:
    make, inner, outer = _PARTS[layout]
    values = view(tensor.values(), name)
    indices, pointers = (view(getattr(tensor, part)(), name) for part in (inner, outer))
    shape, by_columns = tuple(tensor.shape), layout == "torch.sparse_bsc"
    if by_columns:  # SciPy has no such layout, but that of its transpose
        shape, values = shape[::-1], values.swapaxes(1, 2)
    matrix = make((values, indices, pointers), shape=shape)
    if matrix.format != "csr":  # whose indices are checked where they are used
        matrix.check_format()
    return matrix.T if by_columns else matrix


# What SciPy calls a layout, and torch its indices and pointers.
_ROWS, _COLUMNS = ("col_indices", "crow_indices"), ("row_indices", "ccol_indices")
_PARTS = {
    "torch.sparse_csr": (sp.csr_array, *_ROWS),
    "torch.sparse_csc": (sp.csc_array, *_COLUMNS),
    "torch.sparse_bsr": (sp.bsr_array, *_ROWS),
    "torch.sparse_bsc": (sp.bsr_array, *_COLUMNS),
}
