"""The spectral preconditioner from approximate eigenvectors that a run yields on its way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from krylov.checks import integer
from krylov.preconditioners.columns import norm_of
from krylov.preconditioners.products import products_of_columns
from krylov.preconditioners.small import inverse_root, merged_model, orthonormal, spectral
from krylov.preconditioners.spectral import SpectralPreconditioner

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["RitzPreconditioner"]

# Of the dimensions that a window adds, this share counts as converged enough to be kept: the tail of a short run is
# not.
_CONVERGED = 0.67
# The model of A outside the old vectors is ``shift + _OUTSIDE * (first discarded value)``.
_OUTSIDE = 0.1


class RitzPreconditioner(SpectralPreconditioner):
    """``M r = gamma r + V ((Theta + shift)^-1 - gamma) V^H r`` with the m leading Ritz vectors V of earlier runs.

    gamma is ``1 / (shift + first discarded Ritz value)``: the part of the spectrum that V does not know is left as it
    is.

    Parameters
    ----------
    n : int
        Number of unknowns.
    m : int
        Vectors kept.
    window : int, optional
        Directions of a run that are collected before they are merged into the m best; m by default. Memory is bounded
        by 2 m + window columns however long the runs are.
    dtype : dtype
        Of the vectors: float32, float64, complex64 or complex128.
    storage : {None, "float64", "float32", "bfloat16"}
        Of the columns; None is the precision of the vectors. M is orthonormalised through the inner products of the
        rounded columns, so it stays positive definite.
    shift : float
        M preconditions ``A + shift I``, exactly as well for every shift. May be changed at any time.
    harvest : bool
        Whether `cg` and `flexible_cg` feed it the directions of their runs, for the next run.
    carry : bool
        Whether the next vectors come from the old ones and the run together. A preconditioned run no longer sees what
        its preconditioner has removed: without carrying, every other preconditioner is useless.

    Notes
    -----
    2 m + 3 vector reads and writes for M r, 2 m + 10 for a whole fused iteration; harvesting costs about as much again,
    for inner products and merges. No products are kept: the old vectors are corrected by one block BFGS update of the
    model that they stand for, from inner products with the measured products of the new directions.

    References
    ----------
    Stathopoulos and Orginos (2010) for the window; Carpentieri, Duff and Giraud (2003) for the form of M.
    """

    def __init__(
        self,
        n: int,
        m: int = 16,
        *,
        window: int | None = None,
        dtype: DTypeLike = np.float64,
        storage: Literal["float64", "float32", "bfloat16"] | None = None,
        shift: float = 0.0,
        harvest: bool = False,
        carry: bool = True,
    ) -> None:
        self.m = integer(m, "m", 1)
        self.window = self.m if window is None else integer(window, "window", 1)
        super().__init__(n, dtype, storage, shift, self.m, 2 * self.m + self.window)
        self.harvest, self.carry = harvest, carry
        self._used: list[int] = []  # columns that M reads in a run
        self._fresh: list[int] = []  # directions since the last merge
        # For each of these [V, those before and itself]^H A p, with A shifted by so much.
        self._products: list[NDArray[Any]] = []
        self._shifts: list[float] = []
        self._forget()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def ritz_values(self) -> NDArray[np.float64]:
        """Of A, without the shift, descending."""
        self._settle()
        return np.array(self._theta)

    def update(self, s: Any, y: Any) -> bool:
        """Offer a direction, to be used at once.

        Parameters
        ----------
        s, y : array of shape (n,)
            A direction and its product ``y = A s``, without the shift. Their common scale does not matter.

        Returns
        -------
        bool
            False: not kept, because ``s.y + shift s.s`` is not positive or something is not finite.
        """
        self._outside_runs()
        added = self._add(self._vector(s, "s"), self._vector(y, "y"), 0.0)
        self._stale = self._stale or added
        return added

    def clear(self) -> None:
        """Forget everything."""
        self._outside_runs()
        self._columns.give_back(self._kept + self._fresh)
        self._fresh, self._products, self._shifts = [], [], []
        self._forget()
        self._stale = True

    def renew(self, A: Any) -> int:
        """Recompute the products of the kept vectors, and the Ritz values and vectors on their span.

        For an operator that has changed abruptly; slow changes are learnt from the runs, for nothing.

        Parameters
        ----------
        A : as in `krylov.cg`
            The operator, without the shift.

        Returns
        -------
        int
            Products made: one for each kept vector, in batches.

        Raises
        ------
        ValueError
            A product is not finite. Directions of negative curvature are no error; they are forgotten.
        """
        self._outside_runs()
        self._settle()
        k = len(self._kept)
        if k == 0:
            return 0
        inner = np.empty((k, k), self.dtype)
        for j, product in enumerate(products_of_columns(A, self._columns, self._kept)):
            if not np.isfinite(product).all():
                raise ValueError("A gives NaN or infinity")
            inner[:, j] = self._columns.project(self._kept, product)
        inner = self._root.conj().T @ inner @ self._root
        values, vectors = np.linalg.eigh((inner + inner.conj().T) / 2)
        positive = int(np.sum(values > np.finfo(self.dtype).eps * abs(values).max()))
        if positive == 0:
            self.clear()
            return k
        self._replace(self._kept, values[::-1], self._root @ vectors[:, ::-1], positive)
        self._discarded = min(self._discarded, float(self._theta[-1]))
        self._stale = True
        return k

    # Saving; see `Restorable`.

    _kind = "ritz"

    def _fixed(self) -> dict[str, Any]:
        return super()._fixed() | {"window": self.window}

    def _changing(self) -> dict[str, Any]:
        # Fresh directions are saved as such: merged here they would be merged at another time than without saving.
        k, j = len(self._kept), len(self._fresh)
        products = np.zeros((k + j, j), np.result_type(self.dtype, np.float64))
        for i, product in enumerate(self._products):
            products[: len(product), i] = product
        return {
            "shift": self.shift,
            "harvest": self.harvest,
            "carry": self.carry,
            "products": products,
            "shifts": np.array(self._shifts, np.float64),
            **self._spectrum(),
            **self._columns.state(self._kept + self._fresh),
        }

    def _restore(self, saved: Saved) -> None:
        arguments = ("n", "m", "window", "dtype", "storage", "shift", "harvest", "carry")
        RitzPreconditioner.__init__(self, **{name: saved[name] for name in arguments})
        k, wide = self._restore_spectrum(saved), np.dtype(np.float64)
        most = self._together(k) - 1
        self._shifts = saved.array("shifts", (None,), wide, most=most).tolist()
        j = len(self._shifts)
        products = saved.array("products", (k + j, j), np.result_type(self.dtype, wide))
        self._products = [products[: k + i + 1, i] for i in range(j)]
        columns = self._columns.restore(saved, k + j)
        self._kept, self._fresh = columns[:k], columns[k:]

    # Learning from a run; see `Learner`.

    def begin_run(self, fixed: bool) -> None:
        """Begin to collect directions; M stays as it is until the end."""
        del fixed
        _ = self.native
        self._enter_run()
        self._used = list(self._kept)
        if not self.carry:
            self._forget()

    def learn(self, p: NDArray[Any], Ap: NDArray[Any]) -> None:
        """Take a direction of the run and its product, which includes the shift."""
        self._add(self._vector(p, "p"), self._vector(Ap, "Ap"), self.shift)

    def end_run(self, complete: bool) -> None:
        """Merge what the run has brought, or after an exception drop what is not merged yet."""
        if not complete:
            self._columns.give_back(self._fresh)
            self._fresh, self._products, self._shifts = [], [], []
        self._merge()
        self._columns.give_back([c for c in self._used if c not in self._kept])
        self._used, self._stale = [], True
        self._in_run.release()

    def _add(self, p: NDArray[Any], Ap: NDArray[Any], shift: float) -> bool:
        norm = norm_of(p)
        if not (0 < norm < np.inf):
            return False
        column = self._columns.take()
        self._columns.put(column, p, 1 / norm)
        known = [*self._kept, *self._fresh, column]
        with np.errstate(over="ignore", invalid="ignore"):
            product = self._columns.project(known, Ap) / norm
        curvature = float(product[-1].real) - shift + self.shift
        if not (np.isfinite(product).all() and curvature > 0):
            self._columns.give_back([column])
            return False
        self._fresh.append(column)
        self._products.append(product)
        self._shifts.append(shift)
        if len(self._fresh) == self._together(len(self._kept)):
            self._merge()
        return True

    def _together(self, kept: int) -> int:
        """How many fresh vectors are merged at once with so many kept ones."""
        return self.window + (0 if kept else self.m)

    def _settle(self) -> None:
        if not self._in_run.locked():
            self._merge()

    def _merge(self) -> None:
        """Make the m best of the kept and the fresh vectors."""
        if not self._fresh:
            return
        k, j = len(self._kept), len(self._fresh)
        known = self._kept + self._fresh
        gram = np.empty((k + j, k + j), self.dtype)
        gram[:, k:] = self._columns.gram(known, self._fresh)
        gram[k:, :k] = gram[:k, k:].conj().T
        # V root is orthonormal: V^H V = root^-2
        half = np.linalg.inv(self._root)
        gram[:k, :k] = half.conj().T @ half
        cross = np.zeros((k + j, j), self.dtype)
        for i, product in enumerate(self._products):
            cross[: len(product), i] = product
        cross -= gram[:, k:] * self._shifts
        f = orthonormal(gram)
        outside = self.shift + _OUTSIDE * self._discarded
        if outside <= 0:
            outside = float(self._theta[-1]) if k else 1.0
        values, vectors = merged_model(f, gram, cross, self._theta, self._root, self.shift, outside)
        count = min(self.m, k + math.ceil(_CONVERGED * (len(values) - k)))
        count = max(1, min(count, int(np.sum(values > 0))))
        # Not below what has been measured: the model's guess of the outside would feed on itself.
        measured = float(np.diag(cross[k:]).real.min())
        self._discarded = max(float(values[min(count, len(values) - 1)]), measured, 0.0)
        self._replace(known, values, vectors, count)
        self._fresh, self._products, self._shifts = [], [], []

    def _replace(
        self, known: list[int], values: NDArray[Any], vectors: NDArray[Any], count: int
    ) -> None:
        """V becomes the first `count` of ``known @ vectors``."""
        reserved = set(self._used)
        own = [c for c in known if c not in reserved]
        free = max(0, count - len(own))
        targets = own[:count] + [self._columns.take() for _ in range(free)]
        self._columns.rotate(known, targets, vectors[:, :count])
        self._columns.give_back(own[count:])
        self._kept = targets
        self._theta = np.maximum(values[:count], 0)
        # Orthonormal by construction, but for what reduced storage has rounded away.
        self._root = (
            inverse_root(self._columns.gram(targets, targets))
            if self._columns.rounds
            else np.eye(count, dtype=self.dtype)
        )

    # M itself.

    def _small(self) -> tuple[list[int], float, NDArray[Any]]:
        self._settle()
        if not self._kept:
            return [], 1.0, np.empty((0, 0))
        gamma = 1 / (self.shift + self._discarded) if self.shift + self._discarded > 0 else 1.0
        return self._kept, gamma, spectral(self._theta, self._root, self.shift, gamma)
