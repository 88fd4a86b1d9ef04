"""A network whose weights have a normal distribution each (mean field), trained by its evidence lower bound.

    q(w) = prod N(mu_i, sigma_i^2),  sigma = 1e-4 + (1 - 1e-4) logistic(30 rho),  prior N(0, 1)
    loss = KL(q || prior) / N + mean over the samples of E_q[-log p(y | x, w)]

This is the loss of Reiz et al. (section 4.3; Blundell et al. 2015), divided by N, with the expectation of
``log q - log prior`` in closed form. The other one is estimated by one draw for each sample: what a layer puts out is
normal too, so that noise is drawn there and not for the weights (the local reparameterisation of Kingma, Salimans and
Welling 2015: the same expectation, and less variance).

No sigma is above that of the prior, as data can only sharpen it. To the Gauss-Newton matrix the outputs of the
divergence are mu and sigma: its Hessian there, 1 and ``1 + 1 / sigma^2``, is about the Fisher information of q, and
its Newton step moves a logit by 1.2 at most. By the logit itself ``-log sigma`` is nearly linear while sigma is small:
one step with little damping takes most of them to 1, which drowns the signal in noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: sigma at the start.
_SCALE = 0.05
#: Units of rho. With 1 its curvature, that of KL / N, is a thousandth of that of mu, and every optimizer does worse.
_UNIT = 30.0
#: The smallest sigma: Hessians by sigma, up to its inverse square, stay finite in float32.
_FLOOR = 1e-4
#: Keeps the root differentiable where all scales have become zero.
_LEAST = 1e-12


def scale(rho: Tensor) -> Tensor:
    """sigma."""
    return _FLOOR + (1 - _FLOOR) * torch.sigmoid(_UNIT * rho)


class BayesianLinear(nn.Module):
    """``x W^T + b`` with normal W and b.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of them.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        start = nn.Linear(inputs, outputs)  # torch's initial values as means
        self.weight, self.bias = start.weight, start.bias
        rho = math.log((_SCALE - _FLOOR) / (1 - _SCALE)) / _UNIT
        self.weight_rho = nn.Parameter(torch.full((outputs, inputs), rho))
        self.bias_rho = nn.Parameter(torch.full((outputs,), rho))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each row of x, shape (rows, inputs)."""
        mean = F.linear(x, self.weight, self.bias)
        weight, bias = (scale(rho) for rho in (self.weight_rho, self.bias_rho))
        variance = F.linear(x.square(), weight.square(), bias.square()) + _LEAST
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return mean + variance.sqrt() * noise

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean, and standard deviation, of all weights and biases: one vector each."""
        means = torch.cat([self.weight.flatten(), self.bias])
        return means, scale(torch.cat([self.weight_rho.flatten(), self.bias_rho]))


class BayesianNet(nn.Module):
    """Bayesian layers of these sizes with ReLU between them."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BayesianLinear(*pair) for pair in pairwise(sizes))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        *hidden, last = (cast(BayesianLinear, layer) for layer in self.layers)
        for layer in hidden:
            x = torch.relu(layer(x, generator))
        return cast(Tensor, last(x, generator))

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Of all layers."""
        pairs = [cast(BayesianLinear, layer).posterior() for layer in self.layers]
        return torch.cat([mean for mean, _ in pairs]), torch.cat([sigma for _, sigma in pairs])


class Posterior(NamedTuple):
    """What the divergence is convex in."""

    means: Tensor
    scales: Tensor


def divergence(q: Posterior) -> Tensor:
    """``KL(N(mean, scale^2) || N(0, 1))``, summed."""
    nothing = torch.zeros_like(q.means)
    squares = F.mse_loss(q.means, nothing, reduction="sum")
    squares = squares + F.mse_loss(q.scales, nothing, reduction="sum")
    return 0.5 * (squares - q.means.numel()) - q.scales.log().sum()


def bound(
    model: BayesianNet, x: Tensor, y: Tensor, count: int, generator: torch.Generator | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of a batch of `count` samples in all, and what the Gauss-Newton matrix may take for outputs.

    The loss is convex in these, so that the matrix is positive semidefinite and knows the curvature of the divergence.
    """
    outputs = model(x, generator)
    q = Posterior(*model.posterior())
    return F.cross_entropy(outputs, y) + divergence(q) / count, (outputs, *q)
