"""The affine layers of a network, as its autograd graph shows them, and the Kronecker factors of their curvature.

A layer is a node ``addmm`` or ``mm`` whose matrix is a parameter: `torch.nn.Linear`, on samples or on sequences, and
``x @ W``, also under autocast. One that is used more than once has the rows of all its uses. Layers that share a
parameter in different ways (with another bias, once transposed) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from krylov.torch.curvature import CurvatureOperator
from krylov.torch.graphs import GaussNewtonGraph
from krylov.torch.guards import explained
from krylov.torch.nodes import edge_of, leaf_behind, walk

__all__ = ["Factors", "Layer", "measured_factors"]


class Layer(NamedTuple):
    """Where a layer's weight and bias are among the parameters."""

    weight: int
    bias: int  # -1: none
    transposed: bool  # the weight has shape (inputs, outputs)


class Factors(NamedTuple):
    """A, of the inputs of a layer with a one for the bias, and G, of the derivatives by its outputs; or inverses."""

    A: Tensor
    G: Tensor


def measured_factors(
    operator: CurvatureOperator, probes: int, generator: torch.Generator
) -> dict[Layer, Factors]:
    """The factors of all layers: means over the micro-batches, by weight.

    Raises
    ------
    ValueError
        There is no layer, or the loss is not known in closed form.
    """
    tensors = operator.parameters.tensors
    total: dict[Layer, Factors] = {}
    weights: dict[Layer, float] = {}
    for weight, graph in operator.graphs():
        if not isinstance(graph, GaussNewtonGraph):
            raise TypeError("the operator is not a Gauss-Newton matrix, but a Hessian")
        if not graph.hessian.is_closed_form:
            raise ValueError(
                "preconditioner='kronecker' needs a loss that is known in closed form: take mse_loss, cross_entropy or "
                "binary_cross_entropy_with_logits of torch on the outputs, or preconditioner='lbfgs'"
            )
        layers = _layers(graph.outputs, tensors)
        with explained(operator.device):
            new = _of_batch(graph, layers, tensors, probes, generator, operator.dtype)
        for layer, (A, G) in new.items():
            old = total.get(layer)
            A, G = A.mul_(weight), G.mul_(weight)
            total[layer] = Factors(A, G) if old is None else Factors(old.A.add_(A), old.G.add_(G))
            weights[layer] = weights.get(layer, 0.0) + weight
    users = Counter(position for layer in total for position in layer[:2] if position >= 0)
    found = {
        layer: Factors(A / weights[layer], G)
        for layer, (A, G) in total.items()
        if max(users[layer.weight], users[layer.bias]) == 1
    }
    if not found:
        raise ValueError(
            "preconditioner='kronecker' covers no layer of this network: it needs a Linear layer (addmm or mm in the "
            "graph, not hidden by torch.compile or checkpointing) that shares its weight and bias with no other; "
            "take preconditioner='lbfgs'"
        )
    return found


def _of_batch(
    graph: GaussNewtonGraph,
    layers: Mapping[Layer, Sequence[Any]],
    tensors: Sequence[Tensor],
    probes: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[Layer, Factors]:
    """Of one micro-batch; the rows of all uses of a layer count alike."""
    found = {}
    for layer, uses in layers.items():
        a = torch.cat([_input(node).detach().to(dtype) for node in uses])
        if layer.bias >= 0:
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
        size = tensors[layer.weight].shape[1 if layer.transposed else 0]
        found[layer] = Factors((a.T @ a).div_(len(a)), a.new_zeros(size, size))
    edges = [GradientEdge(node, 0) for uses in layers.values() for node in uses]
    for _ in range(probes if edges else 0):
        signs = zip(graph.outputs, graph.hessian.sample(generator), strict=True)
        given = [(z, u) for z, u in signs if u is not None]
        if not given:  # a loss that is linear in the outputs
            break
        outputs, vectors = zip(*given, strict=True)
        pulled = iter(
            torch.autograd.grad(outputs, edges, vectors, retain_graph=True, allow_unused=True)
        )
        for layer, uses in layers.items():
            for _ in uses:
                if (g := next(pulled)) is not None:
                    g = g.detach().to(dtype)
                    found[layer].G.addmm_(g.T, g, alpha=1 / probes)
    return found


def _layers(outputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> dict[Layer, list[Any]]:
    """The layers behind the outputs, each with its nodes."""
    position = {id(tensor): i for i, tensor in enumerate(tensors)}
    found: dict[Layer, list[Any]] = {}
    for node in dict.fromkeys(node for node, _ in walk([edge_of(z) for z in outputs])):
        name = node.name()
        if name not in ("AddmmBackward0", "MmBackward0"):
            continue
        inputs = [parent for parent, _ in node.next_functions]
        weight, swapped = leaf_behind(inputs[-1])
        i, j = position.get(id(weight), -1), -1
        if i < 0 or (name == "AddmmBackward0" and node._saved_alpha != 1):
            continue
        if name == "AddmmBackward0":
            bias, _ = leaf_behind(inputs[0])
            size = tensors[i].shape[0 if swapped else 1]
            if bias is not None and bias.shape == (size,) and node._saved_beta == 1:
                j = position.get(id(bias), -1)
        found.setdefault(Layer(i, j, not swapped), []).append(node)
    return found


def _input(node: Any) -> Tensor:
    """a, one row a sample."""
    saved: Tensor = node._saved_mat1 if node.name() == "AddmmBackward0" else node._saved_self
    return saved
