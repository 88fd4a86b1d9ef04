"""A preconditioner of one Kronecker product a layer, measured on the graphs that a step keeps anyway.

Of an affine layer ``s = W a + b`` the block of the Gauss-Newton matrix is about ``A (x) G``: exactly so if activations
and derivatives were independent (Heskes 2000; Martens and Grosse 2015, "Optimizing neural networks with
Kronecker-factored approximate curvature"). With V a vector in the shape of W, b as its last column, and lambda the
damping::

    A = mean over rows of (a, 1) (a, 1)^T          G = sum over rows of g g^T,  g = J_s^T R e
    M V = (G + sqrt(lambda) / pi I)^-1 V (A + pi sqrt(lambda) I)^-1        pi^2 = mean of diag A / mean of diag G

J_s is the derivative of the outputs by s, ``R R^T`` the Hessian of the loss at the outputs, which must be known in
closed form, and e are random signs. Blocks between layers count as zero. M stays the same within a run and is positive
definite: conjugate gradients correct what the approximation neglects.

Which layers are covered `affine_layers` says. Parameters of no such layer (convolutions, embeddings, normalisation) are
divided by the damping and the mean curvature of an entry of the covered ones.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krylov.checks import choice, finite_number, integer
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.flatten import Parameters
from krylov.torch.optim.preconditioning.affine_layers import Factors, Layer, measured_factors

__all__ = ["KroneckerFactors", "KroneckerPreconditioner"]

_STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Inverses serve dampings that are no further than this factor from theirs. Stale ones cost more than they save.
_NEAR = 1.6
_SEEDS = 1 << 44
# Layers may have next to no curvature: inverses, and products of two, shall be finite in float32 too.
_LARGEST_PI, _LEAST_SHIFT = 1e6, 1e-15


class KroneckerPreconditioner:
    """M as the solvers take it: ``matvec(r)`` for torch vectors, or for NumPy's.

    Parameters
    ----------
    parameters : Parameters
        The coordinates.
    inverses : mapping of layers to pairs
        Of the damped factors.
    rest : float or Tensor of shape (n,)
        What M divides parameters of no layer by.
    """

    def __init__(
        self, parameters: Parameters, inverses: Mapping[Layer, Factors], rest: float | Tensor
    ) -> None:
        self._parameters, self._inverses, self._rest = parameters, inverses, rest

    @property
    def shape(self) -> tuple[int, int]:
        return self._parameters.n, self._parameters.n

    @property
    def dtype(self) -> torch.dtype:
        return self._parameters.dtype

    def matvec(self, r: Any) -> Any:
        """The product, of the kind of r."""
        if isinstance(r, np.ndarray):
            return self._multiply(torch.from_numpy(np.array(r).reshape(-1))).numpy()
        return self._multiply(r)

    def _multiply(self, r: Tensor) -> Tensor:
        given = self._parameters.split(r)
        found: list[Tensor | None] = [None] * len(given)
        for (weight, bias, transposed), (A, G) in self._inverses.items():
            V = given[weight].T if transposed else given[weight]
            if bias >= 0:
                V = torch.cat([V, given[bias][:, None]], 1)
            V = (G @ V.to(G.dtype) @ A).to(r.dtype)
            if bias >= 0:
                V, found[bias] = V[:, :-1], V[:, -1]
            found[weight] = V.T if transposed else V
        if any(part is None for part in found):
            scaled = self._parameters.split(r / self._rest)
            found = [s if p is None else p for p, s in zip(found, scaled, strict=True)]
        return self._parameters.join(found)


class KroneckerFactors:
    """Factors that follow the curvature from sample to sample, and their inverses.

    Parameters
    ----------
    n : int
        Parameters.
    dtype : dtype of torch
        Of the vectors and the factors.
    every : int
        Operators that share inverses, unless the damping changes by more than a factor of 1.6.
    decay : float
        What factors keep of their past with each operator, below 1; 0: they are those of the last one.
    probes : int
        Backward passes for G with each operator.
    storage : {None, "float32", "bfloat16"}
        Of the inverses, and the precision of M r; None is that of the vectors. M r in "bfloat16" is symmetric to two
        digits only: `flexible_cg` takes no harm from that.
    seed : int
        Of the signs.
    """

    def __init__(
        self,
        n: int,
        dtype: torch.dtype,
        *,
        every: int = 5,
        decay: float = 0.9,
        probes: int = 1,
        storage: str | None = None,
        seed: int = 0,
    ) -> None:
        self._every, self._probes = integer(every, "every", 1), integer(probes, "probes", 1)
        self._decay = finite_number(decay, "decay")
        if not 0 <= self._decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay!r}")
        if storage is not None:
            choice(storage, "storage", tuple(_STORAGE))
        self._n, self._dtype, self._storage, self._seed = n, dtype, storage, seed
        self._factors: dict[Layer, Factors] = {}
        self._inverses: dict[Layer, Factors] = {}
        self._operators = 0
        self._inverted, self._damping = 0, 0.0  # which operator the inverses were made with
        self._operator: weakref.ref[Any] | None = None  # of the factors

    def update(self, operator: CurvatureOperator) -> int:
        """Move the factors towards those of this operator, once; returns how many backward passes it took.

        Raises
        ------
        ValueError
            No layer is covered, or the loss is not known in closed form.
        """
        if self._operator is not None and self._operator() is operator:
            return 0
        seed = (self._seed + self._operators) % _SEEDS
        generator = torch.Generator(operator.device).manual_seed(seed)
        measured = measured_factors(operator, self._probes, generator)
        self._operator = weakref.ref(operator)
        self._operators += 1
        if _shapes(measured) != _shapes(self._factors):  # the first, or another network
            self._factors, self._inverses = {}, {}
        diagonals = torch.cat([K.diagonal() for pair in measured.values() for K in pair])
        if bool(torch.isfinite(diagonals).all()):
            self._factors = self._moved(measured) if self._factors else measured
        return self._probes

    def _moved(self, newer: Mapping[Layer, Factors]) -> dict[Layer, Factors]:
        share = max(1 - self._decay, 1 / self._operators)
        return {
            layer: Factors(
                torch.lerp(A, newer[layer].A, share), torch.lerp(G, newer[layer].G, share)
            )
            for layer, (A, G) in self._factors.items()
        }

    def preconditioner(
        self, operator: CurvatureOperator, damping: float
    ) -> KroneckerPreconditioner | None:
        """M for ``operator + damping I``; None where no factors have been finite so far."""
        if not self._factors:
            return None
        near = self._damping / _NEAR <= damping <= self._damping * _NEAR
        if not self._inverses or not near or self._operators - self._inverted >= self._every:
            self._invert(operator, damping)
        rest: float | Tensor = (damping + _mean_curvature(self._factors.values())) or 1.0
        if operator.penalty is not None:
            rest = operator.penalty + rest
        return KroneckerPreconditioner(operator.parameters, self._inverses, rest)

    def _invert(self, operator: CurvatureOperator, damping: float) -> None:
        added = [0.0] * len(operator.parameters)
        if operator.penalty is not None:
            added = [float(part.mean()) for part in operator.parameters.split(operator.penalty)]
        precision = self._dtype if self._storage is None else _STORAGE[self._storage]
        self._inverses = {
            layer: _inverted(pair, damping + added[layer.weight], precision)
            for layer, pair in self._factors.items()
        }
        self._inverted, self._damping = self._operators, damping

    def state_dict(self) -> dict[str, Any]:
        """All that later systems depend on."""
        return {
            "n": self._n,
            "storage": self._storage,
            "layers": [list(layer) for layer in self._factors],
            "factors": _arrays(self._factors),
            "inverses": _arrays(self._inverses),
            "operators": self._operators,
            "inverted": self._inverted,
            "damping": self._damping,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        TypeError, ValueError
            The state is that of another number of parameters or another storage, or damaged; nothing has changed then.
        """
        if state["n"] != self._n:
            raise ValueError(
                f"the state has n = {state['n']}, but this preconditioner n = {self._n}"
            )
        if state["storage"] != self._storage:
            raise ValueError(
                f"the state has storage={state['storage']!r}, but this preconditioner {self._storage!r}"
            )
        layers = [
            Layer(integer(weight, "layers", 0), integer(bias, "layers", -1), bool(transposed))
            for weight, bias, transposed in state["layers"]
        ]
        precision = self._dtype if self._storage is None else _STORAGE[self._storage]
        factors = _pairs(layers, state["factors"], self._dtype)
        inverses = _pairs(layers, state["inverses"], precision) if state["inverses"] else {}
        numbers = (
            integer(state["operators"], "operators", 0),
            integer(state["inverted"], "inverted", 0),
            finite_number(state["damping"], "damping"),
        )
        self._factors, self._inverses, self._operator = factors, inverses, None
        self._operators, self._inverted, self._damping = numbers

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operator": None}


def _shapes(pairs: Mapping[Layer, Factors]) -> dict[Layer, tuple[int, int]]:
    return {layer: (len(A), len(G)) for layer, (A, G) in pairs.items()}


def _mean_curvature(pairs: Iterable[Factors]) -> float:
    """Of an entry of the weights."""
    traces = sum(float(A.trace() * G.trace()) for A, G in pairs)
    return traces / sum(len(A) * len(G) for A, G in pairs)


def _inverted(pair: Factors, damping: float, precision: torch.dtype) -> Factors:
    A, G = pair
    a, g = float(A.diagonal().mean()), float(G.diagonal().mean())
    pi = 1.0
    if a > 0 and g > 0:
        pi = min(max(math.sqrt(a) / math.sqrt(g), 1 / _LARGEST_PI), _LARGEST_PI)
    root = math.sqrt(damping)
    return Factors(
        _rounded(_inverse(A, pi * root), precision), _rounded(_inverse(G, root / pi), precision)
    )


def _inverse(K: Tensor, shift: float) -> Tensor:
    """Of ``K + shift I``, with at least the shift that rounding asks for."""
    largest = float(K.diagonal().max())
    least = torch.finfo(K.dtype).eps * len(K) * largest
    shift = max(shift, least, _LEAST_SHIFT) if shift + largest > 0 else 1.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(_lifted(K, shift))
        if not int(failed):
            return torch.cholesky_inverse(factor).contiguous()  # one layout: the same bits later
        shift *= 10


def _rounded(K: Tensor, precision: torch.dtype) -> Tensor:
    """A positive definite K in less precision, and positive definite still.

    Rounding moves eigenvalues by about ``2 |error| / sqrt(n)`` (Frobenius norm): small ones may become negative.
    """
    rounded = K.to(precision)
    if precision == K.dtype:
        return rounded
    lift = 2 * float(torch.linalg.matrix_norm(rounded.to(K.dtype) - K)) / math.sqrt(len(K))
    lift = max(lift, torch.finfo(K.dtype).eps * float(K.diagonal().max()))
    while int(torch.linalg.cholesky_ex(rounded.to(K.dtype)).info):
        rounded, lift = _lifted(K, lift).to(precision), 2 * lift
    return rounded


def _lifted(K: Tensor, shift: float) -> Tensor:
    lifted = K.clone()
    lifted.diagonal().add_(shift)
    return lifted


def _arrays(pairs: Mapping[Layer, Factors]) -> list[list[np.ndarray[Any, Any]]]:
    """NumPy has no bfloat16; nothing is lost in float32."""
    return [
        [(K.float() if K.dtype == torch.bfloat16 else K).cpu().numpy() for K in pair]
        for pair in pairs.values()
    ]


def _pairs(
    layers: Sequence[Layer], arrays: Sequence[Any], dtype: torch.dtype
) -> dict[Layer, Factors]:
    """The inverse of `_arrays`, in torch's own memory: products have the same bits as before."""
    pairs = [Factors(*(torch.tensor(K).to(dtype) for K in pair)) for pair in arrays]
    return dict(zip(layers, pairs, strict=True))
