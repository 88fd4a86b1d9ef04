"""Kept autograd graphs of one micro-batch, for the least floating-point work a product.

In units of one gradient (forward 1/3, backward 2/3), for a chain of layers:

    construction             1      forward, and one backward pass that keeps its graph
    Hessian product          2      one backward pass through the graph of the gradient; layer 1 saves some of it
    Gauss-Newton product     4/3    J v by differentiating the linear map u -> J^T u (Pearlmutter's trick), then J^T
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from krylov.torch.flatten import Parameters
from krylov.torch.guards import explained
from krylov.torch.losses import loss_hessian

__all__ = ["GaussNewtonGraph", "Graph", "HessianGraph", "output_tensors"]

Parts = Sequence[Tensor | None]


class Graph(Protocol):
    """What is kept of a micro-batch: loss and gradient there, and products with the curvature."""

    loss: Tensor
    gradient: Parts

    @property
    def roots(self) -> list[Tensor]:
        """Tensors whose graphs hold all that is kept."""

    def multiply(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """The product with a direction in parameter space; `batched`: with several, along leading dimensions."""


class HessianGraph:
    """The graph of the gradient of a loss (Pearlmutter 1994)."""

    def __init__(self, loss: Tensor, parameters: Parameters) -> None:
        self.loss = loss.detach()
        self._tensors = parameters.tensors
        with explained():
            gradient = torch.autograd.grad(
                loss, self._tensors, create_graph=True, allow_unused=True
            )
        _refuse_unrelated(gradient, "the loss")
        self.gradient: Parts = [None if g is None else g.detach() for g in gradient]
        self._varying = [i for i, g in enumerate(gradient) if g is not None and g.requires_grad]
        self._sources = [g for g in gradient if g is not None and g.requires_grad]

    @property
    def roots(self) -> list[Tensor]:
        """The gradient."""
        return self._sources

    def multiply(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """H v."""
        if not self._sources:  # the loss is linear in the parameters
            return [None] * len(self._tensors)
        with explained():
            return torch.autograd.grad(
                self._sources,
                self._tensors,
                [v[i] for i in self._varying],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )


class GaussNewtonGraph:
    """The graphs of ``u -> J^T u`` and of the loss at the outputs: products with ``J^T H_L J`` (Schraudolph 2002).

    The backward pass that makes the first graph is done with ``u = d loss / d outputs``, so it is the gradient too.
    """

    def __init__(self, loss: Tensor, outputs: Sequence[Tensor], parameters: Parameters) -> None:
        self.loss = loss.detach()
        self._tensors = parameters.tensors
        self.outputs = list(outputs)
        for z in self.outputs:
            if not z.requires_grad:
                raise ValueError(
                    "the outputs do not depend on the parameters: return them as the model gives them, "
                    "not detached and not computed under torch.no_grad()"
                )
        with explained():
            self.hessian = loss_hessian(loss, self.outputs)
            self._cotangents = [g.requires_grad_() for g in self.hessian.gradient]
            pulled = torch.autograd.grad(
                self.outputs,
                self._tensors,
                self._cotangents,
                create_graph=True,
                allow_unused=True,
            )
        _refuse_unrelated(pulled, "the outputs")
        self._varying = [i for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        self._pulled = [g for g in pulled if g is not None and g.requires_grad]
        if _bypassed(loss, self.outputs, self._tensors):
            # A penalty on the parameters within the loss: it counts in the gradient, not in the curvature.
            gradient = torch.autograd.grad(
                loss, self._tensors, retain_graph=True, allow_unused=True
            )
            self.gradient: Parts = gradient
        else:
            self.gradient = [None if g is None else g.detach() for g in pulled]

    @property
    def roots(self) -> list[Tensor]:
        """The outputs, and what they pull back."""
        return [*self.outputs, *self._pulled]

    def push(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """J v."""
        with explained():
            return torch.autograd.grad(
                self._pulled,
                self._cotangents,
                [v[i] for i in self._varying],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )

    def pull(self, u: Parts, batched: bool = False) -> Parts:
        """J^T u."""
        given = [(z, w) for z, w in zip(self.outputs, u, strict=True) if w is not None]
        if not given:
            return [None] * len(self._tensors)
        with explained():
            return torch.autograd.grad(
                [z for z, _ in given],
                self._tensors,
                [w for _, w in given],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )

    def multiply(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """J^T H_L J v."""
        return self.pull(self.hessian.multiply(self.push(v, batched), batched), batched)


def output_tensors(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returns: a tensor, or a sequence or mapping of such."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    if isinstance(outputs, Iterable):
        return [tensor for entry in outputs for tensor in output_tensors(entry)]
    raise TypeError(
        f"outputs must be a tensor, or a sequence or mapping of tensors, not {type(outputs).__name__}"
    )


def _refuse_unrelated(gradient: Parts, what: str) -> None:
    if all(g is None for g in gradient):
        raise ValueError(
            f"{what} does not depend on any of the parameters: are they those of this model, "
            "and was it evaluated without torch.no_grad()?"
        )


def _bypassed(loss: Tensor, outputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> bool:
    """Whether a parameter reaches the loss by a way that does not lead through the outputs."""
    ends = {torch.autograd.graph.get_gradient_edge(z).node for z in outputs}
    leaves = {torch.autograd.graph.get_gradient_edge(t).node for t in tensors} - ends
    waiting, seen = [loss.grad_fn], set(ends)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node in leaves:
            return True
        seen.add(node)
        waiting.extend(parent for parent, _ in node.next_functions)
    return False
