"""The Neumann series in earnest: rates from a spectrum, and an optimizer whose products are true ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from krylov.checks import finite_number, integer
from krylov.outcome import Outcome
from krylov.solve import neumann
from krylov.spectrum import Extremes
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.flatten import Parameters
from krylov.torch.guards import Randomness
from krylov.torch.microbatches import WHOLE
from krylov.torch.optim.objective import Objective
from krylov.torch.optim.record import Ledger
from krylov.torch.spectrum import extremes_of

__all__ = ["NeumannRate", "NeumannSeries", "NeumannSeriesStep", "neumann_rate"]

_KEY = "neumann_series"
_OWN = ("_parameters", "_iterations", "_k", "_every", "_steps", "_extremes", "last_step")


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
class NeumannSeriesStep:
    """What a step did and what it cost.

    Attributes
    ----------
    step : int
        Its number, from 1.
    loss : float
        Before it.
    lambda_max, lambda_min : float
        Extreme eigenvalues that the series was scaled and shifted by.
    outcome : Outcome
        Of the series: an iteration limit where all went well.
    iterations, products : int
        Of the series; and with those for the spectrum.
    gradient_equivalents : float
        Work in gradients of the mini-batch: one, and 2 a product.
    """

    step: int
    loss: float
    lambda_max: float
    lambda_min: float
    outcome: Outcome
    iterations: int
    products: int
    gradient_equivalents: float

    def as_dict(self) -> dict[str, Any]:
        """For a log: plain numbers and words."""
        return {**asdict(self), "outcome": self.outcome.name}


class NeumannSeries(Optimizer):
    """The idealised Neumann optimizer: on each mini-batch, K terms of the series for the convexified Newton step.

    The system is ``(H + |lambda_min| I) d = -g``, which `krylov.neumann` solves with true products and the scale
    ``mu eta = 1 / (|lambda_min| + lambda_max)``: for H as a quadratic exactly mu times the paper's
    ``m = mu m - eta grad(w + mu m)``. A reference to compare `Neumann` with; each step costs 2 K gradients and more.

    Parameters
    ----------
    params : iterable of Tensor or of groups
        As for every optimizer. Groups know ``lr``.
    lr : float
        The paper's outer rate: factor of the step.
    iterations : int
        K, terms of the series.
    k : int
        Steps of Lanczos' method for either end of the spectrum.
    spectrum_every : int
        Steps after which the spectrum is measured again.

    Attributes
    ----------
    last_step : NeumannSeriesStep or None

    Notes
    -----
    ``step(closure)``: the closure returns the loss of the mini-batch; it must not call ``backward()``.

    References
    ----------
    Krishnan, Xiao and Saurous (2018), algorithm 1 and section 3.1.

    Examples
    --------
    >>> model, x, y = torch.nn.Linear(5, 1), torch.randn(64, 5), torch.randn(64, 1)
    >>> optimizer = NeumannSeries(model.parameters(), iterations=30)
    >>> loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        iterations: int = 10,
        k: int = 10,
        spectrum_every: int = 1,
    ) -> None:
        self._iterations = integer(iterations, "iterations", 1)
        self._k, self._every = integer(k, "k", 1), integer(spectrum_every, "spectrum_every", 1)
        super().__init__(params, {"lr": lr})
        self._parameters = Parameters(self.param_groups)
        self._steps = 0
        self._extremes: Extremes | None = None
        self.last_step: NeumannSeriesStep | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only while the optimizer is being built, since the vectors have one length."""
        if hasattr(self, "_parameters"):
            raise RuntimeError("NeumannSeries cannot take further parameters: build a new one")
        super().add_param_group(param_group)
        if finite_number(param_group["lr"], "lr") < 0:
            raise ValueError(f"lr must not be negative, got {param_group['lr']!r}")

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """One outer iteration.

        Parameters
        ----------
        closure : callable
            ``closure()`` returns the mean loss of a mini-batch, without a backward pass.

        Returns
        -------
        Tensor of shape ()
            The loss before the step.

        Raises
        ------
        FloatingPointError
            Loss, gradient or a product is not finite; the parameters stay as they are.
        RuntimeError, TypeError, ValueError
            What the closure gives cannot be differentiated twice, or has no curvature.
        """
        if closure is None:
            raise TypeError("NeumannSeries needs a closure that evaluates the loss: step(closure)")
        parameters = self._parameters
        ledger = Ledger(parameters.n * parameters.dtype.itemsize)
        randomness = Randomness("refuse", parameters.device)
        objective = Objective(closure, parameters, None, ledger, randomness, False)
        loss, gradient, operator = objective.linearise([WHOLE], [WHOLE], "hessian")
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            raise FloatingPointError(
                f"the loss is {loss}, its gradient not finite: begin from other parameters"
            )
        extremes = self._extremes
        if extremes is None or self._steps % self._every == 0:
            extremes = extremes_of(operator, self._k)
        below = max(0.0, -extremes.min)
        if not extremes.max + below > 0:
            raise ValueError("the loss has no curvature: a series of its Hessian leads nowhere")
        operator.shift = below
        result = neumann(
            operator,
            -gradient,
            scale=1 / (below + extremes.max),
            rtol=0.0,
            maxiter=self._iterations,
        )
        if result.outcome is Outcome.NON_FINITE:
            raise FloatingPointError(f"the series: {result.outcome.value}")
        rates = {id(p): float(g["lr"]) for g in self.param_groups for p in g["params"]}
        parameters.write(parameters.read().addcmul_(parameters.spread(rates), result.x))
        self._steps += 1
        self._extremes = extremes
        ledger.spend("hessian", 1, operator.count)
        self.last_step = NeumannSeriesStep(
            self._steps,
            loss,
            extremes.max,
            extremes.min,
            result.outcome,
            result.niter,
            operator.count,
            ledger.cost,
        )
        return torch.tensor(loss, dtype=parameters.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        extremes = None if self._extremes is None else [self._extremes.max, self._extremes.min]
        return {**super().state_dict(), _KEY: {"steps": self._steps, "extremes": extremes}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        KeyError, TypeError, ValueError
            The state is that of another optimizer; nothing has changed then.
        """
        if _KEY not in state_dict:
            raise KeyError("this is not the state of a NeumannSeries optimizer")
        own = state_dict[_KEY]
        steps, extremes = integer(own["steps"], "steps", 0), None
        if own["extremes"] is not None:
            largest, smallest = (finite_number(value, "extremes") for value in own["extremes"])
            extremes = Extremes(smallest, largest)
        super().load_state_dict(copy.deepcopy({k: v for k, v in state_dict.items() if k != _KEY}))
        self._steps, self._extremes = steps, extremes

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's own leaves out what a subclass has added."""
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in _OWN}}
