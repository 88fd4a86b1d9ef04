"""What tests of `Neumann` share: a quadratic with noise, parameters of odd shapes, and options."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

SHAPES = [(3, 2), (4,), ()]
N = 11


def quadratic(seed=0):
    """A symmetric matrix with one negative eigenvalue, and a gradient with noise of each step's own."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    A = q @ np.diag(np.r_[-0.2, np.linspace(0.1, 2, N - 1)]) @ q.T
    b, noise = rng.standard_normal(N), rng.standard_normal((100, N))
    return A, lambda w, step: A @ w - b + 0.3 * noise[step]


def parameters(dtype=torch.float64, seed=5):
    flat = torch.from_numpy(np.random.default_rng(seed).standard_normal(N)).to(dtype)
    parts = flat.split([math.prod(shape) for shape in SHAPES])
    return [nn.Parameter(p.view(s).clone()) for p, s in zip(parts, SHAPES, strict=True)]


def read(params):
    return torch.cat([p.detach().reshape(-1) for p in params]).double().numpy()


def give(params, gradient):
    parts = torch.from_numpy(gradient).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad = part.view(p.shape).to(p.dtype)


def run(params, optimizer, gradient, steps, first=1):
    """Displaced parameters after each step."""
    found = []
    for step in range(first, first + steps):
        give(params, gradient(read(params), step))
        optimizer.step()
        found.append(read(params))
    return found


OPTIONS = {
    "paper": {"warmup_steps": 3, "reset_every": 4},
    "no warm-up": {"warmup_steps": 0, "reset_every": 5, "beta": 0.01},
    "strong terms": {"warmup_steps": 2, "reset_every": 3, "alpha": 0.3, "beta": 0.2, "gamma": 0.8},
    "cubic alone": {"warmup_steps": 1, "reset_every": None, "alpha": 0.5, "beta": 0},
    "repulsive alone": {"warmup_steps": 1, "reset_every": 1, "alpha": 0, "beta": 0.05},
    "neither": {"warmup_steps": 2, "reset_every": 7, "alpha": 0, "beta": 0},
    "decay": {"warmup_steps": 3, "reset_every": 4, "weight_decay": 0.1, "alpha": 0.1},
    "constant K": {"warmup_steps": 0, "reset_every": 2, "reset_growth": 1, "beta": 0.01},
    "slow momentum": {"warmup_steps": 0, "reset_every": 9, "momentum_every": 6, "beta": 0.01},
    "v follows at once": {"warmup_steps": 2, "reset_every": 4, "gamma": 0.0},
}
