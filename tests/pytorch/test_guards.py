"""What breaks products is named, with its cure, before a solve."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import (
    CASES,
    KINDS,
    LABELS,
    Case,
    X,
    cross_entropy,
    draw,
    mlp,
    model_operator,
    squared,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import krylov.torch as kt
from krylov.torch.guards import Randomness, explained, refuse_unfit

torch.set_num_threads(1)


class Wrapped(nn.Module):
    """A layer between two others."""

    def __init__(self, layer, width=4):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 4), layer, nn.Linear(width, 4)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=True)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.exp()


class Exponential(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class Flash(nn.Module):
    def forward(self, x):
        x = x[None, None]
        return F.scaled_dot_product_attention(x, x, x)[0, 0]


class Bag(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, **options)

    def forward(self, x):
        return self.embedding(LABELS)


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(5, 3)

    def forward(self, x):
        return self.embedding(LABELS[:, None])


REFUSED = {
    "dropout": (lambda: Wrapped(nn.Dropout(0.5)), "randomness='freeze'"),
    "dropout2d": (lambda: Wrapped(nn.FeatureAlphaDropout(0.5)), "model.eval"),
    "noise": (lambda: Wrapped(Noise()), "draws random numbers"),
    "batch norm": (lambda: Wrapped(nn.BatchNorm1d(4)), r"Call .eval\(\) on the BatchNorm"),
    "flash attention": (lambda: Wrapped(Flash()), r"sdpa_kernel\(.*MATH\)"),
    "reentrant checkpoint": (lambda: Wrapped(Reentrant()), "use_reentrant=False"),
    "once differentiable": (lambda: Wrapped(Exponential()), "once_differentiable"),
    "hardsigmoid": (lambda: Wrapped(nn.Hardsigmoid()), "hardsigmoid_backward.*Replace"),
    "in place": (
        lambda: Wrapped(nn.Sequential(nn.Sigmoid(), nn.ReLU(inplace=True))),
        "inplace=False",
    ),
    "bag": (lambda: nn.Sequential(Bags(), nn.Linear(3, 4)), "EmbeddingBag. Replace"),
    "sparse embedding": (lambda: nn.Sequential(Bag(sparse=True), nn.Linear(3, 4)), "sparse=False"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_named_with_its_cure(name, kind):
    make, words = REFUSED[name]
    model = make().double()
    with pytest.raises(RuntimeError, match=words):
        model_operator(kind, model)


CURED = {
    "dropout, evaluated": lambda: Wrapped(nn.Dropout(0.5)).eval(),
    "dropout with p = 0": lambda: Wrapped(nn.Dropout(0.0)),
    "batch norm, evaluated": lambda: Wrapped(nn.BatchNorm1d(4)).eval(),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1), nn.Flatten(), nn.Linear(3, 4)
    ),
    "not in place": lambda: Wrapped(nn.Sequential(nn.Sigmoid(), nn.ReLU())),
    "in place where torch can": lambda: Wrapped(nn.ReLU(inplace=True)),
    "embedding": lambda: nn.Sequential(Bag(), nn.Linear(3, 4)),
    "embedding with a largest norm": lambda: nn.Sequential(Bag(max_norm=1.0), nn.Linear(3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CURED)
def test_cured(name, kind):
    model = CURED[name]().double()
    A = model_operator(kind, model)
    assert torch.isfinite(A @ torch.ones(A.shape[0], dtype=A.dtype)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_models(kind):
    model = mlp().double()
    with pytest.raises(RuntimeError, match="_orig_mod"):
        model_operator(kind, torch.compile(model, backend="aot_eager"))
    compiled = torch.compile(model, backend="eager")
    v = draw(36)
    expected = model_operator(kind, model) @ v
    torch.testing.assert_close(model_operator(kind, compiled) @ v, expected)
    torch.testing.assert_close(model_operator(kind, compiled._orig_mod) @ v, expected)


def test_errors_of_torch_that_come_late_are_explained_too():
    for words, cure in (
        ("torch.compile with aot_autograd does not currently support double backward", "_orig_mod"),
        ("When use_reentrant=True, torch.utils.checkpoint is incompatible", "use_reentrant=False"),
        ("trying to differentiate twice a function that was marked", "no second derivative"),
        ("the derivative for '_cudnn_rnn_backward' is not implemented", "cudnn"),
    ):
        with pytest.raises(RuntimeError, match=cure), explained():
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="something else"), explained():
        raise RuntimeError("something else")


def test_losses_without_a_second_derivative():
    model = mlp().double()
    with pytest.raises(RuntimeError, match="no second derivative"):
        model_operator("gauss_newton", model, lambda z: F.multi_margin_loss(z, LABELS))


def test_weight_norm_of_torch_has_a_wrong_hessian():
    def make():
        return nn.Sequential(
            torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 4)
        )

    case = Case("weight norm", make, X, cross_entropy)
    with pytest.raises(RuntimeError, match="remove_parametrizations"):
        case.hessian_operator()
    A = case.gauss_newton_operator()
    v = draw(A.shape[0])
    point, eps = case.point(), 1e-6  # torch.func has no batching rule for it
    z = case.at(point)
    moved = (case.at(point + eps * v) - case.at(point - eps * v)) / (2 * eps)
    curved = torch.autograd.functional.hvp(cross_entropy, z, moved)[1]
    expected = torch.autograd.functional.vjp(case.at, point, curved)[1]
    torch.testing.assert_close(A @ v, expected, rtol=1e-7, atol=1e-9)
    torch.nn.utils.parametrize.remove_parametrizations(case.model[0], "weight")
    torch.testing.assert_close(case.hessian_operator() @ draw(36), case.dense_hessian() @ draw(36))


# Losses that are none.

LOSSES = {
    "a number": (lambda z: 1.0, TypeError, "must be a tensor, not float"),
    "a vector": (lambda z: z.sum(1), ValueError, r"scalar, but its shape is \(6,\)"),
    "complex": (
        lambda z: torch.view_as_complex(z[:1, :2].contiguous()).sum(),
        TypeError,
        "complex",
    ),
    "detached": (lambda z: squared(z.detach()), ValueError, "no graph"),
    "constant": (lambda z: torch.tensor(1.0), ValueError, "no graph"),
    "float16": (lambda z: squared(z).half(), RuntimeError, "GradScaler.*bfloat16"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_are_none(name, kind):
    loss, error, words = LOSSES[name]
    with pytest.raises(error, match=words):
        model_operator(kind, mlp().double(), loss)


def test_losses_and_outputs_that_have_nothing_to_do_with_each_other():
    model, other = mlp().double(), mlp().double()
    parameters = list(model.parameters())
    with pytest.raises(ValueError, match="loss does not depend on any of the parameters"):
        kt.HessianOperator(lambda: squared(other(X)), parameters)
    with pytest.raises(ValueError, match="outputs do not depend on any of the parameters"):
        kt.GaussNewtonOperator(lambda: other(X), squared, parameters)
    with pytest.raises(ValueError, match="loss does not depend on the outputs"):
        kt.GaussNewtonOperator(lambda: model(X), lambda z: squared(other(X)), parameters)
    with pytest.raises(ValueError, match="not detached"):
        kt.GaussNewtonOperator(lambda: model(X).detach(), lambda z: squared(model(X)), parameters)
    with pytest.raises(TypeError, match="sequence or mapping of tensors, not NoneType"):
        kt.GaussNewtonOperator(lambda: None, lambda z: squared(model(X)), parameters)
    with pytest.raises(TypeError, match="sequence or mapping of tensors, not str"):
        kt.GaussNewtonOperator(lambda: "text", lambda z: squared(model(X)), parameters)


def test_graphs_cannot_be_made_in_inference_mode():
    model = mlp().double()
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"the loss has no graph.*inference_mode"):
            model_operator("hessian", model)
        model = mlp().double()
    with pytest.raises(ValueError, match=r"a parameter .* was made under torch.inference_mode"):
        model_operator("hessian", model)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_to_float16(kind):
    model = mlp()

    def loss(z):
        return cross_entropy(z.float())

    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(RuntimeError, match="bfloat16"):
        model_operator(kind, model, loss, X.float())


@pytest.mark.parametrize("kind", KINDS)
def test_arguments(kind):
    model = mlp().double()
    calls = []

    def loss(z):
        calls.append(z)
        return cross_entropy(z)

    for options, error, words in (
        ({"shift": float("nan")}, ValueError, "shift must be finite"),
        ({"shift": "much"}, ValueError, "shift must be a number"),
        ({"cache": "disk"}, ValueError, "cache must be one of auto, graph, none"),
        ({"randomness": "some"}, ValueError, "randomness must be one of refuse, freeze"),
        ({"data": X}, TypeError, r"give \[batch\]"),
        ({"data": [X], "weights": [1.0, 2.0]}, ValueError, "1 micro-batches, but there are 2"),
        ({"data": [X], "weights": [float("inf")]}, ValueError, "weights must be finite"),
    ):
        with pytest.raises(error, match=words):
            model_operator(kind, model, loss, **options)
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        model_operator(kind, model, None) if kind != "hessian" else kt.HessianOperator(1.0, [X])
    with pytest.raises(TypeError, match="outputs_fn must be a function"):
        kt.GaussNewtonOperator(model(X), loss, model.parameters())
    assert not calls


# Random numbers.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["graph", "none"])
def test_frozen_random_numbers(kind, cache):
    model = Wrapped(nn.Dropout(0.5)).double()
    torch.manual_seed(3)
    A = model_operator(kind, model, randomness="freeze", cache=cache)
    state = torch.get_rng_state()
    v = draw(A.shape[0])
    product = A @ v
    assert torch.equal(A @ v, product)
    # Rebuilding leaves the caller's numbers alone, and the construction has drawn some for good.
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    again = model_operator(kind, model, randomness="freeze")
    assert torch.equal(again @ v, product)
    torch.manual_seed(4)
    assert not torch.equal(model_operator(kind, model, randomness="freeze") @ v, product)


def test_refusing_leaves_the_generator_as_it_was():
    model = Wrapped(nn.Dropout(0.5)).double()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        model_operator("hessian", model)
    assert torch.equal(torch.get_rng_state(), state)


def test_renewed_numbers():
    randomness = Randomness("freeze", torch.device("cpu"))

    def drawn():
        with randomness():
            return torch.rand(3)

    first = drawn()
    assert torch.equal(drawn(), first)
    between = torch.rand(3)
    assert torch.equal(drawn(), first)
    assert not torch.equal(torch.rand(3), between)
    randomness.renew()
    assert not torch.equal(drawn(), first)
    with pytest.raises(ZeroDivisionError), randomness():
        torch.rand(1 // 0)
    second = drawn()
    assert torch.equal(drawn(), second)
    with randomness("another"):
        other = torch.rand(3)
    assert not torch.equal(other, second)
    assert torch.equal(drawn(), second)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_norm_by_permission(kind):
    model = Wrapped(nn.BatchNorm1d(4)).double()
    case = Case("", lambda: nn.Linear(1, 1), X, cross_entropy)
    case.model = model
    A = model_operator(kind, model, allow_batch_norm=True)
    truth = torch.autograd.functional.hessian(lambda w: case.loss(case.at(w)), case.point())
    v = draw(A.shape[0])
    if kind == "hessian":
        torch.testing.assert_close(A @ v, truth @ v)
    assert (A @ v).any()


def test_a_good_loss_is_not_refused():
    for case in CASES:
        refuse_unfit(case.evaluate())
