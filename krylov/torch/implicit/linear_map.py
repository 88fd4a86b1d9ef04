"""What a differentiable solve needs of A: products for the solver, products for autograd, and the adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["ConstantMap", "DenseMap", "FunctionMap", "LinearMap", "SparseMap", "refuse_tangent"]


class LinearMap(ABC):
    """A square linear map on vectors like a given one.

    Attributes
    ----------
    depends : bool or None
        Whether products depend on tensors that require grad; None for a callable before its first product.
    twice : bool
        Whether its products can be differentiated twice.
    """

    depends: bool | None = False
    twice = True

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors that must not be overwritten before the backward pass."""
        return ()

    @abstractmethod
    def operator(self) -> Any:
        """What a krylov solver multiplies by: values alone."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """The product with x of shape (n,) or (n, k) for autograd; only for maps that depend on something."""

    @abstractmethod
    def adjoint(self) -> LinearMap:
        """The conjugate transpose."""


def refuse_tangent(value: Any, name: str) -> None:
    """Raise for a tensor of forward-mode differentiation, whose tangent would be lost."""
    if not isinstance(value, Tensor):
        return
    if forward_ad.unpack_dual(value).tangent is not None:  # type: ignore[no-untyped-call]
        raise RuntimeError(
            f"{name} carries a forward-mode tangent, which kt.solve would lose: differentiate in reverse mode"
        )


class DenseMap(LinearMap):
    """A dense tensor."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self.depends = matrix.requires_grad

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self._matrix,)

    def operator(self) -> Tensor:
        # A transposed or conjugated view is laid out once, not for every right-hand side.
        return self._matrix.detach().resolve_conj().resolve_neg().contiguous()

    def product(self, x: Tensor) -> Tensor:
        return self._matrix @ x

    def adjoint(self) -> LinearMap:
        return DenseMap(self._matrix.mH)


class SparseMap(LinearMap):
    """A sparse tensor; its gradient is as sparse as itself, where torch's own product would make it dense."""

    # torch drops the second derivative in the backward pass of its sparse constructors.
    twice = False

    def __init__(self, matrix: Tensor, *, transposed: bool = False) -> None:
        self._matrix, self._transposed = matrix, transposed
        self.depends = matrix.requires_grad

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (_entries(self._matrix.detach())[2],)

    def operator(self) -> Tensor:
        if not self._transposed:
            return self._matrix.detach()
        rows, columns, values = _entries(self._matrix.detach())
        indices = torch.stack([columns, rows])
        values = values.conj_physical()
        return torch.sparse_coo_tensor(indices, values, self._matrix.shape, check_invariants=False)

    def product(self, x: Tensor) -> Tensor:
        rows, columns, values = _entries(self._matrix)
        if x.ndim == 2:
            values = values[:, None]
        return torch.zeros_like(x).index_add(0, rows, values * x[columns])

    def adjoint(self) -> LinearMap:
        return SparseMap(self._matrix, transposed=not self._transposed)


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values; the values know where they come from."""
    if matrix.layout is torch.sparse_csr:
        starts = matrix.crow_indices()
        rows = torch.arange(len(starts) - 1, device=matrix.device).repeat_interleave(starts.diff())
        return rows, matrix.col_indices(), matrix.values()
    if matrix.layout is not torch.sparse_coo:
        matrix = torch.Tensor.to_sparse(matrix)  # CSC
    matrix = matrix.coalesce()
    rows, columns = matrix.indices()
    return rows, columns, matrix.values()


class ConstantMap(LinearMap):
    """A SciPy or NumPy operator: autograd sees nothing in it."""

    def __init__(self, value: Any, name: str) -> None:
        self._value, self._name = value, name

    def operator(self) -> Any:
        return self._value

    def product(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def adjoint(self) -> LinearMap:
        value = self._value
        if isinstance(value, np.ndarray) or sp.issparse(value):
            return ConstantMap(value.conj().T, self._name)
        if isinstance(value, LinearOperator):
            return ConstantMap(
                LinearOperator(value.shape, self._rmatvec, dtype=value.dtype), self._name
            )
        raise _no_adjoint(self._name, f"a {type(value).__name__} has none")

    def _rmatvec(self, x: Any) -> Any:
        try:
            return self._value.rmatvec(x)
        except (NotImplementedError, TypeError) as error:
            raise _no_adjoint(self._name, "its rmatvec fails") from error


class FunctionMap(LinearMap):
    """A callable ``v -> A v``; autograd reaches whatever it has captured."""

    depends = None

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        like: Tensor,
        name: str,
        reverse: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.function, self.like, self.name, self._reverse = function, like.detach(), name, reverse

    def operator(self) -> Callable[[Tensor], Any]:
        def multiply(v: Tensor) -> Any:
            answer = self.function(v)
            if self.depends is None:
                refuse_tangent(answer, f"a product with {self.name}")
                self.depends = isinstance(answer, Tensor) and answer.requires_grad
            return answer

        return multiply

    def product(self, x: Tensor) -> Tensor:
        columns = x.unbind(1) if x.ndim == 2 else [x]
        products = [
            torch.as_tensor(self.function(column)).reshape(column.shape) for column in columns
        ]
        return torch.stack(products, 1) if x.ndim == 2 else products[0]

    def adjoint(self) -> LinearMap:
        if self._reverse is not None:
            return FunctionMap(
                self._reverse, self.like, f"the adjoint of {self.name}", self.function
            )
        return _Pullback(self)


class _Pullback(LinearMap):
    """The adjoint of a callable, as the vector-Jacobian product that autograd makes of it."""

    def __init__(self, forward: FunctionMap) -> None:
        self._forward = forward

    @property
    def depends(self) -> bool | None:  # type: ignore[override]
        return self._forward.depends

    def operator(self) -> Callable[[Tensor], Tensor]:
        graph = self._graph()  # kept for all products of a solve
        return lambda v: self._pull(graph, v, create_graph=False)

    def product(self, x: Tensor) -> Tensor:
        graph = self._graph()
        if x.ndim == 1:
            return self._pull(graph, x, create_graph=True)
        return torch.stack([self._pull(graph, v, create_graph=True) for v in x.unbind(1)], 1)

    def adjoint(self) -> LinearMap:
        return self._forward

    def _graph(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            start = torch.zeros_like(self._forward.like, requires_grad=True)
            end = self._forward.function(start)
            if not isinstance(end, Tensor) or not end.requires_grad:
                raise _no_adjoint(self._forward.name, "autograd cannot follow it")
            return start, end.reshape(start.shape).to(start.dtype)

    def _pull(self, graph: tuple[Tensor, Tensor], v: Tensor, *, create_graph: bool) -> Tensor:
        start, end = graph
        (pulled,) = torch.autograd.grad(
            end, start, v, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        if pulled is None:
            raise _no_adjoint(self._forward.name, "autograd sees no path from v to A v")
        return pulled


def _no_adjoint(name: str, why: str) -> RuntimeError:
    return RuntimeError(
        f"the gradient needs products with the adjoint of {name}, and {why}: give adjoint=, or for a Hermitian {name} "
        "use method='cg'"
    )
