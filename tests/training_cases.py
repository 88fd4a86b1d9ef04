"""Optimizers and a loss for training runs of a few steps, and what is compared of them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from krylov.torch.optim.hessian_free import HessianFree

OPTIMIZERS = {
    "hf": partial(HessianFree, damping=0.01),
    "adam": partial(torch.optim.Adam, lr=0.03),
    "sgd": partial(torch.optim.SGD, lr=0.3, momentum=0.9),
    "lbfgs": partial(torch.optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe"),
}
LOSS = nn.CrossEntropyLoss()


def flat(model: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
