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
from krylov.preconditioners.spectral import SpectralPreconditioner

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["NystromPreconditioner"]


class NystromPreconditioner(SpectralPreconditioner):
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
        first = integer(0 if seed is None else seed, "seed", 0)
        if first >= 1 << 44:
            raise ValueError(f"seed must be below 2**44, got {seed}")
        tests = [self._columns.take() for _ in range(self.m)]
        images = [self._columns.take() for _ in range(self.m)]
        vector = np.empty(n, self.dtype)
        for j, column in enumerate(tests):
            # Streams of consecutive seeds are unrelated; every call has its own range of them.
            _core.fill_random(vector, (first << 20) + j)
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
        columns, m = self._columns, self.m
        oo, oy = columns.gram(tests, tests), columns.gram(tests, images)
        size = float(np.sqrt(np.trace(columns.gram(images, images)).real))
        self._forget()
        if size == 0:  # A is zero
            return
        factor, nu = self._factor(oo, (oy + oy.conj().T) / 2, size)
        columns.rotate(tests + images, images, np.vstack([nu * np.eye(m), np.eye(m)]))
        # Y = Q R, and R C^-1 = U Sigma W^H: the small values of Y C^-1 would be lost in inner products of Y.
        r = self._orthonormalise(images)
        u, sigma, _ = scipy.linalg.svd(
            scipy.linalg.solve_triangular(factor, r.conj().T, trans="C").conj().T
        )
        theta = sigma**2 - nu
        kept = int(np.sum(theta > nu))
        targets = images[:kept]
        columns.rotate(images, targets, u[:, :kept])
        self._kept, self._theta = targets, theta[:kept]
        self._discarded = float(theta[-1]) if kept == m else 0.0
        self._root = inverse_root(columns.gram(targets, targets))

    def _factor(
        self, oo: NDArray[Any], inner: NDArray[Any], size: float
    ) -> tuple[NDArray[Any], float]:
        """Cholesky factor of ``Omega^H (A + nu I) Omega``, with a nu at the level of the rounding errors of A Omega."""
        nu = float(np.finfo(self.dtype).eps * size)
        for factor in (1, 10, 100):
            try:
                return scipy.linalg.cholesky(inner + factor * nu * oo), factor * nu
            except scipy.linalg.LinAlgError:
                continue
        raise ValueError(
            "A is not positive semidefinite: a Nystroem preconditioner needs that it is"
        )

    def _orthonormalise(self, columns: list[int]) -> NDArray[Any]:
        """Columns Y become Q with Y = Q R; returns R. Dependent ones become whatever rounding makes of them.

        Three times SVQB (Stathopoulos and Wu 2002), as its inner products know only half of the digits.
        """
        r = np.eye(len(columns))
        for _ in range(3):
            values, vectors = scipy.linalg.eigh(self._columns.gram(columns, columns))
            scale = np.sqrt(np.maximum(values, np.finfo(np.float64).eps * max(values[-1], 0)))
            scale[scale == 0] = 1
            self._columns.rotate(columns, columns, vectors / scale)
            r = (vectors * scale).conj().T @ r
        return r

    # Saving; see `Restorable`. What has been restored made no products, and keeps no room for them.

    _kind = "nystrom"

    def _changing(self) -> dict[str, Any]:
        return {"shift": self.shift, **self._spectrum(), **self._columns.state(self._kept)}

    def _restore(self, saved: Saved) -> None:
        self.m, self.harvest = saved.integer("m", 1), False
        n, dtype, storage, shift = (saved[name] for name in ("n", "dtype", "storage", "shift"))
        LowRankPreconditioner.__init__(self, n, dtype, storage, shift, self.m, self.m)
        self._kept = self._columns.restore(saved, self._restore_spectrum(saved))

    def _small(self) -> tuple[list[int], float, NDArray[Any]]:
        known = self.shift + self._discarded
        if known <= 0:
            known = float(self._theta[-1]) if self._kept else 1.0
        return self._kept, 1 / known, spectral(self._theta, self._root, self.shift, 1 / known)
