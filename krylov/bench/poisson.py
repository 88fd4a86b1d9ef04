"""The system of the whole-solve benchmarks: the 2-D Poisson equation, 5-point differences, on a square grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["poisson", "right_hand_side"]


def poisson(side: int) -> Any:
    """Matrix in CSR with 32-bit indices, of ``side * side`` unknowns."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    one = sp.eye_array(side)
    matrix = sp.csr_array(sp.kron(line, one) + sp.kron(one, line))
    matrix.sort_indices()
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix


def right_hand_side(n: int) -> NDArray[np.float64]:
    """A normal random vector, the same on every machine."""
    return np.random.default_rng(2).standard_normal(n)
