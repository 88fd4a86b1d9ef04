"""The Jacobian of a model's outputs as a matrix, for networks small enough that it fits.

Where each output depends on one row of each use of an affine layer (one sample of the batch), a single backward pass
with ones at the outputs gives the derivatives D of all outputs by all rows at once, and the Jacobian is made of the
outer products of rows of D and rows X of the layers' inputs:

    d output_i / d W  =  sum over the rows r of i  D_r X_r^T

Residuals of differential equations are such outputs: their graphs use W forwards and, in the derivatives by the inputs,
backwards. Which output a row belongs to shows in a second pass, with i + 1 at output i: it multiplies the row by i + 1.
The result is compared with a backward pass of random weights. Whatever does not agree is done row by row.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from krylov.torch.flatten import Parameters
from krylov.torch.graphs import GaussNewtonGraph
from krylov.torch.guards import explained
from krylov.torch.nodes import edge_of, leaf_behind, walk

__all__ = ["jacobian"]

# Backward passes that are made at once, one row of the Jacobian each.
_BATCH = 16
# With ones, with numbers, with random weights.
_PASSES = 3


class _Use(NamedTuple):
    """A node that multiplies by a parameter: its rows are ``X W^T`` (plus the bias)."""

    node: Any
    weight: int
    bias: int  # -1: none
    transposed: bool  # the rows are X W
    columns: bool  # the samples are columns of what the node gives
    X: Tensor


def jacobian(graph: GaussNewtonGraph, parameters: Parameters) -> tuple[Tensor, int]:
    """D outputs / d parameters, of shape (number of outputs, n); the outputs flattened, one after the other.

    Also how many backward passes it took: three where each output depends on one sample, else one more for each output.

    Raises
    ------
    RuntimeError
        The graph is gone.
    """
    with explained(parameters.device):
        found = _by_samples(graph, parameters)
        if found is not None:
            return found, _PASSES
        J = _row_by_row(graph, parameters)
        return J, _PASSES + len(J)


def _by_samples(graph: GaussNewtonGraph, parameters: Parameters) -> Tensor | None:
    """By outer products; None where they do not give the Jacobian."""
    uses = _uses(graph, parameters)
    if not uses:
        return None
    count = sum(z.numel() for z in graph.outputs)
    dtype, device = parameters.dtype, parameters.device
    index = torch.arange(1, count + 1, dtype=torch.float64, device=device)
    ones = _rows(graph, uses, torch.ones_like(index))
    numbered = _rows(graph, uses, index)
    J = torch.zeros(count, parameters.n, dtype=dtype, device=device)
    for use, D, N in zip(uses, ones, numbered, strict=True):
        if D is None or N is None:
            continue
        owner = _owners(D, N, count)
        if owner is None:
            return None
        _add_outer(J, use, owner, D, parameters)
    return J if _agrees(J, graph, parameters) else None


def _uses(graph: GaussNewtonGraph, parameters: Parameters) -> list[_Use]:
    """The nodes ``addmm`` and ``mm`` with a parameter as a factor."""
    position = {id(tensor): i for i, tensor in enumerate(parameters.tensors)}
    found = []
    for node in dict.fromkeys(node for node, _ in walk([edge_of(z) for z in graph.outputs])):
        name, bias = node.name(), -1
        if name not in ("AddmmBackward0", "MmBackward0"):
            continue
        inputs = [parent for parent, _ in node.next_functions]
        left, right = inputs[-2:]
        if name == "AddmmBackward0":
            if node._saved_alpha != 1 or node._saved_beta != 1:
                continue
            first, second = node._saved_mat1, node._saved_mat2
            bias = position.get(id(leaf_behind(inputs[0])[0]), -1)
        else:
            first, second = node._saved_self, node._saved_mat2
        (a, a_swapped), (b, b_swapped) = leaf_behind(left), leaf_behind(right)
        if id(b) in position and first is not None:
            found.append(_Use(node, position[id(b)], bias, not b_swapped, False, first.detach()))
        elif id(a) in position and second is not None and bias < 0:
            X = second.detach().T
            found.append(_Use(node, position[id(a)], -1, a_swapped, True, X))
    return found


def _rows(graph: GaussNewtonGraph, uses: list[_Use], weights: Tensor) -> list[Tensor | None]:
    """Derivatives of the weighted sum of the outputs by the rows of each use."""
    pulled: Sequence[Tensor | None] = torch.autograd.grad(
        graph.outputs,
        [GradientEdge(use.node, 0) for use in uses],
        _split(graph, weights),
        retain_graph=True,
        allow_unused=True,
    )
    return [
        None if D is None else (D.detach().T if use.columns else D.detach())
        for use, D in zip(uses, pulled, strict=True)
    ]


def _split(graph: GaussNewtonGraph, weights: Tensor, batch: tuple[int, ...] = ()) -> list[Tensor]:
    parts = torch.split(weights, [z.numel() for z in graph.outputs], -1)
    return [
        part.reshape(*batch, *z.shape).to(z.dtype)
        for part, z in zip(parts, graph.outputs, strict=True)
    ]


def _owners(D: Tensor, numbered: Tensor, count: int) -> Tensor | None:
    """The output that each row belongs to; None where one belongs to several."""
    largest, column = D.double().abs().max(1)
    picked = torch.where(largest > 0, largest, 1)
    at = column[:, None]
    ratio = (numbered.double().gather(1, at) * D.double().gather(1, at).sign())[:, 0] / picked
    nearest = ratio.round().clamp(1, count)
    wrong = (numbered.double() - nearest[:, None] * D.double()).abs().amax(1)
    if bool((wrong > 1e-3 * largest).any()):
        return None
    return nearest.long() - 1


def _add_outer(J: Tensor, use: _Use, owner: Tensor, D: Tensor, parameters: Parameters) -> None:
    a, b = (use.X, D) if use.transposed else (D, use.X)
    outer = (a[:, :, None] * b[:, None, :]).reshape(len(D), -1)
    _add_rows(J, owner, outer.to(J.dtype), parameters, use.weight)
    if use.bias >= 0:
        _add_rows(J, owner, D.to(J.dtype), parameters, use.bias)


def _add_rows(J: Tensor, owner: Tensor, rows: Tensor, parameters: Parameters, i: int) -> None:
    sizes = [tensor.numel() for tensor in parameters.tensors]
    begin = sum(sizes[:i])
    block = J[:, begin : begin + sizes[i]]
    first, length = int(owner[0]), len(owner)
    consecutive = torch.arange(first, first + length, device=owner.device)
    if torch.equal(owner, consecutive):
        block[first : first + length] += rows
    else:
        block.index_add_(0, owner, rows)


def _agrees(J: Tensor, graph: GaussNewtonGraph, parameters: Parameters) -> bool:
    """Whether ``J^T w`` is what a backward pass of w gives, for random weights w."""
    generator = torch.Generator(parameters.device).manual_seed(0)
    w = torch.randn(len(J), generator=generator, dtype=torch.float64, device=parameters.device)
    pulled = parameters.join(graph.pull(list(_split(graph, w))))
    wanted = J.T @ w.to(J.dtype)
    size = w.abs().to(J.dtype) @ J.abs()
    # Each tensor by its own size: one of little influence must not be forgotten.
    compared = zip(*(parameters.split(v) for v in (wanted - pulled, size, pulled)), strict=True)
    relative = 100 * torch.finfo(J.dtype).eps
    return all(
        float(difference.abs().max()) <= relative * max(float(own.max()), float(p.abs().max()))
        for difference, own, p in compared
        if p.numel()
    )


def _row_by_row(graph: GaussNewtonGraph, parameters: Parameters) -> Tensor:
    """By backward passes, several at once where torch can."""
    count = sum(z.numel() for z in graph.outputs)
    J = torch.empty(count, parameters.n, dtype=parameters.dtype, device=parameters.device)
    step = _BATCH
    begin = 0
    while begin < count:
        end = min(begin + step, count)
        rows = torch.zeros(end - begin, count, dtype=torch.float64, device=J.device)
        rows[torch.arange(end - begin), torch.arange(begin, end)] = 1
        if step > 1:
            try:
                with warnings.catch_warnings():  # of operations that torch takes one by one
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    parts = graph.pull(list(_split(graph, rows, (len(rows),))), True)
                    J[begin:end] = parameters.join(parts, len(rows))
            except RuntimeError:  # of an operation that it does not take at all
                step = 1
                continue
        else:
            J[begin] = parameters.join(graph.pull(list(_split(graph, rows[0]))))
        begin = end
    return J
