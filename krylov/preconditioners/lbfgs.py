"""L-BFGS as a preconditioner (Sainath et al. 2013; Morales and Nocedal 2000)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from krylov.checks import choice, integer, number
from krylov.preconditioners.low_rank import LowRankPreconditioner
from krylov.preconditioners.pairs import Pairs, Products
from krylov.preconditioners.scale import LargestRatio
from krylov.preconditioners.selection import SELECTIONS, Selection
from krylov.preconditioners.small import compact_lbfgs

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from krylov.preconditioners.state import Saved

__all__ = ["LBFGSPreconditioner"]

_SCALES = ("newest", "largest", "shift")
# Arguments that are attributes too.
_SETTINGS = ("select", "shift", "apply", "scale", "harvest", "refresh", "carry")


class LBFGSPreconditioner(LowRankPreconditioner):
    """The L-BFGS approximation of ``(A + shift I)^-1`` from pairs ``(s, A s)``.

    Parameters
    ----------
    n : int
        Number of unknowns.
    m : int
        Pairs kept; 32 is the most cost-efficient setting of Sainath et al. (2013).
    dtype : dtype
        Of the vectors: float32, float64, complex64 or complex128.
    select : {"uniform", "last", "first"}
        Which pairs of a run: evenly spread over its unknown length, the newest, or the oldest.
    storage : {None, "float64", "float32", "bfloat16"}
        Of the pairs; None is the precision of the vectors. Inner products are those of the rounded pairs, so M stays
        positive definite.
    shift : float
        M preconditions ``A + shift I``, from the same pairs, exactly. May be changed at any time.
    apply : {"compact", "two_loop"}
        Byrd, Nocedal and Schnabel's form (two sweeps, fused into `cg` and `flexible_cg`), or the textbook recursion.
    scale : {"largest", "newest", "shift"} or float
        H0 = gamma I with gamma the largest ``s.y / y.y`` of all pairs and all directions of the last ten runs, that of
        the newest pair (the textbook's, which can make a run longer than none), ``1 / shift``, or a number.
    harvest : bool
        Whether `cg` and `flexible_cg` feed it the pairs of their runs, for the next run.
    refresh : bool
        Whether pairs of a run count at once too, in `flexible_cg`: fewer iterations, with up to twice the columns in
        each. `cg` waits for the next run.
    carry : bool
        Whether a run's pairs join the most telling old ones (largest ``s.A s / s.s``), half and half, or replace all. A
        preconditioned run no longer sees what its preconditioner has removed, so its own pairs are a poor successor.

    Notes
    -----
    2 m columns take part: 4 m + 3 vector reads and writes for M r, 4 m + 10 for a whole fused iteration. At most 4 m
    columns are kept while a run is harvested.

    References
    ----------
    Nocedal (1980); Byrd, Nocedal and Schnabel (1994); Morales and Nocedal (2000); Sainath et al. (2013), section 3.
    """

    def __init__(
        self,
        n: int,
        m: int = 32,
        *,
        dtype: DTypeLike = np.float64,
        select: Literal["uniform", "last", "first"] = "uniform",
        storage: Literal["float64", "float32", "bfloat16"] | None = None,
        shift: float = 0.0,
        apply: Literal["compact", "two_loop"] = "compact",
        scale: Literal["largest", "newest", "shift"] | float = "largest",
        harvest: bool = False,
        refresh: bool = True,
        carry: bool = True,
    ) -> None:
        self.m = integer(m, "m", 1)
        choice(select, "select", SELECTIONS)
        choice(apply, "apply", ("compact", "two_loop"))
        if isinstance(scale, str):
            if scale not in _SCALES:
                raise ValueError(
                    f"scale must be one of {', '.join(_SCALES)} or a number, got {scale!r}"
                )
        elif not 0 < (value := number(scale, "scale")) < np.inf:
            raise ValueError(f"scale must be positive and finite, got {scale!r}")
        else:
            scale = value
        super().__init__(n, dtype, storage, shift, 4 * self.m, 4 * self.m + 2)
        self.select, self.apply, self.scale = select, apply, scale
        self.harvest, self.refresh, self.carry = harvest, refresh, carry
        self._pairs = Pairs(self._columns)
        self._largest = LargestRatio()
        self._kept = self._of_run = Selection(select, self.m)
        # Those of the run in progress stand behind the `_old` first pairs.
        self._old: int | None = None
        self._refreshing = False
        self._epsilon = float(np.finfo(self.dtype).eps)

    @property
    def is_native(self) -> bool:
        """Whether C++ applies M without Python."""
        return self.apply == "compact"

    def __len__(self) -> int:
        return len(self._pairs)

    def update(self, s: Any, y: Any) -> bool:
        """Offer a pair, to be used at once.

        Parameters
        ----------
        s, y : array of shape (n,)
            A direction and its product ``y = A s``, without the shift. Their common scale does not matter.

        Returns
        -------
        bool
            False: not kept, because ``s.y`` is not positive (relative to ``|s| |y|``) or `select` passes it over.
        """
        self._outside_runs()
        return self._offer(self._kept, 0, self._vector(s, "s"), self._vector(y, "y"), 0.0)

    def clear(self) -> None:
        """Forget all pairs."""
        self._outside_runs()
        self._pairs.drop(range(len(self._pairs)))
        self._largest.forget()
        self._kept.restart()
        self._old, self._stale = None, True

    def _offer(
        self, selection: Selection, first: int, s: NDArray[Any], y: NDArray[Any], shift: float
    ) -> bool:
        stride = selection.stride
        gone = selection.offer(len(self._pairs) - first)
        if gone is None or not self._pairs.append(s, y, shift, self._epsilon):
            selection.stride = stride  # nothing has gone
            return False
        self._pairs.drop([first + i for i in gone])
        self._stale = True
        return True

    # Saving; see `Restorable`.

    _kind = "lbfgs"

    def _changing(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _SETTINGS}
        parts = (self._pairs, self._largest, self._kept)
        return settings | {k: v for part in parts for k, v in part.state().items()}

    def _restore(self, saved: Saved) -> None:
        arguments = ("n", "m", "dtype", "storage", *_SETTINGS)
        LBFGSPreconditioner.__init__(self, **{name: saved[name] for name in arguments})
        self._pairs.restore(saved, self.m)
        self._largest.restore(saved)
        self._kept.restore(saved)

    # Learning from a run; see `Learner`.

    def begin_run(self, fixed: bool) -> None:
        """Begin to collect pairs."""
        _ = self.native  # for the pairs of before
        self._enter_run()
        self._old = len(self._pairs)
        self._refreshing = self.refresh and not fixed
        room = self.m // 2 if self.carry and self._old else self.m
        self._of_run = Selection(self.select, max(1, room))

    def learn(self, p: NDArray[Any], Ap: NDArray[Any]) -> None:
        """Take a direction of the run and its product, which includes the shift."""
        assert self._old is not None
        stale = self._stale
        s, y = self._vector(p, "p"), self._vector(Ap, "Ap")
        if self.scale == "largest":
            self._largest.see(s, y, self.shift)
        self._offer(self._of_run, self._old, s, y, self.shift)
        if self._refreshing:
            _ = self.native
        else:
            self._stale = stale

    def end_run(self, complete: bool) -> None:
        """Join the pairs of the run with those of before, or after an exception drop them."""
        assert self._old is not None
        old, self._old = self._old, None
        self._in_run.release()
        self._largest.end_run(complete)
        new = len(self._pairs) - old
        if not complete:
            self._pairs.drop(range(old, old + new))
        elif new and not self.carry:
            self._pairs.drop(range(old))
        elif old + new > self.m:
            products = self._pairs.products(self.shift)
            quotient = products.curvature[:old] / np.diag(products.ss).real[:old]
            self._pairs.drop(np.argsort(quotient, kind="stable")[: old + new - self.m].tolist())
        self._stale = True

    # M itself.

    def _small(self) -> tuple[list[int], float, NDArray[Any]]:
        which, products, gamma = self._in_use()
        k = compact_lbfgs(products.ss, products.sy, products.yy, products.moved, gamma)
        pairs = self._pairs
        return [pairs.s[i] for i in which] + [pairs.y[i] for i in which], gamma, k

    def _in_use(self) -> tuple[NDArray[Any], Products, float]:
        products = self._pairs.products(self.shift)
        usable = products.usable(self._epsilon)
        if self._old is not None and not self._refreshing:
            usable[self._old :] = False
        which = np.flatnonzero(usable)
        chosen = products.take(which)
        return which, chosen, self._gamma(chosen)

    def _gamma(self, products: Products) -> float:
        if not isinstance(self.scale, str):
            return float(self.scale)
        if self.scale == "shift":
            if self.shift <= 0:
                raise ValueError("scale='shift' takes gamma = 1 / shift: set a positive shift")
            return 1 / self.shift
        if not len(products.moved):
            return 1.0
        ratio = products.curvature / products.length
        if self.scale == "newest":
            return float(ratio[-1])
        return max(float(ratio.max()), self._largest.at(self.shift))

    def _apply(self, r: NDArray[Any], z: NDArray[Any]) -> None:
        if self.is_native:
            super()._apply(r, z)
            return
        which, products, gamma = self._in_use()
        self._columns.panel.two_loop(
            [self._pairs.s[i] for i in which],
            [self._pairs.y[i] for i in which],
            products.moved.tolist(),
            products.curvature.tolist(),
            gamma,
            r,
            z,
        )
