"""The randomised Nystroem preconditioner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from krylov import _core
from krylov.arrays import common_dtype
from krylov.checks import integer
from krylov.operators import as_operator
from krylov.preconditioners.low_rank import LowRankPreconditioner
from krylov.preconditioners.products import products_of_columns
from krylov.preconditioners.small import inverse_root, spectral

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["NystromPreconditioner"]


class NystromPreconditioner(LowRankPreconditioner):
    """``M r = gamma r + V ((Theta + shift)^-1 - gamma) V^H r`` from a randomised low-rank approximation of A.

    Costs m products, made at once and in batches, and is stronger than what a run of m iterations can teach: worth it
    where several shifts or several right-hand sides share it.

    Parameters
    ----------
    A : as in `krylov.cg`, with a shape
        Hermitian positive semidefinite operator, without the shift.
    m : int
        Rank of the approximation, and products made.
    seed : int, optional
        Of the random test vectors; 0 by default, so that a repeated call gives the same M.
    shift : float
        M preconditions ``A + shift I``, from the same products. May be changed at any time.
    dtype : dtype, optional
        Of the vectors; that of A by default.

    Raises
    ------
    ValueError
        A has no shape or is not square, m is larger than it, or A is not positive semidefinite.

    References
    ----------
    Frangella, Tropp and Udell (2023), algorithms 2.1 and 5.2.
    """

    def __init__(
        self,
        A: Any,
        m: int,
        *,
        seed: int | None = None,
        shift: float = 0.0,
        dtype: DTypeLike | None = None,
    ) -> None:
        operator = as_operator(A, "A")
        if operator.shape is None:
            raise ValueError(
                "a callable A has no shape: wrap it as a scipy.sparse.linalg.LinearOperator"
            )
        n = operator.shape[0]
        self.m = integer(m, "m", 1)
        if self.m > n:
            raise ValueError(f"m = {m} is more than the {n} rows of A")
        own = np.dtype(np.float64) if operator.dtype is None else common_dtype(operator.dtype)
        super().__init__(n, own if dtype is None else dtype, None, shift, self.m, 2 * self.m)
        self.harvest = False
        tests = [self._columns.take() for _ in range(self.m)]
        images = [self._columns.take() for _ in range(self.m)]
        vector = np.empty(n, self.dtype)
        for j, column in enumerate(tests):
            # Streams of consecutive seeds are unrelated; every call has its own range of them.
            _core.fill_random(vector, (integer(seed or 0, "seed", 0) << 20) + j)
            self._columns.put(column, vector, 1 / float(np.linalg.norm(vector)))
        for column, product in zip(
            images, products_of_columns(A, self._columns, tests), strict=True
        ):
            if not np.isfinite(product).all():
                raise ValueError("A gives NaN or infinity")
            self._columns.put(column, product, 1.0)
        self._approximate(tests, images)

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Of the approximation of A, descending, without the shift."""
        return np.array(self._theta)

    def _approximate(self, tests: list[int], images: list[int]) -> None:
        """V and Theta with ``V Theta V^H = Y (Omega^H Y)^-1 Y^H`` for the images Y of the test vectors Omega."""
        both = self._columns.gram(tests + images, tests + images)
        m = self.m
        oo, oy, yy = both[:m, :m], both[:m, m:], both[m:, m:]
        # A little of the identity keeps the Cholesky factor real: Y + nu Omega
        nu = float(np.finfo(self.dtype).eps * np.sqrt(np.trace(yy).real))
        inner = (oy + oy.conj().T) / 2 + nu * oo
        try:
            factor = scipy.linalg.cholesky(inner + 0.0, lower=False)
        except scipy.linalg.LinAlgError:
            raise ValueError(
                "A is not positive semidefinite: a Nystroem preconditioner needs that it is"
            ) from None
        square = yy + nu * (oy + oy.conj().T) + nu * nu * oo
        inverse = scipy.linalg.solve_triangular(factor, np.eye(m, dtype=factor.dtype))
        values, w = scipy.linalg.eigh(inverse.conj().T @ square @ inverse)
        values, w = values[::-1], w[:, ::-1]
        kept = values > np.finfo(self.dtype).eps * max(values[0], 0)
        rotation = inverse @ w[:, kept] / np.sqrt(values[kept])
        targets = images[: int(kept.sum())]
        self._columns.rotate(tests + images, targets, np.vstack([nu * rotation, rotation]))
        self._kept = targets
        self._theta = np.maximum(values[kept] - nu, 0)
        self._root = inverse_root(self._columns.gram(targets, targets))

    def _small(self) -> tuple[list[int], float, NDArray[Any]]:
        if not self._kept:  # A is zero
            return [], 1.0, np.empty((0, 0))
        smallest = float(self._theta[-1])
        gamma = 1 / (self.shift + smallest) if self.shift + smallest > 0 else 1.0
        return self._kept, gamma, spectral(self._theta, self._root, self.shift, gamma)
