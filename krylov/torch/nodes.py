"""Walks over autograd graphs, from results to what they were computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

__all__ = ["Edge", "edge_of", "leading_to", "leaf_behind", "walk"]

_CASTS = frozenset(("ToCopyBackward0",))
_TRANSPOSES = frozenset(("TBackward0", "TransposeBackward0", "PermuteBackward0"))

#: One output of one node: what autograd knows a tensor by.
Edge = tuple[Any, int]


def edge_of(tensor: Tensor) -> Edge:
    """Where a tensor that requires gradients hangs in the graph."""
    found = get_gradient_edge(tensor)
    return found.node, found.output_nr


def inputs_of(node: Any) -> list[Edge]:
    """What the node was computed from, constants left out."""
    return [(parent, k) for parent, k in node.next_functions if parent is not None]


def walk(start: Iterable[Edge], stop: Collection[Edge] = ()) -> Iterator[Edge]:
    """The edges in `start` and all that they were computed from, each once, but nothing behind those in `stop`."""
    waiting, seen, opened = list(start), set(), set()
    while waiting:
        edge = waiting.pop()
        if edge in seen:
            continue
        seen.add(edge)
        yield edge
        if edge not in stop and edge[0] not in opened:
            opened.add(edge[0])
            waiting.extend(inputs_of(edge[0]))


def leading_to(start: Edge, ends: Collection[Edge]) -> set[Any]:
    """The nodes on the ways from `start` to any of `ends`."""
    users: dict[Any, list[Any]] = {}
    waiting = []
    for edge in walk([start], ends):
        if edge in ends:
            continue
        node = edge[0]
        for entry in inputs_of(node):
            if entry in ends:
                waiting.append(node)
            else:
                users.setdefault(entry[0], []).append(node)
    found: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(users.get(node, ()))
    return found


def leaf_behind(node: Any) -> tuple[Tensor | None, bool]:
    """The tensor that a matrix is, behind casts and transposes, and whether it is its transpose."""
    swapped = False
    while node is not None and node.name() in _CASTS | _TRANSPOSES:
        swapped ^= node.name() in _TRANSPOSES
        node = node.next_functions[0][0]
    return getattr(node, "variable", None), swapped
