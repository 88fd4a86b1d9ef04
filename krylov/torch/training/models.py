"""Models by name, each in the form in which the papers of Hessian-free optimisation train it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from krylov.checks import choice, integer

__all__ = ["ACTIVATIONS", "INITIALISATIONS", "MODELS", "autoencoder", "cnn", "mlp"]

MODELS = ("mlp", "autoencoder", "cnn")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}
INITIALISATIONS = ("default", "xavier", "sparse")

#: Weights that are not zero into each unit, in Martens' sparse initialisation.
_SPARSE = 15


def mlp(
    inputs: int,
    outputs: int,
    sizes: Sequence[int] = (512, 512, 512),
    *,
    activation: str = "sigmoid",
    init: str = "default",
    seed: int = 0,
) -> nn.Sequential:
    """Fully connected layers of these sizes, and a linear one to the outputs; inputs of any shape are flattened.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of them.
    sizes : sequence of int
        Units of the layers between them.
    activation : str
        ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"gelu"`` or ``"softplus"``.
    init : str
        ``"default"``: torch's; ``"xavier"``: Glorot and Bengio's; ``"sparse"``: 15 weights of variance 1 into each
        unit, all others and the biases zero (0.5 for tanh), from Martens, "Deep learning via Hessian-free
        optimization", ICML 2010.
    seed : int
        Of the initialisation; no other random generator is touched.
    """
    layers = _layers(_positive(inputs, outputs, sizes), activation)
    return _initialised(lambda: nn.Sequential(nn.Flatten(), *layers()), activation, init, seed)


def autoencoder(
    inputs: int,
    sizes: Sequence[int] = (1000, 500, 250, 30),
    *,
    activation: str = "sigmoid",
    init: str = "sparse",
    seed: int = 0,
) -> nn.Sequential:
    """Layers of these sizes down to a linear code, and the same back to the inputs.

    The outputs are linear: with ``BCEWithLogitsLoss`` they are logits of pixels, with ``MSELoss`` the pixels
    themselves. Hinton and Salakhutdinov (2006), Martens (2010). Parameters as for `mlp`.
    """
    widths = _positive(inputs, inputs, sizes)[:-1]

    def build() -> nn.Sequential:
        encoder = _layers(widths, activation)()
        decoder = _layers(widths[::-1], activation)()
        return nn.Sequential(nn.Flatten(), *encoder, *decoder)

    return _initialised(build, activation, init, seed)


def cnn(
    shape: Sequence[int],
    outputs: int,
    sizes: Sequence[int] = (16, 32),
    *,
    activation: str = "tanh",
    init: str = "default",
    seed: int = 0,
) -> nn.Sequential:
    """3 x 3 convolutions with so many channels, each followed by a pool of 2 x 2, and a linear layer.

    Pools take means, not maxima, which keeps the loss smooth. Parameters as for `mlp`, but ``shape`` is that of one
    image: channels, height, width.

    Raises
    ------
    ValueError
        The images are no images, or too small for so many pools.
    """
    if len(shape) != 3:
        raise ValueError(
            f"a cnn needs images of shape (channels, height, width), got {tuple(shape)}: use mlp"
        )
    channels = _positive(shape[0], outputs, sizes)[:-1]
    height, width = (side >> len(sizes) for side in shape[1:])
    if not height or not width:
        raise ValueError(
            f"images of {shape[1]} x {shape[2]} are too small for {len(sizes)} pools: give fewer sizes"
        )
    make = ACTIVATIONS[_activation(activation)]

    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), make(), nn.AvgPool2d(2)]
        return nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, outputs)
        )

    return _initialised(build, activation, init, seed)


def _layers(widths: Sequence[int], activation: str) -> Callable[[], list[nn.Module]]:
    make = ACTIVATIONS[_activation(activation)]

    def build() -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), make()]
        return layers[:-1]

    return build


def _positive(inputs: int, outputs: int, sizes: Sequence[int]) -> list[int]:
    return [
        integer(inputs, "inputs", 1),
        *(integer(size, "sizes", 1) for size in sizes),
        integer(outputs, "outputs", 1),
    ]


def _activation(name: str) -> str:
    choice(name, "activation", ACTIVATIONS)
    return name


def _initialised(
    build: Callable[[], nn.Sequential], activation: str, init: str, seed: int
) -> nn.Sequential:
    choice(init, "init", INITIALISATIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, "seed", 0))
        model = build()
        if init != "default":
            for module in model:
                if isinstance(module, nn.Linear | nn.Conv2d):
                    _initialise(module, init, 0.5 if activation == "tanh" else 0.0)
    return model


def _initialise(module: nn.Linear | nn.Conv2d, init: str, bias: float) -> None:
    weight = module.weight
    if init == "xavier":
        nn.init.xavier_uniform_(weight)
        bias = 0.0
    else:
        # A row of weights is what comes into a unit; sparse_ works on columns.
        rows = weight.detach().flatten(1)
        nn.init.sparse_(rows.t(), max(0.0, 1 - _SPARSE / rows.shape[1]), std=1.0)
    if module.bias is not None:
        nn.init.constant_(module.bias, bias)
