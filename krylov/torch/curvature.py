"""Curvature of a loss as an operator: Hessian and Gauss-Newton matrix, known by their products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from krylov.checks import choice, finite_number
from krylov.torch.flatten import Parameters
from krylov.torch.graphs import GaussNewtonGraph, Graph, HessianGraph, output_tensors
from krylov.torch.guards import Randomness, refuse_unfit
from krylov.torch.microbatches import WHOLE, Cache, MicroBatches

__all__ = ["CurvatureOperator", "GaussNewtonOperator", "HessianOperator"]

# Columns that a matrix product takes at once: bounds its memory.
_BATCH = 16


class CurvatureOperator:
    """A symmetric operator on parameter space; what `HessianOperator` and `GaussNewtonOperator` share.

    Parameters
    ----------
    parameters : Parameters
        The coordinates.
    batches : MicroBatches
        Graphs that give the products.
    shift : float
        Products are those of the matrix plus ``shift`` times the identity.
    diagonal : Tensor of shape (n,), optional
        Added to the matrix: the curvature of a quadratic penalty.

    Attributes
    ----------
    shape : (int, int)
        n by n for n trainable parameters.
    dtype, device
        Of the vectors: torch's.
    shift : float
        May be changed at any time.
    count : int
        Products so far; those with a matrix count by column.
    loss : float
        At the parameters that the operator was built for.
    gradient : Tensor of shape (n,)
        There; it comes with the graph at no cost.
    """

    def __init__(
        self,
        parameters: Parameters,
        batches: MicroBatches,
        *,
        shift: float = 0.0,
        diagonal: Tensor | None = None,
    ) -> None:
        self.shift = shift
        self.count = 0
        self._parameters, self._batches, self._diagonal = parameters, batches, diagonal
        self._vmap = True

    @property
    def shape(self) -> tuple[int, int]:
        return self._parameters.n, self._parameters.n

    @property
    def dtype(self) -> torch.dtype:
        return self._parameters.dtype

    @property
    def device(self) -> torch.device:
        return self._parameters.device

    @property
    def shift(self) -> float:
        return self._shift

    @shift.setter
    def shift(self, value: float) -> None:
        self._shift = finite_number(value, "shift")

    @property
    def loss(self) -> float:
        return self._batches.loss

    @property
    def gradient(self) -> Tensor:
        return self._batches.gradient

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector of shape (n,), as a new vector.

        Raises
        ------
        TypeError, ValueError
            v is no tensor of this shape, dtype and device.
        RuntimeError
            A tensor of the graph was overwritten since, or an operation has no second derivative.
        """
        v = self._parameters.checked(v, "v")
        if v.ndim != 1:
            raise ValueError(
                f"v must have shape ({self.shape[0]},), but its shape is {tuple(v.shape)}"
            )
        product = self._multiply(self._parameters.split(v), None)
        self.count += 1
        return self._completed(product, v)

    def matmat(self, V: Tensor) -> Tensor:
        """The product with a matrix of shape (n, k), columns in batches where torch can vectorise the backward pass."""
        V = self._parameters.checked(V, "V")
        if V.ndim != 2:
            raise ValueError(
                f"V must have shape ({self.shape[0]}, k), but its shape is {tuple(V.shape)}"
            )
        rows = V.T.contiguous()
        blocks = [self._rows(block) for block in rows.split(_BATCH)] if len(rows) else [rows]
        self.count += len(rows)
        return torch.cat(blocks).T.contiguous()

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matmat(other) if getattr(other, "ndim", 1) == 2 else self.matvec(other)

    def __call__(self, v: Tensor) -> Tensor:
        return self.matvec(v)

    def to_scipy(self) -> LinearOperator:
        """The same operator for NumPy vectors, in SciPy's solvers and eigensolvers."""

        def multiply(x: Any) -> Any:
            values = np.ascontiguousarray(x, dtype)
            product = self @ torch.from_numpy(values).to(self.device)
            return product.cpu().numpy()

        dtype = np.dtype(str(self.dtype).removeprefix("torch."))

        def column(x: Any) -> Any:
            return multiply(np.reshape(x, -1))

        return LinearOperator(
            self.shape,
            matvec=column,
            rmatvec=column,
            matmat=multiply,
            rmatmat=multiply,
            dtype=dtype,
        )

    def _multiply(self, parts: Sequence[Tensor], batch: int | None) -> Tensor:
        total: Tensor | None = None
        for weight, graph in self._batches.graphs():
            product = self._parameters.join(graph.multiply(parts, batch is not None), batch)
            if total is None:
                total = product if weight == 1 else product.mul_(weight)
            else:
                total.add_(product, alpha=weight)
        assert total is not None
        return total

    def _completed(self, product: Tensor, v: Tensor) -> Tensor:
        if self._diagonal is not None:
            product.addcmul_(self._diagonal, v)
        return product.add_(v, alpha=self._shift) if self._shift else product

    def _rows(self, rows: Tensor) -> Tensor:
        if self._vmap and len(rows) > 1:
            try:
                product = self._multiply(self._parameters.split(rows), len(rows))
            except RuntimeError:
                self._vmap = False  # an operation of the model has no batched second derivative
            else:
                return self._completed(product, rows)
        return torch.stack(
            [
                self._completed(self._multiply(self._parameters.split(row), None), row)
                for row in rows
            ]
        )


class HessianOperator(CurvatureOperator):
    """The Hessian of a loss with respect to parameters.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn()`` evaluates the loss, a scalar, under gradient mode; with `data` ``loss_fn(batch)``, the mean over
        the batch.
    params : iterable of Tensor
        As for `torch.optim.Optimizer`: tensors, named tensors or groups. Those that need no gradient are left out.
    data : iterable of batches, optional
        Micro-batches, so that memory is bounded; they must be the same each time they are read.
    weights : sequence of float, optional
        Of the micro-batches; by default their shares of the samples.
    shift : float
        Products are those of ``H + shift I``.
    cache : {"auto", "graph", "none"}
        Whether graphs are kept for all products: as many as half of the free memory holds, all, or none.
    randomness : {"refuse", "freeze"}
        What to do about a loss that draws random numbers: raise, or draw the same ones in every evaluation.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        What would make products wrong or impossible, with its cure: active dropout, BatchNorm in training mode, data
        that shuffles, attention without a double backward, a float16 loss, modules that work in place.

    Notes
    -----
    Construction costs one gradient. A product costs two at most, and one pass less through the first layer: 1.71
    gradients for a multi-layer perceptron.

    References
    ----------
    Pearlmutter (1994).

    Examples
    --------
    >>> model = torch.nn.Linear(3, 1)
    >>> x = torch.randn(8, 3)
    >>> H = HessianOperator(lambda: model(x).square().mean(), model.parameters())
    >>> (H @ torch.ones(4)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        loss_fn: Callable[..., Tensor],
        params: Iterable[Any] | Mapping[str, Tensor],
        *,
        data: Iterable[Any] | None = None,
        weights: Sequence[float] | None = None,
        shift: float = 0.0,
        cache: Cache = "auto",
        randomness: str = "refuse",
        allow_batch_norm: bool = False,
    ) -> None:
        parameters = Parameters(params)
        _refuse_uncallable(loss_fn, "loss_fn")
        evaluate = _Evaluation(loss_fn, parameters, randomness)

        def make(batch: Any) -> Graph:
            loss = evaluate(batch)
            refuse_unfit(loss, allow_batch_norm=allow_batch_norm)
            return HessianGraph(loss, parameters)

        batches = MicroBatches(parameters, make, data, weights=weights, cache=cache)
        super().__init__(parameters, batches, shift=shift)


class GaussNewtonOperator(CurvatureOperator):
    """The generalised Gauss-Newton matrix ``J^T H_L J``: J of the outputs, H_L the Hessian of the loss at the outputs.

    Positive semidefinite for a loss that is convex in the outputs. For a likelihood with natural parameters it is the
    Fisher matrix.

    Parameters
    ----------
    outputs_fn : callable
        ``outputs_fn()``, or with `data` ``outputs_fn(batch)``, evaluates the model: a tensor, or a sequence or mapping
        of tensors.
    loss_fn : callable
        ``loss_fn(outputs)``, or with `data` ``loss_fn(outputs, batch)``, the loss, a scalar, mean over the batch.
        Squared error, cross-entropy and logistic loss from torch are recognised (with reductions, class weights,
        ignored targets, label smoothing) and their Hessian is applied in closed form; others by autograd.
    params, data, weights, shift, cache, randomness, allow_batch_norm
        See `HessianOperator`.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        See `HessianOperator`.

    Notes
    -----
    Construction costs one gradient, a product 4/3 at most (1.24 for a multi-layer perceptron).

    References
    ----------
    Schraudolph (2002); Martens (2010).
    """

    def __init__(
        self,
        outputs_fn: Callable[..., Any],
        loss_fn: Callable[..., Tensor],
        params: Iterable[Any] | Mapping[str, Tensor],
        *,
        data: Iterable[Any] | None = None,
        weights: Sequence[float] | None = None,
        shift: float = 0.0,
        cache: Cache = "auto",
        randomness: str = "refuse",
        allow_batch_norm: bool = False,
    ) -> None:
        parameters = Parameters(params)
        _refuse_uncallable(loss_fn, "loss_fn")

        def both(*batch: Any) -> tuple[Any, Tensor]:
            outputs = outputs_fn(*batch)
            return outputs, loss_fn(outputs, *batch)

        _refuse_uncallable(outputs_fn, "outputs_fn")
        evaluate = _Evaluation(both, parameters, randomness)

        def make(batch: Any) -> Graph:
            outputs, loss = evaluate(batch)
            refuse_unfit(loss, allow_batch_norm=allow_batch_norm)
            return GaussNewtonGraph(loss, output_tensors(outputs), parameters)

        batches = MicroBatches(parameters, make, data, weights=weights, cache=cache)
        super().__init__(parameters, batches, shift=shift)


class _Evaluation:
    """Calls the user's function as the guards want it."""

    def __init__(
        self, function: Callable[..., Any], parameters: Parameters, randomness: str
    ) -> None:
        choice(randomness, "randomness", ("refuse", "freeze"))
        self._function = function
        self._randomness = Randomness(randomness, parameters.device)

    def __call__(self, batch: Any) -> Any:
        with self._randomness(), torch.enable_grad():
            return self._function() if batch is WHOLE else self._function(batch)


def _refuse_uncallable(function: Any, name: str) -> None:
    if not callable(function):
        raise TypeError(f"{name} must be a function to evaluate, not {type(function).__name__}")
