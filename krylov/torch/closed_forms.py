"""Losses that are recognised in the autograd graph, term by term, with the Hessian of each.

A loss is recognised where all ways from it to the outputs lead through linear nodes to terms of `_TERMS`, and from
there through linear nodes to the outputs. Only then is the Hessian ``sum over terms of P^T H P`` with a constant
``c = d loss / d term``. Nodes that no way to the outputs leads through are constants, whatever they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from krylov.torch.nodes import Edge, edge_of, inputs_of, leading_to
from krylov.torch.output_maps import OutputMap, Reshaped, Traced

__all__ = ["Term", "closed_form_terms", "is_diagonal"]

# Nodes that are linear in all that they get gradients for, taken together.
_LINEAR_OPERATIONS = """
    Add Sub Neg Sum Mean NllLoss NllLoss2D Where ToCopy Clone
    View UnsafeView ReshapeAlias Alias Squeeze Unsqueeze Expand Repeat T Transpose Permute Flip
    Select Slice Split Unbind Cat Stack Index IndexSelect Gather MaskedSelect MaskedFill
"""
_LINEAR = frozenset(
    f"{operation}Backward{k}" for operation in _LINEAR_OPERATIONS.split() for k in range(3)
)
# Linear in one factor while the other is constant; quotients in what is divided.
_PRODUCTS = frozenset(("MulBackward0", "MulBackward1"))
_QUOTIENTS = frozenset(("DivBackward0", "DivBackward1"))
# The same numbers in the same order, in another shape or dtype.
_RESHAPES = frozenset(
    ("ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
)
# They keep what they have computed, which has the shape of their argument, and not the argument.
_OF_RESULT = frozenset(("LogSoftmaxBackward0", "ExpBackward0"))
_MEAN = 1  # of torch's codes for reductions; 0 is none and 2 is sum


class Term:
    """A part of a loss with a known Hessian.

    Attributes
    ----------
    argument : OutputMap
        How what the Hessian belongs to depends on the outputs. Directions have its shape, possibly after leading
        dimensions.
    """

    def __init__(self, argument: OutputMap) -> None:
        self.argument = argument

    def signs(self, generator: torch.Generator) -> Tensor:
        """Random signs for `root`."""
        shape, dtype = self.argument.shape, self.argument.dtype
        bits = torch.randint(2, shape, generator=generator, device=generator.device)
        return bits.to(dtype).mul_(2).sub_(1)

    def multiply(self, u: Tensor) -> Tensor:
        """H u."""
        raise NotImplementedError

    def root(self, u: Tensor) -> Tensor:
        """R u for an R with ``R R^T = H``; zero where H is negative."""
        raise NotImplementedError


class _Diagonal(Term):
    def __init__(self, argument: OutputMap, diagonal: Tensor) -> None:
        super().__init__(argument)
        self._diagonal = diagonal

    def multiply(self, u: Tensor) -> Tensor:
        return self._diagonal * u

    def root(self, u: Tensor) -> Tensor:
        return self._diagonal.clamp(min=0).sqrt() * u


class _Softmax(Term):
    def __init__(self, argument: OutputMap, log_p: Tensor, dim: int, weight: Tensor) -> None:
        super().__init__(argument)
        self._p, self._dim, self._weight = log_p.exp(), dim, weight

    def multiply(self, u: Tensor) -> Tensor:
        # One array of the size of the outputs beside p: they may be sequences over a large vocabulary.
        product = self._p * u
        inner = product.sum(self._dim, keepdim=True)
        return product.addcmul_(self._p, inner, value=-1).mul_(self._weight)

    def root(self, u: Tensor) -> Tensor:
        # diag(p) - p p^T = R R^T with R = diag(sqrt p) - p sqrt(p)^T, as the p of a row sum to one.
        scaled = self._p.sqrt() * u
        inner = scaled.sum(self._dim, keepdim=True)
        return scaled.addcmul_(self._p, inner, value=-1).mul_(self._weight.clamp(min=0).sqrt())


class _Unknown(Exception):
    """A part of the graph is not known."""


def is_diagonal(term: Term) -> bool:
    """Whether the Hessian of the term by its own argument is diagonal."""
    return isinstance(term, _Diagonal)


def closed_form_terms(loss: Tensor, outputs: Sequence[Tensor]) -> list[Term] | None:
    """The terms that the loss is linear in; None where a part of the graph is not known."""
    if loss.grad_fn is None:
        return None
    start, ends = edge_of(loss), {edge_of(z): i for i, z in enumerate(outputs)}
    leading = leading_to(start, ends)
    try:
        nodes = _terms_between(start, ends, leading)
        return [
            _TERMS[node.name()](node, _argument(node, ends, leading, outputs), c)
            for node, c in zip(nodes, _coefficients(loss, nodes), strict=True)
        ]
    except (AttributeError, RuntimeError, _Unknown):  # saved tensors are no promise of torch's
        return None


def _terms_between(start: Edge, ends: dict[Edge, int], leading: set[Any]) -> list[Any]:
    found: dict[Any, None] = {}
    waiting, seen = [] if start in ends else [start[0]], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() in _TERMS:
            found[node] = None
        else:
            waiting.extend(parent for parent, k in _linear_inputs(node, ends, leading))
    return list(found)


def _linear_inputs(node: Any, ends: dict[Edge, int], leading: set[Any]) -> list[Edge]:
    """The inputs of a node that is linear in them which lead to the outputs, these themselves left out."""
    name = node.name()
    given = [k for k, edge in enumerate(node.next_functions) if _leads(edge, ends, leading)]
    linear = (
        name in _LINEAR
        or (name in _PRODUCTS and len(given) == 1)
        or (name in _QUOTIENTS and given == [0])
    )
    if not linear:
        raise _Unknown
    return [edge for edge in inputs_of(node) if edge not in ends and edge[0] in leading]


def _leads(edge: Edge, ends: dict[Edge, int], leading: set[Any]) -> bool:
    return edge in ends or edge[0] in leading


def _argument(
    node: Any, ends: dict[Edge, int], leading: set[Any], outputs: Sequence[Tensor]
) -> OutputMap:
    """The map from the outputs to what the term is a function of: its first input, or its only one that varies."""
    given = [edge for edge in node.next_functions if _leads(edge, ends, leading)]
    symmetric = node.name() == "MseLossBackward0"
    if len(given) != 1 or not (symmetric or node.next_functions[0] == given[0]):
        raise _Unknown
    edge = given[0]
    saved = node._saved_result if node.name() in _OF_RESULT else node._saved_self
    waiting, seen = [edge] if edge not in ends else [], set()
    reshapes = True
    while waiting:
        at = waiting.pop()[0]
        if at not in seen:
            seen.add(at)
            reshapes = reshapes and at.name() in _RESHAPES
            waiting.extend(_linear_inputs(at, ends, leading))
    if not reshapes:
        return Traced(edge, outputs, saved.shape, saved.dtype)
    while edge not in ends:
        edge = edge[0].next_functions[0]
    i = ends[edge]
    return Reshaped(i, outputs, saved.shape, saved.dtype)


def _coefficients(loss: Tensor, nodes: Sequence[Any]) -> list[Tensor]:
    """Derivatives of the loss with respect to the terms."""
    inner = [node for node in nodes if node is not loss.grad_fn]
    if not inner:
        return [torch.ones_like(loss) for _ in nodes]
    edges = [GradientEdge(node, 0) for node in inner]
    return [c.detach() for c in torch.autograd.grad(loss, edges, retain_graph=True)]


def _softmax(node: Any, argument: OutputMap, c: Tensor) -> Term:
    log_p = node._saved_result.detach()
    dim = int(node._saved_dim)
    dim = dim - (1 << 64) if dim >= 1 << 63 else dim  # shown unsigned
    dim = dim - log_p.ndim if dim >= 0 else dim
    return _Softmax(argument, log_p, dim, -c.to(log_p.dtype).sum(dim, keepdim=True))


def _squared_error(node: Any, argument: OutputMap, c: Tensor) -> Term:
    if node._saved_target.shape != argument.shape:  # broadcast within
        raise _Unknown
    mean = node._saved_reduction == _MEAN
    return _Diagonal(argument, c * (2 / argument.shape.numel() if mean else 2))


def _square(node: Any, argument: OutputMap, c: Tensor) -> Term:
    if node._saved_exponent != 2:
        raise _Unknown
    return _Diagonal(argument, 2 * c)


def _logarithm(node: Any, argument: OutputMap, c: Tensor) -> Term:
    return _Diagonal(argument, -c / node._saved_self.detach().square())


def _exponential(node: Any, argument: OutputMap, c: Tensor) -> Term:
    return _Diagonal(argument, c * node._saved_result.detach())


def _logistic(node: Any, argument: OutputMap, c: Tensor) -> Term:
    target = node._saved_target.detach()
    if target.shape != argument.shape:
        raise _Unknown
    s = torch.sigmoid(node._saved_self.detach())
    diagonal = c * s * (1 - s)
    if node._saved_reduction == _MEAN:
        diagonal = diagonal / argument.shape.numel()
    if node._saved_weight is not None:
        diagonal = diagonal * node._saved_weight.detach()
    if node._saved_pos_weight is not None:
        diagonal = diagonal * (1 + (node._saved_pos_weight.detach() - 1) * target)
    return _Diagonal(argument, diagonal)


_TERMS: dict[str, Callable[[Any, OutputMap, Tensor], Term]] = {
    "LogSoftmaxBackward0": _softmax,
    "MseLossBackward0": _squared_error,
    "PowBackward0": _square,
    "LogBackward0": _logarithm,
    "ExpBackward0": _exponential,
    "BinaryCrossEntropyWithLogitsBackward0": _logistic,
}
