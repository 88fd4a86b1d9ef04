"""Curvature of a loss as an operator: Hessian and Gauss-Newton matrix, known by their products."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from krylov.checks import finite_number
from krylov.torch.convolutions import LeanConvolutions
from krylov.torch.evaluation import Evaluation, refuse_uncallable
from krylov.torch.flatten import Parameters
from krylov.torch.graphs import GaussNewtonGraph, Graph, HessianGraph, output_tensors
from krylov.torch.guards import refuse_unfit
from krylov.torch.memory import available_bytes, held_bytes
from krylov.torch.microbatches import Cache, MicroBatches

__all__ = ["CurvatureOperator", "GaussNewtonOperator", "HessianOperator"]

# A matrix product takes several columns at once where work is small beside the calls that start it: at most so many,
# with at most so many entries. They take the memory of as many graphs: at most this share of what is free.
_COLUMNS, _ENTRIES, _SHARE = 16, 2**20, 0.25


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
    T, H
        The operator itself: it is real and symmetric.
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
        self._columns: int | None = None  # at once; not known yet

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
    def parameters(self) -> Parameters:
        """The coordinates."""
        return self._parameters

    @property
    def penalty(self) -> Tensor | None:
        """What `diagonal` was."""
        return self._diagonal

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
        """The product with a matrix of shape (n, k); several columns at once where that is quicker."""
        V = self._parameters.checked(V, "V")
        if V.ndim != 2:
            raise ValueError(
                f"V must have shape ({self.shape[0]}, k), but its shape is {tuple(V.shape)}"
            )
        rows = V.T.contiguous()
        product = torch.empty_like(rows)
        width = self._width() if len(rows) > 1 else 1
        for begin in range(0, len(rows), width):
            product[begin : begin + width] = self._block(rows[begin : begin + width])
        self.count += len(rows)
        return product.T.contiguous()

    def rmatvec(self, v: Tensor) -> Tensor:
        """The product of the transpose with a vector: that of the operator."""
        return self.matvec(v)

    def rmatmat(self, V: Tensor) -> Tensor:
        """The product of the transpose with a matrix: that of the operator."""
        return self.matmat(V)

    def dot(self, other: Tensor) -> Tensor:
        """The product with a vector or a matrix, as ``@``."""
        return self.matmat(other) if getattr(other, "ndim", 1) == 2 else self.matvec(other)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.dot(other)

    def __rmatmul__(self, other: Tensor) -> Tensor:
        return self.matmat(other.T).T if getattr(other, "ndim", 1) == 2 else self.matvec(other)

    def __call__(self, v: Tensor) -> Tensor:
        return self.matvec(v)

    def transpose(self) -> CurvatureOperator:
        """The operator itself."""
        return self

    def adjoint(self) -> CurvatureOperator:
        """The operator itself."""
        return self

    T = property(transpose)
    H = property(adjoint)

    def to_scipy(self) -> LinearOperator:
        """The same operator for NumPy vectors, in SciPy's solvers and eigensolvers."""

        def multiply(x: Any) -> Any:
            values = np.array(x, dtype, order="C")  # torch takes no read-only memory
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

    def graphs(self) -> Iterator[tuple[float, Graph]]:
        """Weight and graph of each micro-batch; kept, or built again."""
        return self._batches.graphs()

    def _multiply(self, parts: Sequence[Tensor], batch: int | None) -> Tensor:
        total: Tensor | None = None
        for weight, graph in self.graphs():
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

    def _block(self, rows: Tensor) -> Tensor:
        if len(rows) > 1 and self._columns != 1:
            try:
                with warnings.catch_warnings():  # of operations that torch takes one by one
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    product = self._multiply(self._parameters.split(rows), len(rows))
            except RuntimeError:  # of an operation that it does not take at all, or memory is short
                self._columns = 1
            else:
                return self._completed(product, rows)
        products = [self._multiply(self._parameters.split(row), None) for row in rows]
        return self._completed(torch.stack(products), rows)

    def _width(self) -> int:
        if self._columns is None:
            _, graph = next(iter(self.graphs()))
            room = _SHARE * available_bytes(self.device) / max(1, held_bytes(graph.roots))
            self._columns = max(1, min(_COLUMNS, _ENTRIES // self.shape[0], int(room)))
        return self._columns


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
        shift = finite_number(shift, "shift")
        refuse_uncallable(loss_fn, "loss_fn")
        parameters = Parameters(params)
        evaluate = Evaluation(loss_fn, parameters, randomness)

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
        shift = finite_number(shift, "shift")
        refuse_uncallable(outputs_fn, "outputs_fn")
        refuse_uncallable(loss_fn, "loss_fn")
        parameters = Parameters(params)

        def both(*batch: Any) -> tuple[Any, Tensor]:
            outputs = outputs_fn(*batch)
            return outputs, loss_fn(outputs, *batch)

        evaluate = Evaluation(both, parameters, randomness)

        def make(batch: Any) -> Graph:
            with LeanConvolutions() as convolutions:
                outputs, loss = evaluate(batch)
            refuse_unfit(loss, allow_batch_norm=allow_batch_norm)
            return GaussNewtonGraph(loss, output_tensors(outputs), parameters, convolutions)

        batches = MicroBatches(parameters, make, data, weights=weights, cache=cache)
        super().__init__(parameters, batches, shift=shift)
