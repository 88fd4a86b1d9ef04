"""A variational autoencoder: the dense form of Keras' example, whose convolutions a processor is slow with.

    loss = KL(q(z|x) || N(0, I)) - E_q[log p(x|z)],  q(z|x) = N(mean, diag exp(log_variance))

as a mean over the images, with one draw of z for each, and a Bernoulli likelihood summed over the pixels.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Reconstruction(NamedTuple):
    """What an evaluation gives; the loss is convex in it."""

    logits: Tensor
    means: Tensor
    log_variances: Tensor


class VariationalAutoencoder(nn.Module):
    """inputs-hidden-latent-hidden-inputs with ReLU."""

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, inputs)
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        code = self.encoder(x)
        means, log_variances = code.split(self.latent, 1)
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype)
        logits = self.decoder(means + (log_variances / 2).exp() * noise)
        # Outputs beside the logits, none of which is computed from another: nodes of their own.
        return Reconstruction(cast(Tensor, logits), *code.split(self.latent, 1))


def negative_bound(outputs: Reconstruction, x: Tensor) -> Tensor:
    """The loss of a batch."""
    logits, means, log_variances = outputs
    fit = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = 0.5 * (means.square() + log_variances.exp() - 1 - log_variances).sum()
    return (fit + divergence) / len(x)
