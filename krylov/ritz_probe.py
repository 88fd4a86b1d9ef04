"""The lowest Ritz value and vector of a few Lanczos steps: where curvature is negative, if anywhere.

No Krylov method that starts from the gradient sees a direction which the gradient has no part in. A few steps of
Lanczos' method from a random vector do, almost surely: after k of them the lowest Ritz value of n is within
``eps (lambda_max - lambda_min)`` of lambda_min but for a probability of ``1.65 sqrt(n) exp(-(2 k - 1) sqrt(eps))``
(Kuczynski and Wozniakowski 1992).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator

from krylov.spectrum import lanczos

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LowestRitz", "lowest_ritz"]


@dataclass(frozen=True)
class LowestRitz:
    """The lowest Ritz value, its unit vector and residual, and the largest Ritz value in size."""

    value: float
    vector: NDArray[Any]
    residual: float
    scale: float


def lowest_ritz(operator: LinearOperator, start: NDArray[Any], steps: int) -> LowestRitz | None:
    """Lanczos' method from `start`; its basis is what it asks products of. None where a product is not finite."""
    basis: list[NDArray[Any]] = []

    def multiply(v: NDArray[Any]) -> NDArray[Any]:
        basis.append(v / np.linalg.norm(v))
        return np.asarray(operator.matvec(v))

    listening = LinearOperator(operator.shape, matvec=multiply, dtype=start.dtype)
    try:
        result = lanczos(listening, steps, start)
    except ValueError:
        if basis and not np.isfinite(operator.matvec(basis[-1])).all():
            return None
        raise
    _, vectors = scipy.linalg.eigh_tridiagonal(result.alpha, result.beta[:-1])
    vector = np.asarray(sum(c * v for c, v in zip(vectors[:, 0], basis, strict=False)))
    values = result.ritz_values
    return LowestRitz(
        float(values[0]),
        vector / np.linalg.norm(vector),
        float(result.residuals[0]),
        float(np.abs(values).max()),
    )
