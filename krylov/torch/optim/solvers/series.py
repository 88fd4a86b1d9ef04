"""Terms of a Neumann series for the convexified Newton system, scaled and shifted by a measured spectrum.

With H the Hessian, ``shift = max(0, -lambda_min)`` and ``scale = 1 / (shift + lambda_max)``:

    d = scale sum_{k < K} (I - scale (H + shift I))^k (-g)                        [1]

While the spectrum of H + shift I is within [0, 2 / scale] no residual is longer than the one before it. So one that
grows tells that the measured spectrum is no longer that of H: it is measured again, from the residual, in which the
eigenvectors that were missed stand out by then, and the series begins anew. One that grows again is an error.

[1] Krishnan, Xiao and Saurous (2018), algorithm 1: ``m = mu m - eta grad(w + mu m)`` for H as a quadratic, K times,
gives d / mu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from krylov.outcome import Outcome, SolveResult
from krylov.solve import neumann
from krylov.stopping import FixedIterations
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.local_model import Memory
from krylov.torch.optim.solvers.directions import Candidate, Directions
from krylov.torch.spectrum import extremes_of

__all__ = ["SeriesMemory", "SeriesSolver"]

# Growth of the residual that no rounding explains.
_GROWTH = 1.01


@dataclass
class SeriesMemory(Memory):
    """What one step leaves for the next.

    `damping` is the shift, and `direction` the start of the next run of Lanczos' method.

    Attributes
    ----------
    largest, smallest : float
        Eigenvalues of ``H + shift I`` as last measured, neither of them negative.
    measured : int
        Step that did; -1 before the first.
    """

    largest: float = 0.0
    smallest: float = 0.0
    measured: int = -1

    @property
    def spectrum(self) -> tuple[float, float]:
        """lambda_min and lambda_max of H."""
        return self.smallest - self.damping, self.largest - self.damping


@dataclass
class SeriesSolver:
    """Sums the series for one step.

    Parameters
    ----------
    terms : int
        K.
    k : int
        Steps of Lanczos' method for either end of the spectrum.
    every : int
        Steps after which the spectrum is measured again.
    memory : SeriesMemory
        Of the step; what is measured goes there.
    """

    terms: int
    k: int
    every: int
    memory: SeriesMemory
    start: Tensor | None = field(default=None, init=False)  #: of the next run of Lanczos' method
    measurements: int = field(default=0, init=False)  #: made by this object

    def __post_init__(self) -> None:
        self.start = self.memory.direction

    def __call__(
        self, operator: CurvatureOperator, gradient: Tensor, start: Tensor | None, M: Any
    ) -> Directions:
        """The sum as the only candidate; `start` and `M` are None.

        Raises
        ------
        FloatingPointError
            A product is not finite, or the series diverges.
        ValueError
            There is no curvature.
        """
        memory = self.memory
        if memory.measured < 0 or memory.steps - memory.measured >= self.every:
            self._measure(operator, self.start)
        result = self._sum(operator, gradient)
        if _grows(result):
            self._measure(operator, self._suspects(operator, gradient, _last(result).step))
            result = self._sum(operator, gradient)
            if _grows(result):
                low, high = memory.spectrum
                raise FloatingPointError(
                    f"the Neumann series diverges: its residual grows from {result.residual_norms.min():.3g} to "
                    f"{result.residual_norm:.3g}, with a spectrum that was measured anew, {low:.3g} to {high:.3g}. "
                    "Raise k, or lower iterations. The parameters are as they were"
                )
        return Directions(
            [_last(result)], result.outcome, result.niter, result.direction_curvature < 0
        )

    def _measure(self, operator: CurvatureOperator, start: Tensor | None) -> None:
        memory, operator.shift = self.memory, 0.0
        v0 = None if start is None else start.cpu().numpy()
        found = extremes_of(operator, self.k, v0, vectors=True)
        shift = max(0.0, -found.min)
        if not found.max + shift > 0:
            raise ValueError("the loss has no curvature: a series of its Hessian leads nowhere")
        self.measurements += 1
        assert found.vectors is not None
        low, high = (torch.from_numpy(v).to(operator.device, operator.dtype) for v in found.vectors)
        # Both ends stand out in the sum; they are one vector, of either sign, where H is a multiple of I.
        self.start = low + high if float((low @ high).abs()) < 0.5 else high
        memory.largest, memory.smallest = found.max + shift, max(0.0, found.min + shift)
        memory.damping, memory.measured = shift, memory.steps

    def _sum(self, operator: CurvatureOperator, gradient: Tensor) -> SolveResult:
        memory = self.memory
        operator.shift = memory.damping
        return neumann(
            operator,
            -gradient,
            scale=1 / memory.largest,
            rtol=0.0,
            maxiter=self.terms,
            stop=FixedIterations(self.terms),  # else the last residual is verified, for a product
            candidates=(),
        )

    def _suspects(self, operator: CurvatureOperator, gradient: Tensor, step: Tensor) -> Tensor:
        """A vector with the eigenvectors that a measurement has missed, and those that it has not."""
        known = self.start
        assert known is not None
        residual = gradient + operator @ step
        norm = torch.linalg.vector_norm(residual, dtype=torch.float64)
        return known + residual / float(norm) if bool(torch.isfinite(norm)) else known


def _grows(result: SolveResult) -> bool:
    if result.outcome in (Outcome.DIVERGENCE, Outcome.NON_FINITE):
        return True
    norms = result.residual_norms
    return bool(norms[-1] > _GROWTH * norms.min())


def _last(result: SolveResult) -> Candidate:
    """The final iterate; `SolveResult.x` would be the one with the smallest residual."""
    if not result.candidates:  # the first product is not finite
        return Candidate(0, result.x, math.nan)
    iteration, x, value, _ = result.candidates[-1]
    return Candidate(iteration, x, value)
