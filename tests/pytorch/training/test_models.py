"""Models by name: shapes, initialisations, and seeds."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from krylov.torch.training.models import ACTIVATIONS, INITIALISATIONS, autoencoder, cnn, mlp

sizes = st.lists(st.integers(1, 20), max_size=4)


@given(inputs=st.integers(1, 30), outputs=st.integers(1, 9), widths=sizes)
def test_mlp(inputs, outputs, widths):
    model = mlp(inputs, outputs, widths)
    assert model(torch.zeros(5, inputs)).shape == (5, outputs)
    layers = [module for module in model if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [*widths, outputs]


@given(widths=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_autoencoder(widths):
    model = autoencoder(12, widths)
    assert model(torch.zeros(5, 3, 4)).shape == (5, 12)
    layers = [module for module in model if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [*widths, *widths[-2::-1], 12]
    code = list(model).index(layers[len(widths) - 1])
    assert model[code + 1] is layers[len(widths)]  # no activation behind the code


def test_cnn():
    model = cnn((1, 8, 8), 10, (4, 6, 8))
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    with pytest.raises(ValueError, match="too small for 4 pools"):
        cnn((1, 8, 8), 10, (4, 4, 4, 4))
    with pytest.raises(ValueError, match="use mlp"):
        cnn((64,), 10)


@pytest.mark.parametrize("init", INITIALISATIONS)
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: mlp(20, 3, (30,), **o),
        lambda **o: autoencoder(20, (30, 5), **o),
        lambda **o: cnn((2, 8, 8), 3, (4,), **o),
    ],
)
def test_seeds(make, init):
    before = torch.get_rng_state()
    first, same, other = (make(init=init, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(("activation", "bias"), [("sigmoid", 0.0), ("tanh", 0.5)])
def test_sparse_initialisation(activation, bias):
    model = mlp(100, 10, (40,), activation=activation, init="sparse")
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            assert (layer.weight != 0).sum(1).tolist() == [15] * layer.out_features
            assert layer.bias.unique().tolist() == [bias]
    assert float(model[1].weight.detach()[model[1].weight != 0].std()) == pytest.approx(1, abs=0.1)
    assert (mlp(10, 10, (), init="sparse")[1].weight != 0).all()  # fewer than 15 inputs


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_can_be_differentiated_twice(activation):
    model = mlp(4, 2, (3,), activation=activation)
    (gradient,) = torch.autograd.grad(
        model(torch.randn(5, 4)).square().sum(), model[1].weight, create_graph=True
    )
    assert torch.autograd.grad(gradient.sum(), model[1].weight)[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"activation": "step"}, "sigmoid, tanh"),
        ({"init": "zeros"}, "default, xavier, sparse"),
        ({"sizes": (3, 0)}, "sizes"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options(options, word):
    with pytest.raises(ValueError, match=word):
        mlp(4, 2, **options)
