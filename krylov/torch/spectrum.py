"""Extreme eigenvalues of the curvature of mini-batches along training (Krishnan et al. 2018, appendix A)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from krylov.checks import choice, flag, integer
from krylov.spectrum import Extremes, extremal_eigenvalues
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.flatten import Parameters
from krylov.torch.generators import unchanged_generators
from krylov.torch.guards import Randomness
from krylov.torch.microbatches import WHOLE, sample_count
from krylov.torch.optim.objective import Objective
from krylov.torch.optim.record import Ledger

__all__ = ["SpectrumRecord", "SpectrumTracker", "extremes_of"]


def extremes_of(
    operator: CurvatureOperator, k: int, v0: Any = None, *, vectors: bool = False
) -> Extremes:
    """`krylov.extremal_eigenvalues` of an operator on parameters, by about 2 k products.

    Raises
    ------
    FloatingPointError
        A product is not finite.
    """
    try:
        return extremal_eigenvalues(
            operator.to_scipy(), min(k, operator.shape[0]), v0, vectors=vectors
        )
    except ValueError as error:
        raise FloatingPointError(
            "a product with the curvature is not finite: the parameters have diverged, or the loss overflows"
        ) from error


@dataclass(frozen=True)
class SpectrumRecord:
    """One measurement.

    Attributes
    ----------
    step : int
        As it was given.
    max, min : float
        Extreme Ritz values: `max` is never above the largest eigenvalue, `min` never below the smallest. NaN where the
        loss or a product is not finite.
    loss : float
        Of the batch.
    products : int
        With the curvature.
    gradient_equivalents : float
        Work in gradients of this batch: one, and 2 a product with the Hessian, 4/3 one with the Gauss-Newton matrix.
    """

    step: int
    max: float
    min: float
    loss: float
    products: int
    gradient_equivalents: float

    def as_dict(self) -> dict[str, Any]:
        """For a log: plain numbers."""
        return asdict(self)


class SpectrumTracker:
    """Measures the largest and the smallest eigenvalue of the curvature of mini-batches.

    The largest comes from k steps of Lanczos' method, the smallest from k more on the matrix shifted by the largest.

    Parameters
    ----------
    params : iterable of Tensor
        As for an optimizer.
    curvature : {"hessian", "ggn"}
        The Hessian, or the Gauss-Newton matrix.
    k : int
        Steps of Lanczos' method; the paper takes 10.
    every : int
        `due` is true at steps that this divides.
    batch : int
        Samples that `fit` measures on.
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers: raise, or draw the same ones in all evaluations.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode, as it never is within `fit`; measuring moves its running statistics.
    seed : int
        Of the samples that `fit` draws. Lanczos' start is always the same.

    Attributes
    ----------
    records : list of SpectrumRecord
        All measurements.

    References
    ----------
    Krishnan, Xiao and Saurous (2018), appendix A.

    Examples
    --------
    >>> x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> tracker = SpectrumTracker(model.parameters())
    >>> record = tracker.measure(0, lambda: torch.nn.functional.cross_entropy(model(x), y))
    >>> record.min < 0 < record.max
    True
    """

    def __init__(
        self,
        params: Iterable[Any] | Mapping[str, Tensor],
        *,
        curvature: Literal["hessian", "ggn"] = "hessian",
        k: int = 10,
        every: int = 1,
        batch: int = 128,
        randomness: Literal["refuse", "freeze"] = "refuse",
        allow_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        choice(curvature, "curvature", ("hessian", "ggn"))
        choice(randomness, "randomness", ("refuse", "freeze"))
        self._curvature = curvature
        self._k, self._every = integer(k, "k", 1), integer(every, "every", 1)
        self._batch, self._seed = integer(batch, "batch", 1), integer(seed, "seed", 0)
        self._allow_batch_norm = flag(allow_batch_norm, "allow_batch_norm")
        self._parameters = Parameters(params)
        self._randomness = Randomness(randomness, self._parameters.device)
        self.records: list[SpectrumRecord] = []

    def due(self, step: int) -> bool:
        """Whether a measurement is due at this step."""
        return step % self._every == 0

    def sample(self, step: int, count: int) -> Tensor:
        """Indices of the samples out of `count` that `fit` measures on at this step; no generator is touched."""
        rng = np.random.default_rng((self._seed, step))
        return torch.from_numpy(rng.choice(count, min(self._batch, count), replace=False))

    def state_dict(self) -> dict[str, Any]:
        """The records, and of what they are."""
        return {
            "curvature": self._curvature,
            "k": self._k,
            "batch": self._batch,
            "records": [record.as_dict() for record in self.records],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; records of this tracker are replaced.

        Raises
        ------
        ValueError
            The state is that of a tracker of another curvature, with other k or batch.
        """
        mine = self.state_dict()
        for name in ("curvature", "k", "batch"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"this tracker has {name} {mine[name]!r}, the state to load {state[name]!r}"
                )
        self.records[:] = [SpectrumRecord(**record) for record in state["records"]]

    def measure(
        self, step: int, closure: Callable[..., Any], batches: Iterable[Any] | None = None
    ) -> SpectrumRecord:
        """Measure at the present parameters.

        Parameters
        ----------
        step : int
            A name for the record.
        closure : callable
            ``closure()`` returns the mean loss of the mini-batch, or ``(loss, outputs)``, which the Gauss-Newton matrix
            needs; with `batches` ``closure(batch)``. No backward pass in it.
        batches : iterable of batches, optional
            The mini-batch in pieces, so that memory is bounded.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            What the closure gives cannot be differentiated twice, with the cure; see `HessianOperator`.

        Notes
        -----
        An optimizer that displaces its parameters is to be in evaluation mode: ``optimizer.eval()``. The global random
        generators of torch, NumPy and Python are left as they were found.
        """
        with unchanged_generators():
            record = self._measured(integer(step, "step", 0), closure, batches)
        self.records.append(record)
        return record

    def _measured(
        self, step: int, closure: Callable[..., Any], batches: Iterable[Any] | None
    ) -> SpectrumRecord:
        pieces: Sequence[Any] = [WHOLE] if batches is None else list(batches)
        if not pieces:
            raise ValueError("batches is empty: it must have at least one batch")
        parameters = self._parameters
        ledger = Ledger(parameters.n * parameters.dtype.itemsize)
        self._randomness.renew()
        objective = Objective(
            closure,
            parameters,
            None,
            ledger,
            self._randomness,
            self._allow_batch_norm,
            needs_outputs=self._curvature == "ggn",
        )
        loss, gradient, operator = objective.linearise(pieces, pieces, self._curvature)
        found = Extremes(math.nan, math.nan)
        if math.isfinite(loss) and bool(torch.isfinite(gradient).all()):
            with suppress(FloatingPointError):
                found = extremes_of(operator, self._k)
        samples = 1 if batches is None else sum(map(sample_count, pieces))
        ledger.spend(self._curvature, samples, operator.count)
        return SpectrumRecord(
            step, found.max, found.min, loss, operator.count, ledger.cost / samples
        )
