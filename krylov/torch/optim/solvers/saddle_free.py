"""The saddle-free Newton step where the spectrum is known (Dauphin et al. 2014)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ROUNDING", "saddle_free"]

#: Curvature below this part of the largest is rounding, by the digits of the vectors.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}


def saddle_free(t: Tensor, c: Tensor, damping: float, eps: float) -> tuple[Tensor, float]:
    """``y = -(|t| + lambda)^-1 c``, and the model ``c.y + y.(t + lambda) y / 2`` there.

    Parameters
    ----------
    t, c : Tensor of shape (k,)
        Eigenvalues of the curvature, and coordinates of the gradient in its eigenvectors; float64.
    damping : float
        lambda.
    eps : float
        Part of the largest |t| that none counts as smaller than.

    Returns
    -------
    (Tensor of shape (k,), float)
        Coordinates of the step and the value, which is negative unless the step is zero.
    """
    y = -c / (t.abs().clamp_min(eps * t.abs().max()) + damping)
    return y, float(c @ y + y @ ((t + damping) * y) / 2)
