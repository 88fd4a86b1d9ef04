"""The Neumann series in earnest: rates from a spectrum, and an optimizer whose products are true ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from krylov.checks import integer
from krylov.spectrum import Extremes
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.local_model import Place
from krylov.torch.optim.newton_step import NewtonMethod, newton_step
from krylov.torch.optim.preconditioning.policies import make_preconditioning
from krylov.torch.optim.record import StepRecord
from krylov.torch.optim.second_order import SecondOrder
from krylov.torch.optim.solvers.series import SeriesMemory, SeriesSolver
from krylov.torch.spectrum import extremes_of
from krylov.torch.statistics import GradientStatistics

__all__ = ["NeumannRate", "NeumannSeries", "NeumannSeriesStep", "neumann_rate"]


class NeumannRate(NamedTuple):
    """Rates that make the Neumann series of a mini-batch converge.

    Attributes
    ----------
    lr : float
        ``eta = 1 / lambda_max``.
    momentum : float
        ``mu = lambda_max / (|lambda_min| + lambda_max)``; where no eigenvalue is negative lambda_min counts as 0.
    extremes : Extremes
        What was measured.
    """

    lr: float
    momentum: float
    extremes: Extremes


def neumann_rate(operator: CurvatureOperator, k: int = 10) -> NeumannRate:
    """Learning rate and momentum for `Neumann` from about 2 k products with the curvature of a mini-batch.

    Parameters
    ----------
    operator : HessianOperator or GaussNewtonOperator
        At the present parameters.
    k : int
        Steps of Lanczos' method for either end of the spectrum.

    Raises
    ------
    ValueError
        No eigenvalue is positive: there is no largest rate.
    FloatingPointError
        A product is not finite.

    Notes
    -----
    lambda_max grows during training, so that a rate measured at the beginning may soon be too large: measure after the
    warm-up, or again from time to time.

    References
    ----------
    Krishnan, Xiao and Saurous (2018), section 3.1.

    Examples
    --------
    >>> model, x = torch.nn.Linear(3, 1), torch.randn(8, 3)
    >>> hessian = kt.HessianOperator(lambda: model(x).square().mean(), model.parameters())
    >>> rate = neumann_rate(hessian)
    >>> optimizer = kt.Neumann(model.parameters(), rate.lr, momentum=min(rate.momentum, 0.9))
    """
    extremes = extremes_of(operator, integer(k, "k", 1))
    if extremes.max <= 0:
        raise ValueError(
            f"the largest eigenvalue is {extremes.max:.3g}: without positive curvature there is no rate; take another "
            "mini-batch, or a GaussNewtonOperator"
        )
    return NeumannRate(
        1 / extremes.max, extremes.max / (max(0.0, -extremes.min) + extremes.max), extremes
    )


@dataclass(frozen=True)
class NeumannSeriesStep(StepRecord):
    """What a step did and what it cost: a `StepRecord`, whose damping is the shift ``|lambda_min|``, with the spectrum.

    Attributes
    ----------
    lambda_max, lambda_min : float
        Extreme eigenvalues that the series was scaled and shifted by.
    measurements : int
        How often they were measured in this step; the products for that are among `products`.
    """

    lambda_max: float
    lambda_min: float
    measurements: int


@dataclass(frozen=True)
class _Method(NewtonMethod):
    """The choices that stay the same from step to step."""

    solve: SeriesSolver


class NeumannSeries(SecondOrder):
    """The idealised Neumann optimizer: on each mini-batch, K terms of the series for the convexified Newton step.

    The system is ``(H + |lambda_min| I) d = -g``, which `krylov.neumann` solves with true products and the scale
    ``mu eta = 1 / (|lambda_min| + lambda_max)``: for H as a quadratic exactly mu times the paper's
    ``m = mu m - eta grad(w + mu m)``. A reference to compare `Neumann` with: a step costs 2 K + 1 gradients, and one
    that measures the spectrum about 4 k more.

    Parameters
    ----------
    params : iterable of Tensor or of groups
        As for every optimizer. Groups know ``lr`` and ``weight_decay``.
    lr : float
        The paper's outer rate: factor of the step.
    weight_decay : float
        ``weight_decay |w|^2 / 2`` is part of loss, gradient and Hessian.
    iterations : int
        K, terms of the series.
    k : int
        Steps of Lanczos' method for either end of the spectrum.
    spectrum_every : int
        Steps after which the spectrum is measured again, from the eigenvectors of before. A series whose residual grows
        has it measured at once, and begins anew.
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers: raise, or draw the same ones in all evaluations of a step,
        for each micro-batch its own.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode.

    Attributes
    ----------
    last_step : NeumannSeriesStep or None
        What the last step did and what it cost. ``loss_after`` and ``rho`` are NaN where the loss after the step was
        not evaluated.
    last_statistics : GradientStatistics or None
        Variance of the gradient over the micro-batches of the last step.
    damping : float
        ``|lambda_min|`` as last measured; 0 where no eigenvalue is negative.

    Notes
    -----
    ``step(closure)``: the closure returns the loss of the mini-batch; it must not call ``backward()``. ``step_batches``
    takes separate samples. `fit` takes a step for each mini-batch.

    A step raises FloatingPointError where the series diverges even with a spectrum that was measured anew, and
    ValueError where the loss has no curvature; parameters and state are then as they were.

    References
    ----------
    Krishnan, Xiao and Saurous (2018), algorithm 1 and section 3.1.

    Examples
    --------
    >>> model, x, y = torch.nn.Linear(5, 1), torch.randn(64, 5), torch.randn(64, 1)
    >>> optimizer = NeumannSeries(model.parameters(), iterations=30)
    >>> loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
    """

    _key: ClassVar[str] = "neumann_series"
    _method: _Method
    _memory: SeriesMemory

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        weight_decay: float = 0.0,
        iterations: int = 10,
        k: int = 10,
        spectrum_every: int = 10,
        randomness: Literal["refuse", "freeze"] = "refuse",
        allow_batch_norm: bool = False,
    ) -> None:
        self._memory = SeriesMemory(0.0)
        solver = SeriesSolver(
            integer(iterations, "iterations", 1),
            integer(k, "k", 1),
            integer(spectrum_every, "spectrum_every", 1),
            self._memory,
        )
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            randomness=randomness,
            allow_batch_norm=allow_batch_norm,
        )
        self._method = _Method(
            curvature="hessian",
            solve=solver,
            preconditioning=make_preconditioning(
                None,
                None,
                n=self._parameters.n,
                dtype=self._parameters.dtype,
                curvature="hessian",
                solver="neumann",
                seed=0,
            ),
            damping=LevenbergMarquardt.of(0.0),
            warm_start=0.0,
            adapts=False,
            line_search=None,
        )

    def _advance(
        self, memory: SeriesMemory, place: Place
    ) -> tuple[Tensor, StepRecord, GradientStatistics]:
        solver = replace(self._method.solve, memory=memory)
        point, record, statistics = newton_step(replace(self._method, solve=solver), memory, place)
        memory.direction = solver.start
        smallest, largest = memory.spectrum
        known = {
            **vars(record),
            "damping": memory.damping,
            "lambda_max": largest,
            "lambda_min": smallest,
            "measurements": solver.measurements,
        }
        return point, NeumannSeriesStep(**known), statistics
