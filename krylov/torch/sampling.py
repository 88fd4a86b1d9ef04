"""Which samples of a data set an outer iteration sees: nested or fresh ones, seeded, in whole groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from krylov.checks import choice, integer

__all__ = ["Sampler"]

_Indices = NDArray[np.int64]


class Sampler:
    """Draws samples without replacement from ``count`` samples.

    Parameters
    ----------
    count : int
        Samples of the data set.
    mode : str
        ``"nested"``: prefixes of one permutation, so that of two samples the larger one holds the smaller one.
        ``"fresh"``: every sample is drawn anew.
    seed : int
        The same seed gives the same samples.
    groups : array_like, optional
        The group of each sample, its utterance for example: any ``count`` integers. Groups are drawn as a whole,
        until there are at least as many samples as asked for.

    Notes
    -----
    Random numbers are those of a generator seeded with ``(seed, number of fresh draws so far)``: these are the whole
    state, and no other generator is touched.
    """

    def __init__(
        self,
        count: int,
        *,
        mode: str = "nested",
        seed: int = 0,
        groups: ArrayLike | None = None,
    ) -> None:
        self.count = integer(count, "count", 1)
        choice(mode, "mode", ("nested", "fresh"))
        self._mode = mode
        self._seed = integer(seed, "seed", 0)
        self._draws = 0
        self._groups = None if groups is None else _labels(groups, count)
        self._order: _Indices | None = None

    def draw(self, size: int, *, within: Tensor | None = None) -> Tensor:
        """Indices of a new sample.

        Parameters
        ----------
        size : int
            Samples wanted; more than there are give all of them.
        within : Tensor, optional
            A sample to draw from instead of all the data: a curvature sample from within the gradient sample. Its
            prefix is taken where samples are nested, and all of it, as it is, where it is not larger than ``size``.

        Returns
        -------
        Tensor
            ``size`` indices (int64, on the CPU), or some more where the last group does not end there.
        """
        integer(size, "size", 1)
        if within is not None:
            if size >= len(within):
                return within
            pool = within.cpu().numpy()
            if self._mode == "fresh":
                pool = self._permuted(pool)
        elif self._mode == "fresh":
            pool = self._permuted(np.arange(self.count))
        else:
            if self._order is None:
                self._order = self._permuted(np.arange(self.count))
            pool = self._order
        return torch.from_numpy(pool[: self._end(pool, size)].copy())

    def batches(self, indices: Tensor, most: int) -> list[Tensor]:
        """Cut a sample into micro-batches of at most ``most`` samples, as equal as can be.

        Groups stay whole where they fit; only one that is larger than a batch is cut.
        """
        integer(most, "most", 1)
        if not len(indices):
            return []
        pieces = -(-len(indices) // most)
        if self._groups is None:
            return list(torch.tensor_split(indices, pieces))
        ends = np.append(_last_of_each(self._groups[indices.numpy()]) + 1, len(indices))
        cuts = [0]
        while cuts[-1] < len(indices):
            # The last end of a group that is not too far, or the middle of a group that is too large.
            fitting = ends[(ends > cuts[-1]) & (ends <= cuts[-1] + most)]
            cuts.append(int(fitting[-1]) if fitting.size else cuts[-1] + most)
        return list(torch.tensor_split(indices, cuts[1:-1]))

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler is, and what it is, so that it is not continued as another one."""
        return {
            "count": self.count,
            "mode": self._mode,
            "seed": self._seed,
            "draws": self._draws,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        ValueError
            The state is that of a sampler with another count, mode or seed.
        """
        mine = self.state_dict()
        for name in ("count", "mode", "seed"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"this sampler has {name} {mine[name]!r}, the state to load {state[name]!r}"
                )
        self._draws = integer(state["draws"], "draws", 0)

    def _permuted(self, pool: _Indices) -> _Indices:
        rng = np.random.default_rng([self._seed, self._draws])
        if self._mode == "fresh":  # nested samples share one permutation
            self._draws += 1
        if self._groups is None:
            return rng.permutation(pool)
        labels = self._groups[pool]
        rank = rng.permutation(int(self._groups.max()) + 1)
        # Stable: a group keeps the order of its samples, as time in an utterance.
        return pool[np.argsort(rank[labels], kind="stable")]

    def _end(self, pool: _Indices, size: int) -> int:
        if self._groups is None or size >= len(pool):
            return size
        lasts = _last_of_each(self._groups[pool])
        return int(lasts[np.searchsorted(lasts, size - 1)]) + 1


def _last_of_each(labels: _Indices) -> _Indices:
    """Positions of the last sample of each group, in a sequence where groups lie together."""
    changes = np.flatnonzero(np.diff(labels))
    return np.append(changes, len(labels) - 1)


def _labels(groups: ArrayLike | Sequence[int], count: int) -> _Indices:
    given = np.asarray(groups)
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"groups must be {count} integers, the group of each sample, "
            f"got shape {given.shape} of {given.dtype}"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)
