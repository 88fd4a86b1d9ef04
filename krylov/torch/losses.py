"""The Hessian of a loss with respect to the outputs of the model, as an operator.

The autograd graph from the outputs to the loss says which loss it is. Where it is a sum of terms that are known here,
the product has a closed form; each term is a node of the graph, and all that lies between it and the loss must be
linear, so that one number or array ``c = d loss / d term`` carries reductions, class weights, ignored targets, label
smoothing and micro-batch weights:

    log-softmax z -> log p      H u = w (p u - p (p.u)),   w = - sum_j c_j over the classes of a row
    squared error  (z - y)^2    H u = 2 c u
    logistic loss with logits   H u = c (1 + (w+ - 1) y) s (1 - s) u,   s = sigmoid(z), w+ the weight of positives

Every other loss is differentiated twice by autograd, on the outputs only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

__all__ = ["LossHessian", "loss_hessian"]

# Nodes that are linear in all that they get gradients for.
_LINEAR = frozenset(
    name + "Backward" + digit
    for name in [
        "Add",
        "Sub",
        "Neg",
        "Sum",
        "Mean",
        "NllLoss",
        "NllLoss2D",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Select",
        "Slice",
        "Index",
        "Gather",
        "MaskedFill",
        "ToCopy",
        "Clone",
        "Transpose",
        "Permute",
        "Alias",
        "T",
    ]
    for digit in "012"
)
# Linear while only one factor depends on the parameters.
_BILINEAR = frozenset(("MulBackward0", "MulBackward1", "DivBackward0", "DivBackward1"))
# Between outputs and term: the same numbers in another dtype or shape.
_RESHAPES = frozenset(
    ("ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
)
_MEAN = 1  # of torch's codes for reductions; 0 is none and 2 is sum


class LossHessian:
    """``multiply(u)`` is the product with directions in output space, one tensor an output.

    Attributes
    ----------
    gradient : list of Tensor
        d loss / d outputs.
    is_closed_form : bool
        Whether no autograd takes part.
    """

    gradient: list[Tensor]
    is_closed_form: bool

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> list[Tensor | None]:
        """The product; `batched`: each tensor has a leading dimension of independent directions."""
        raise NotImplementedError

    def root(self, noise: Sequence[Tensor]) -> list[Tensor] | None:
        """``R noise`` for an R with ``R R^T = H``, where there is a closed form."""
        return None


def loss_hessian(loss: Tensor, outputs: Sequence[Tensor]) -> LossHessian:
    """The Hessian of `loss` with respect to `outputs`, which it must have been computed from.

    Raises
    ------
    ValueError
        The loss does not depend on the outputs.
    """
    terms = _recognise(loss, outputs[0]) if len(outputs) == 1 else None
    return _Autograd(loss, outputs) if terms is None else _ClosedForm(loss, outputs[0], terms)


def _gradient(loss: Tensor, outputs: Sequence[Tensor], create_graph: bool) -> list[Tensor | None]:
    found = torch.autograd.grad(
        loss, list(outputs), create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    if all(g is None for g in found):
        raise ValueError(
            "the loss does not depend on the outputs: return the very tensors that it was computed from"
        )
    return list(found)


class _Autograd(LossHessian):
    is_closed_form = False

    def __init__(self, loss: Tensor, outputs: Sequence[Tensor]) -> None:
        self._outputs = list(outputs)
        found = _gradient(loss, outputs, create_graph=True)
        self._varying = [i for i, g in enumerate(found) if g is not None and g.requires_grad]
        self._sources = [g for g in found if g is not None and g.requires_grad]
        self.gradient = [
            torch.zeros_like(z) if g is None else g.detach()
            for g, z in zip(found, outputs, strict=True)
        ]

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> list[Tensor | None]:
        pairs = [
            (source, u[i])
            for source, i in zip(self._sources, self._varying, strict=True)
            if u[i] is not None
        ]
        if not pairs:
            return [None] * len(self._outputs)
        return list(
            torch.autograd.grad(
                [source for source, _ in pairs],
                self._outputs,
                [part for _, part in pairs],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )
        )


class _ClosedForm(LossHessian):
    is_closed_form = True

    def __init__(self, loss: Tensor, outputs: Tensor, terms: Sequence[_Term]) -> None:
        (gradient,) = _gradient(loss, [outputs], create_graph=False)
        assert gradient is not None
        self.gradient = [gradient]
        self._terms = terms

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> list[Tensor | None]:
        (direction,) = u
        if direction is None or not self._terms:
            return [None]
        first, *others = self._terms
        product = first.multiply(direction)
        for term in others:
            product = product + term.multiply(direction)
        return [product]

    def root(self, noise: Sequence[Tensor]) -> list[Tensor] | None:
        if len(self._terms) != 1:
            return None
        return [self._terms[0].root(noise[0])]


class _Term:
    """A part of the loss with a known Hessian; directions come in any shape with the right number of elements."""

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape

    def multiply(self, u: Tensor) -> Tensor:
        """H u, possibly with leading dimensions more than the outputs have."""
        return self._apply(u, self._times)

    def root(self, noise: Tensor) -> Tensor:
        """R noise."""
        return self._apply(noise, self._times_root)

    def _apply(self, u: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        size = self._shape.numel()
        rows = () if u.numel() == size else (u.numel() // size,)
        return form(u.reshape(rows + self._shape)).reshape(u.shape).to(u.dtype)

    def _times(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def _times_root(self, u: Tensor) -> Tensor:
        raise NotImplementedError


class _Diagonal(_Term):
    def __init__(self, shape: torch.Size, diagonal: Tensor) -> None:
        super().__init__(shape)
        self._diagonal = diagonal

    def _times(self, u: Tensor) -> Tensor:
        return self._diagonal * u

    def _times_root(self, u: Tensor) -> Tensor:
        return self._diagonal.clamp(min=0).sqrt() * u


class _Softmax(_Term):
    def __init__(self, log_p: Tensor, dim: int, weight: Tensor) -> None:
        super().__init__(log_p.shape)
        self._p, self._dim, self._weight = log_p.exp(), dim, weight

    def _times(self, u: Tensor) -> Tensor:
        # One array of the size of the outputs beside p: they may be sequences over a large vocabulary.
        product = self._p * u
        inner = product.sum(self._dim, keepdim=True)
        return product.addcmul_(self._p, inner, value=-1).mul_(self._weight)

    def _times_root(self, u: Tensor) -> Tensor:
        # diag(p) - p p^T = R R^T with R = diag(sqrt p) - p sqrt(p)^T, as the p of a row sum to one.
        scaled = self._p.sqrt() * u
        inner = scaled.sum(self._dim, keepdim=True)
        return (scaled - self._p * inner) * self._weight.clamp(min=0).sqrt()


def _recognise(loss: Tensor, outputs: Tensor) -> list[_Term] | None:
    """The terms that the loss is linear in; None where a part of the graph is not known."""
    if loss.grad_fn is None:
        return None
    edge = get_gradient_edge(outputs)
    found: dict[Any, None] = {}
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node is edge.node:  # linear in the outputs
            continue
        name = node.name()
        if name in _TERMS:
            if not _acts_on(node, edge):
                return None
            found[node] = None
        elif name in _LINEAR or (name in _BILINEAR and len(list(_inputs(node))) == 1):
            waiting.extend(_inputs(node))
        else:
            return None
    try:
        return [_TERMS[node.name()](node, _coefficient(loss, node)) for node in found]
    except (AttributeError, RuntimeError):  # saved tensors are no promise of torch's
        return None


def _inputs(node: Any) -> Iterator[Any]:
    return (parent for parent, _ in node.next_functions if parent is not None)


def _acts_on(node: Any, edge: GradientEdge) -> bool:
    """Whether the only thing the node's value depends on are the outputs, possibly reshaped."""
    while True:
        parents = [(parent, k) for parent, k in node.next_functions if parent is not None]
        if len(parents) != 1 or node.next_functions[0][0] is None:
            return False
        node, k = parents[0]
        if node is edge.node:
            return bool(k == edge.output_nr)
        if node.name() not in _RESHAPES:
            return False


def _coefficient(loss: Tensor, node: Any) -> Tensor:
    if node is loss.grad_fn:
        return torch.ones_like(loss)
    (c,) = torch.autograd.grad(loss, [GradientEdge(node, 0)], retain_graph=True)
    return c.detach()


def _softmax(node: Any, c: Tensor) -> _Term:
    log_p = node._saved_result.detach()
    dim = int(node._saved_dim)
    dim = dim - (1 << 64) if dim >= 1 << 63 else dim  # shown unsigned
    dim = dim - log_p.ndim if dim >= 0 else dim
    return _Softmax(log_p, dim, -c.to(log_p.dtype).sum(dim, keepdim=True))


def _squared_error(node: Any, c: Tensor) -> _Term:
    z = node._saved_self
    factor = 2 / z.numel() if node._saved_reduction == _MEAN else 2.0
    return _Diagonal(z.shape, factor * c)


def _logistic(node: Any, c: Tensor) -> _Term:
    z = node._saved_self.detach()
    s = torch.sigmoid(z)
    diagonal = c * s * (1 - s)
    if node._saved_reduction == _MEAN:
        diagonal = diagonal / z.numel()
    if node._saved_weight is not None:
        diagonal = diagonal * node._saved_weight
    if node._saved_pos_weight is not None:
        diagonal = diagonal * (1 + (node._saved_pos_weight - 1) * node._saved_target)
    return _Diagonal(z.shape, diagonal.detach())


_TERMS: dict[str, Callable[[Any, Tensor], _Term]] = {
    "LogSoftmaxBackward0": _softmax,
    "MseLossBackward0": _squared_error,
    "BinaryCrossEntropyWithLogitsBackward0": _logistic,
}
