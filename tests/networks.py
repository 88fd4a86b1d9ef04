"""Small networks with their data, whose curvature is known as a dense matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian

torch.set_num_threads(1)


@dataclass
class Problem:
    """A network, its data and its loss; dense curvature by `torch.autograd.functional`."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def loss_of(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y) if y.ndim == 1 else F.mse_loss(outputs, y)

    def closure(self, batch=None):
        """Loss and outputs of a batch, by default of all data."""
        x, y = (self.x, self.y) if batch is None else batch
        outputs = self.model(x)
        return self.loss_of(outputs, y), outputs

    def __call__(self):
        return self.closure()

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(size), self.y.split(size), strict=True))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def read(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def at(self, vector: Tensor, x: Tensor) -> Tensor:
        names = [name for name, _ in self.model.named_parameters()]
        parts = vector.split([p.numel() for p in self.parameters])
        values = [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]
        return torch.func.functional_call(self.model, dict(zip(names, values, strict=True)), (x,))

    def value(self, vector: Tensor, batch=None) -> Tensor:
        x, y = (self.x, self.y) if batch is None else batch
        return self.loss_of(self.at(vector, x), y)

    def gradient(self, vector: Tensor, batch=None) -> Tensor:
        return jacobian(lambda v: self.value(v, batch), vector)

    def hessian(self, vector: Tensor, batch=None) -> Tensor:
        return hessian(lambda v: self.value(v, batch), vector)

    def ggn(self, vector: Tensor, batch=None) -> Tensor:
        x, y = (self.x, self.y) if batch is None else batch
        outputs = self.at(vector, x).detach()
        J = jacobian(lambda v: self.at(v, x).reshape(-1), vector)
        inner = hessian(lambda z: self.loss_of(z.view_as(outputs), y), outputs.reshape(-1))
        return J.T @ inner @ J

    def curvature(self, kind: str, vector: Tensor, batch=None) -> Tensor:
        return self.ggn(vector, batch) if kind == "ggn" else self.hessian(vector, batch)


def classifier(seed: int = 0, *, dtype=torch.float64, samples: int = 12, scale: float = 1.0):
    """3-4-3 with tanh; labels that a small net cannot quite learn."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (samples,), generator=generator)
    return Problem(model, x, y)


def regression(seed: int = 0, *, dtype=torch.float64, samples: int = 20):
    """A linear model with squared error: a convex quadratic."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(4, 2).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(samples, 2, generator=generator, dtype=torch.float64).to(dtype)
    return Problem(model, x, y)


@cache
def _digits(samples: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data[:samples] / 16.0), torch.tensor(data.target[:samples])


def digits(*, dtype=torch.float32, samples: int = 500, hidden: int = 32, seed: int = 0) -> Problem:
    """64-32-10 with tanh on embedded images of digits."""
    x, y = _digits(samples)
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            bound = p.shape[-1] ** -0.5
            p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
    return Problem(model, x.to(dtype), y)


# Options of `HessianFree` that make another method of it.
VARIANTS = [
    {"curvature": "ggn", "solver": "cg"},
    {"curvature": "ggn", "solver": "flexible_cg"},
    {"curvature": "hessian", "solver": "cg"},
    {"curvature": "hybrid", "solver": "cg"},
    {"curvature": "hessian", "solver": "bicgstab", "stop": 10},
    {"preconditioner": "lbfgs", "preconditioner_options": {"m": 8}},
    {"preconditioner": "ritz", "preconditioner_options": {"m": 8}},
    {"preconditioner": "nystrom", "preconditioner_options": {"m": 8, "worth": 1}},
    {"preconditioner": "jacobi"},
]


def name_of(options: dict) -> str:
    return "-".join(str(v) for v in options.values() if not isinstance(v, dict))
