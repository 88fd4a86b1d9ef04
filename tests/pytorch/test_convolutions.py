"""Convolutions with a lean double backward: the same products, fewer operations."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import Case, cross_entropy, draw
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import krylov.torch as kt
from krylov.torch.convolutions import LeanConvolutions, _Convolution

torch.set_num_threads(1)


class Ends(nn.Module):
    """Layers, then the mean over all places, to four classes."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        z = torch.tanh(self.layers(x))
        return z.flatten(2).mean(2)[:, :4] * 3


LAYERS = {
    "1-d": (1, lambda: [nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 4, 2)]),
    "2-d": (2, lambda: [nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 4, 2)]),
    "3-d": (3, lambda: [nn.Conv3d(2, 2, 2), nn.Tanh(), nn.Conv3d(2, 4, 2, padding=(0, 1, 0))]),
    "strided, dilated": (1, lambda: [nn.Conv1d(2, 3, 3, 2, 2), nn.Tanh(), nn.Conv1d(3, 4, 2, dilation=2)]),
    "groups": (1, lambda: [nn.Conv1d(2, 4, 3, groups=2), nn.Tanh(), nn.Conv1d(4, 4, 2, groups=4)]),
    "no bias": (2, lambda: [nn.Conv2d(2, 2, 3, bias=False), nn.Tanh(), nn.Conv2d(2, 4, 2, bias=False)]),
    "same": (1, lambda: [nn.Conv1d(2, 3, 3, padding="same"), nn.Tanh(), nn.Conv1d(3, 4, 2, padding="valid")]),
    "circular": (1, lambda: [nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")]),
    "transposed": (1, lambda: [nn.ConvTranspose1d(2, 3, 3), nn.Tanh(), nn.ConvTranspose1d(3, 4, 2)]),
    "transposed, all of it": (2, lambda: [nn.ConvTranspose2d(2, 4, 2, 2, 1, 1, 2, dilation=2)]),
    "transposed, 3-d": (3, lambda: [nn.ConvTranspose3d(2, 4, 2, stride=(1, 2, 1))]),
    "in place": (1, lambda: [nn.Conv1d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv1d(3, 4, 2)]),
    "lazy": (1, lambda: [nn.LazyConv1d(4, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("trained", ["all", "bias", "weight", "last"])
@pytest.mark.parametrize("name", LAYERS)
def test_products(name, trained):
    dims, layers = LAYERS[name]
    x = draw(6, 2, *[5, 4, 3][:dims])

    def make():
        model = Ends(*layers())
        model.double()(x)
        return model

    def is_trained(parameter):
        return (
            trained == "all"
            or trained in parameter
            or (trained == "last" and "layers.0" not in parameter)
        )

    case = Case(name, make, x, cross_entropy, trained=is_trained)
    if not case.parameters:
        return
    A, truth = case.gauss_newton_operator(), case.dense_gauss_newton()
    n = len(truth)
    torch.testing.assert_close(A @ torch.eye(n).double(), truth, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(A @ draw(n), truth @ draw(n), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(A.gradient, case.dense_gradient(), rtol=1e-10, atol=1e-12)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 4),
    )  # fmt: skip


def test_floating_point_operations():
    model, x = network(), torch.randn(6, 1, 8, 8)
    parameters = list(model.parameters())

    def count(work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    gradient = count(lambda: torch.autograd.grad(cross_entropy(model(x)), parameters))

    def make():
        return kt.GaussNewtonOperator(lambda: model(x), cross_entropy, parameters)

    assert count(make) <= 1.1 * gradient
    A = make()
    assert count(lambda: A @ A.gradient) <= 1.36 * gradient


def test_autocast():
    model, x = network(), torch.randn(6, 1, 8, 8)
    v = torch.randn(sum(p.numel() for p in model.parameters()))

    def product(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            A = kt.GaussNewtonOperator(
                lambda: model(x), lambda z: cross_entropy(z.float()), model.parameters()
            )
        return A @ v

    exact, fewer = product(False), product(True)
    assert 1e-4 < (fewer - exact).norm() / exact.norm() < 0.05


def test_gradients_of_any_order_are_right_within():
    x, w = draw(2, 2, 5).requires_grad_(), draw(3, 2, 3).requires_grad_()
    b, t = draw(3).requires_grad_(), draw(3, 2, 2).requires_grad_()

    def of(x, w, b, t):
        with LeanConvolutions():
            return F.conv_transpose1d(F.conv1d(x, w, b).tanh(), t, stride=2)

    assert torch.autograd.gradcheck(of, (x, w, b, t))
    assert torch.autograd.gradgradcheck(of, (x, w, b, t))


def test_a_loss_with_a_gradient_of_its_own():
    """A penalty on the gradient for the inputs: its own double backward is within the function."""
    model, x = network().double(), draw(6, 1, 8, 8).requires_grad_()

    def evaluate():
        z = model(x)
        (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        return z, cross_entropy(z) + g.square().mean()

    kept = []

    def outputs():
        z, loss = evaluate()
        kept[:] = [loss]
        return z

    A = kt.GaussNewtonOperator(outputs, lambda z: kept[0], model.parameters())
    _, loss = evaluate()
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    torch.testing.assert_close(A.gradient, A.parameters.join(expected))
    v = draw(A.shape[0])
    B = kt.GaussNewtonOperator(lambda: model(x), cross_entropy, model.parameters())
    torch.testing.assert_close(A @ v, B @ v)


@pytest.mark.parametrize("cache", ["graph", "none"])
def test_checkpointed_convolutions(cache):
    """Recomputed without the mode, they must fit the graph that was made with it."""
    model, x = network().double(), draw(6, 1, 8, 8)

    def outputs():
        return model[2:](checkpoint(model[:2], x, use_reentrant=False))

    A = kt.GaussNewtonOperator(outputs, cross_entropy, model.parameters(), cache=cache)
    B = kt.GaussNewtonOperator(lambda: model(x), cross_entropy, model.parameters())
    v = draw(A.shape[0])
    for _ in range(2):
        torch.testing.assert_close(A @ v, B @ v)


def test_transforms_within_the_model():
    w = draw(4, 2, 3).requires_grad_()
    x = draw(6, 1, 2, 5)

    def outputs(convolve):
        return torch.func.vmap(lambda s: convolve(s, w).mean((0, 2)))(x)

    A = kt.GaussNewtonOperator(lambda: outputs(F.conv1d), cross_entropy, [w])
    B = kt.GaussNewtonOperator(lambda: F.conv1d(x[:, 0], w).mean(2), cross_entropy, [w])
    torch.testing.assert_close(A @ draw(24), B @ draw(24))


CALLS = {
    "no graph": lambda: F.conv1d(draw(2, 2, 5), draw(3, 2, 3)),
    "one sample": lambda: F.conv1d(draw(2, 5), draw(3, 2, 3).requires_grad_()),
    "same": lambda: F.conv1d(draw(2, 2, 5), draw(3, 2, 3).requires_grad_(), padding="same"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_are_left_to_torch(name, monkeypatch):
    monkeypatch.setattr(_Convolution, "apply", lambda *_: pytest.fail("not left to torch"))
    expected = CALLS[name]()
    with LeanConvolutions():
        assert torch.equal(CALLS[name](), expected)
    with LeanConvolutions(), torch.no_grad():
        F.conv1d(draw(2, 2, 5), draw(3, 2, 3).requires_grad_())


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.conv1d(draw(2, 2, 5), draw(3, 3, 3).requires_grad_()),
        lambda: F.conv1d(draw(2, 2, 5), draw(3, 2, 3).float().requires_grad_()),
        lambda: F.conv1d(draw(2, 2, 5), draw(3, 2, 3).requires_grad_(), stride=0),
        lambda: F.conv1d(draw(2, 2, 5), draw(3, 2, 3).requires_grad_(), bias=draw(2)),
        lambda: F.conv1d(draw(2, 2, 5), "w"),
        lambda: F.conv1d(draw(2, 2, 5)),
        lambda: F.conv2d(draw(2, 2, 5, 5), draw(3, 2, 3, 3).requires_grad_(), stride=(1, 1, 1)),
    ],
)
def test_wrong_calls_are_errors_as_without(call):
    with pytest.raises((RuntimeError, TypeError)) as without:
        call()
    with LeanConvolutions(), pytest.raises(without.type):
        call()
