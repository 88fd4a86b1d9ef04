"""Kept autograd graphs of one micro-batch, for the least floating-point work a product.

In units of one gradient (forward 1/3, backward 2/3), for a chain of layers:

    construction             1      forward, and one backward pass that keeps its graph
    Hessian product          2      one backward pass through the graph of the gradient; layer 1 saves some of it
    Gauss-Newton product     4/3    J v by differentiating the linear map u -> J^T u (Pearlmutter's trick), then J^T
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from krylov.torch.convolutions import LeanConvolutions
from krylov.torch.flatten import Parameters
from krylov.torch.guards import explained, refuse_no_second, refuse_wrong_second
from krylov.torch.losses import loss_hessian
from krylov.torch.nodes import edge_of, inputs_of, walk

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
        self._tensors, self._device = parameters.tensors, parameters.device
        with explained(self._device):
            gradient: Parts = torch.autograd.grad(
                loss, self._tensors, create_graph=True, allow_unused=True
            )
        _refuse_unrelated(gradient, "the loss does")
        self.gradient: Parts = [None if g is None else g.detach() for g in gradient]
        self._varying = [i for i, g in enumerate(gradient) if g is not None and g.requires_grad]
        self._sources = [g for g in gradient if g is not None and g.requires_grad]
        refuse_no_second(self._sources)
        refuse_wrong_second(loss)

    @property
    def roots(self) -> list[Tensor]:
        """The gradient."""
        return self._sources

    def multiply(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """H v."""
        if not self._sources:  # the loss is linear in the parameters
            return [None] * len(self._tensors)
        with explained(self._device):
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
    Only outputs that the loss is computed from count. `convolutions` is what the model was evaluated under, if it was.
    """

    def __init__(
        self,
        loss: Tensor,
        outputs: Sequence[Tensor],
        parameters: Parameters,
        convolutions: LeanConvolutions | None = None,
    ) -> None:
        self._pushing = nullcontext if convolutions is None else convolutions.pushing
        self.loss = loss.detach()
        self._tensors, self._device = parameters.tensors, parameters.device
        self.outputs, bypassed = _used(loss, outputs, self._tensors)
        with explained(self._device):
            self.hessian = loss_hessian(loss, self.outputs)
            self._cotangents = [g.requires_grad_() for g in self.hessian.gradient]
            pulled: Parts = torch.autograd.grad(
                self.outputs,
                self._tensors,
                self._cotangents,
                create_graph=True,
                allow_unused=True,
            )
        _refuse_unrelated(pulled, "the outputs do")
        self._varying = [i for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        self._pulled = [g for g in pulled if g is not None and g.requires_grad]
        refuse_no_second(self._pulled)
        if bypassed:
            # A penalty on the parameters within the loss: it counts in the gradient, not in the curvature.
            with explained(self._device):
                self.gradient: Parts = torch.autograd.grad(
                    loss, self._tensors, retain_graph=True, allow_unused=True
                )
        else:
            self.gradient = [None if g is None else g.detach() for g in pulled]

    @property
    def roots(self) -> list[Tensor]:
        """The outputs, and what they pull back."""
        return [*self.outputs, *self._pulled]

    def push(self, v: Sequence[Tensor], batched: bool = False) -> Parts:
        """J v."""
        with explained(self._device), self._pushing():
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
        with explained(self._device):
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
        directions = self.push(v, batched)
        with explained(self._device):
            curved = self.hessian.multiply(directions, batched)
        return self.pull(curved, batched)


def output_tensors(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returns: a tensor, or sequences and mappings of such; other things are passed over.

    Raises
    ------
    TypeError
        There is no tensor.
    """
    found = list(_tensors_in(outputs))
    if not found:
        raise TypeError(
            f"outputs must be a tensor, or a sequence or mapping of tensors, not {type(outputs).__name__}"
        )
    return found


def _tensors_in(outputs: Any) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from _tensors_in(list(outputs.values()))
    elif isinstance(outputs, Iterable) and not isinstance(outputs, str | bytes):
        for entry in outputs:
            yield from _tensors_in(entry)


def _used(
    loss: Tensor, outputs: Sequence[Tensor], tensors: Sequence[Tensor]
) -> tuple[list[Tensor], bool]:
    """The outputs that the loss was computed from, each once, and whether parameters also reach it another way."""
    ends = {edge_of(z): z for z in outputs if z.requires_grad}
    if not ends:
        raise ValueError(
            "the outputs do not depend on the parameters: return them as the model gives them, "
            "not detached and not computed under torch.no_grad()"
        )
    leaves = {edge_of(t) for t in tensors}
    reached, bypassed = [], False
    for edge in walk([edge_of(loss)], ends):
        if edge in ends:
            reached.append(edge)
        elif edge in leaves:
            bypassed = True
    if not reached:
        raise ValueError(
            "the loss does not depend on the outputs: return the very tensors that it was computed from"
        )
    if len(reached) > 1:
        _refuse_nested(set(reached))
    return [z for edge, z in ends.items() if edge in reached], bypassed


def _refuse_nested(edges: set[Any]) -> None:
    behind = [entry for node, _ in edges for entry in inputs_of(node)]
    if not edges.isdisjoint(walk(behind)):
        raise ValueError(
            "an output of the model is computed from another one, and the loss uses both: return only those "
            "that the others are computed from"
        )


def _refuse_unrelated(gradient: Parts, what_does: str) -> None:
    if all(g is None for g in gradient):
        raise ValueError(
            f"{what_does} not depend on any of the parameters: are they those of this model, "
            "and were they used without torch.no_grad()?"
        )
