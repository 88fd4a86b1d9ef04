"""How the argument of a term of a loss depends on the outputs of the model: ``z -> P z + const``, known by P."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from krylov.torch.nodes import Edge

__all__ = ["OutputMap", "Reshaped", "Traced"]

Parts = list[Tensor | None]


class OutputMap:
    """P and its transpose; None stands for zeros.

    Attributes
    ----------
    shape, dtype
        Of the argument.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype

    def push(self, u: Sequence[Tensor | None], batched: bool) -> Tensor | None:
        """P u; `batched`: each tensor has a leading dimension of independent directions."""
        raise NotImplementedError

    def pull(self, w: Tensor, batched: bool) -> Parts:
        """P^T w."""
        raise NotImplementedError


class Reshaped(OutputMap):
    """The argument is the i-th output, possibly in another shape or dtype."""

    def __init__(
        self, i: int, outputs: Sequence[Tensor], shape: torch.Size, dtype: torch.dtype
    ) -> None:
        super().__init__(shape, dtype)
        self._i, self._count = i, len(outputs)
        self._outer, self._outer_dtype = outputs[i].shape, outputs[i].dtype

    def push(self, u: Sequence[Tensor | None], batched: bool) -> Tensor | None:
        part = u[self._i]
        if part is None:
            return None
        return part.reshape((len(part), *self.shape) if batched else self.shape).to(self.dtype)

    def pull(self, w: Tensor, batched: bool) -> Parts:
        parts: Parts = [None] * self._count
        shape = (len(w), *self._outer) if batched else self._outer
        parts[self._i] = w.reshape(shape).to(self._outer_dtype)
        return parts


class Traced(OutputMap):
    """Autograd of the linear part of the graph, for P^T; once more, of ``w -> P^T w``, for P."""

    def __init__(
        self, edge: Edge, outputs: Sequence[Tensor], shape: torch.Size, dtype: torch.dtype
    ) -> None:
        super().__init__(shape, dtype)
        self._edge, self._outputs = GradientEdge(*edge), list(outputs)
        zero = torch.zeros((), dtype=dtype, device=outputs[0].device)
        self._probe = zero.expand(shape).requires_grad_()
        pulled: Sequence[Tensor | None] = torch.autograd.grad(
            [self._edge], self._outputs, [self._probe], create_graph=True, allow_unused=True
        )
        self._varying = [i for i, part in enumerate(pulled) if part is not None]
        self._pulled = [part for part in pulled if part is not None]

    def push(self, u: Sequence[Tensor | None], batched: bool) -> Tensor | None:
        pairs = [
            (part, u[i])
            for part, i in zip(self._pulled, self._varying, strict=True)
            if u[i] is not None
        ]
        if not pairs:
            return None
        (found,) = torch.autograd.grad(
            [part for part, _ in pairs],
            [self._probe],
            [direction for _, direction in pairs],
            retain_graph=True,
            is_grads_batched=batched,
        )
        return found

    def pull(self, w: Tensor, batched: bool) -> Parts:
        return list(
            torch.autograd.grad(
                [self._edge],
                self._outputs,
                [w],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )
        )
