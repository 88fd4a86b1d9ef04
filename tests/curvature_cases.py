"""Models and losses with their dense curvature: cases for tests of operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

import krylov.torch as kt
from krylov.torch.graphs import output_tensors

with warnings.catch_warnings():  # forward mode compiles something old when it is first used
    warnings.simplefilter("ignore", DeprecationWarning)
    hessian(torch.sum)(torch.ones(1))

LABELS = torch.tensor([0, 2, 1, 3, 3, 0])
MATH = torch.nn.attention.SDPBackend.MATH


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, TARGETS = draw(6, 3), draw(6, 4, seed=7)


@dataclass
class Case:
    """A model, its input, and a loss of its outputs.

    Attributes
    ----------
    functional : bool
        Whether torch.func has the right second derivative: that of layer_norm for input and weight lacks a part.
    trained : callable
        Which of the named parameters are trained.
    """

    name: str
    make: Callable[[], nn.Module]
    x: Tensor
    loss: Callable[[Any], Tensor]
    seed: int = 0
    functional: bool = True
    trained: Callable[[str], bool] = lambda name: True
    model: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.model = self.make().double()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.trained(name))

    def __str__(self) -> str:
        return self.name

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def outputs(self) -> Any:
        return self.model(self.x)

    def evaluate(self) -> Tensor:
        return self.loss(self.outputs())

    def hessian_operator(self, **options: Any) -> kt.HessianOperator:
        return kt.HessianOperator(self.evaluate, self.model.parameters(), **options)

    def gauss_newton_operator(self, **options: Any) -> kt.GaussNewtonOperator:
        return kt.GaussNewtonOperator(self.outputs, self.loss, self.model.parameters(), **options)

    # The truth.

    def point(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def at(self, point: Tensor) -> Any:
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        pieces = point.split([p.numel() for p in named.values()])
        values = {n: v.view(p.shape) for (n, p), v in zip(named.items(), pieces, strict=True)}
        return functional_call(self.model, values, (self.x,))

    def dense_hessian(self) -> Tensor:
        def loss(w: Tensor) -> Tensor:
            return self.loss(self.at(w))

        if self.functional:
            return hessian(loss)(self.point()).detach()
        return torch.autograd.functional.hessian(loss, self.point())

    def dense_gauss_newton(self) -> Tensor:
        outputs = self.at(self.point())
        parts = [z.detach() for z in output_tensors(outputs)]

        def flat(w: Tensor) -> Tensor:
            return torch.cat([z.reshape(-1) for z in output_tensors(self.at(w))])

        def loss(z: Tensor) -> Tensor:
            pieces = z.split([part.numel() for part in parts])
            return self.loss(
                like(outputs, [v.view(p.shape) for v, p in zip(pieces, parts, strict=True)])
            )

        jacobian = jacrev(flat)(self.point())
        curved = jacrev(jacrev(loss))(torch.cat([z.reshape(-1) for z in parts]))
        return (jacobian.T @ curved @ jacobian).detach()

    def dense_gradient(self) -> Tensor:
        return jacrev(lambda w: self.loss(self.at(w)))(self.point()).detach()


def like(outputs: Any, parts: list[Tensor]) -> Any:
    """The parts in the structure of the outputs."""
    if isinstance(outputs, Tensor):
        return parts.pop(0)
    if isinstance(outputs, dict):
        return {key: like(value, parts) for key, value in outputs.items()}
    return tuple(like(value, parts) for value in outputs)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(MATH):
            return self.attention(x, x, x, need_weights=False)[0].mean(1)


class Tied(nn.Module):
    """Embedding and last layer share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.inner = nn.Linear(3, 3)
        self.last = nn.Linear(3, 5, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.inner(self.embedding(x))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


class Heads(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.body(x))
        return {"label": self.a(h), "value": self.b(h)}


class Halves(nn.Module):
    """Two outputs of one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.body(x).chunk(2, 1)


class Unused(nn.Module):
    """One parameter of three takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.ones(3))
        self.body = nn.Linear(3, 4)
        self.after = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(x))) * torch.sigmoid(self.b(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 4)
    )


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4))


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 2), nn.GroupNorm(2, 4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 4)
    )


def batch_normalised() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4))
    model[1].running_mean.copy_(torch.randn(4))
    return model.eval()


def in_place() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4),
        nn.SiLU(inplace=True),
        nn.Linear(4, 4),
        nn.ReLU(inplace=True),
        nn.Linear(4, 4),
    )


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.last(checkpoint(self.body, x, use_reentrant=False))


def cross_entropy(z: Tensor) -> Tensor:
    return F.cross_entropy(z, LABELS)


def squared(z: Tensor) -> Tensor:
    return F.mse_loss(z, TARGETS[:, : z.shape[1]])


def quartic(z: Tensor) -> Tensor:
    return (z - TARGETS[:, : z.shape[1]]).pow(4).mean()


def logistic(z: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, (TARGETS > 0).double(), pos_weight=X[:4, 0].exp())


def two_heads(z: dict[str, Tensor]) -> Tensor:
    return cross_entropy(z["label"]) + 0.3 * squared(z["value"])


def gaussian(z: tuple[Tensor, Tensor]) -> Tensor:
    mean, log_variance = z
    return (log_variance + (mean - 1).square() * (-log_variance).exp()).mean()


def next_token(z: Tensor) -> Tensor:
    tokens = torch.tensor([[0, 1, 2, 4], [3, 3, 1, 0]])
    return F.cross_entropy(z[:, :-1].transpose(1, 2), tokens[:, 1:])


TOKENS = torch.tensor([[0, 1, 2, 4], [3, 3, 1, 0]])

CASES = [
    Case("perceptron, cross-entropy", mlp, X, cross_entropy),
    Case("perceptron, squared error", mlp, X, squared),
    Case("perceptron, logistic", mlp, X, logistic),
    Case("perceptron, quartic", mlp, X, quartic),
    Case("first layer frozen", mlp, X, cross_entropy, trained=lambda name: not name.startswith("0")),
    Case("biases only", mlp, X, cross_entropy, trained=lambda name: name.endswith("bias")),
    Case("unused parameters", Unused, X, cross_entropy),
    Case("tied weights, next token", Tied, TOKENS, next_token),
    Case("convolutions", conv, draw(6, 1, 4, 4), cross_entropy),
    Case("layer norm", normalised, X, cross_entropy, functional=False),
    Case("group norm", grouped, draw(6, 1, 5), cross_entropy, functional=False),
    Case("batch norm, evaluated", batch_normalised, X, cross_entropy),
    Case("attention", Attention, draw(6, 3, 4), cross_entropy, functional=False),
    Case("long short-term memory", lambda: Recurrent(nn.LSTM), draw(6, 4, 3), squared),
    Case("gated recurrent unit", lambda: Recurrent(nn.GRU), draw(6, 4, 3), squared),
    Case("two heads", Heads, X, two_heads),
    Case("two outputs of one operation", Halves, X, gaussian),
    Case("residual, twice used", Residual, X, squared),
    Case("in place", in_place, X, cross_entropy),
    Case("linear, squared error", lambda: nn.Linear(3, 4), X, squared),
]  # fmt: skip
FIRST = CASES[0]
KINDS = ["hessian", "gauss_newton"]


def operator(case, kind, **options):
    return getattr(case, f"{kind}_operator")(**options)


def dense(case, kind):
    return getattr(case, f"dense_{kind}")()


def close(actual, expected, tolerance=1e-12):
    scale = float(torch.linalg.vector_norm(expected))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


def model_operator(
    kind: str,
    model: Callable[[Tensor], Any],
    loss: Callable[[Any], Tensor] = cross_entropy,
    x: Tensor = X,
    **options: Any,
) -> Any:
    """An operator on the parameters of any model."""
    if kind == "hessian":
        return kt.HessianOperator(lambda: loss(model(x)), model.parameters(), **options)
    return kt.GaussNewtonOperator(lambda: model(x), loss, model.parameters(), **options)
