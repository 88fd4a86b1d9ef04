"""A sample of the data in micro-batches: its loss, its gradient, and the kept graphs for products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from krylov.torch.flatten import Parameters
from krylov.torch.graphs import Graph
from krylov.torch.guards import fingerprint, refuse_change, refuse_shuffling
from krylov.torch.memory import available_bytes, held_bytes

__all__ = ["WHOLE", "Cache", "Mean", "MicroBatches", "sample_count"]

Cache = Literal["auto", "graph", "none"]
CACHES = ("auto", "graph", "none")

#: The one batch of functions that take none.
WHOLE = object()
# Of the memory there is, what kept graphs may take.
_SHARE = 0.5


def sample_count(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor.

    Raises
    ------
    TypeError
        There is no tensor in it.
    """
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        for entry in batch:
            try:
                return sample_count(entry)
            except TypeError:
                continue
    raise TypeError(
        f"cannot tell how many samples a batch of type {type(batch).__name__} has: it holds no tensor; give weights"
    )


class Mean:
    """Weighted loss and gradient of micro-batches, one after the other, in the memory of one gradient."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._total: Tensor | None = None
        self._losses: list[Tensor] = []
        self._weights: list[float] = []

    def add(self, loss: Tensor, gradient: Sequence[Tensor | None], weight: float) -> None:
        """A micro-batch."""
        self._losses.append(loss.detach())
        self._weights.append(weight)
        vector = self._parameters.join(gradient)
        if self._total is None:
            self._total = vector if weight == 1 else vector.mul_(weight)
        else:
            self._total.add_(vector, alpha=weight)

    def finish(self, normalise: bool) -> tuple[float, Tensor, list[float]]:
        """Loss, gradient, and the weights, which sum to one with `normalise`."""
        assert self._total is not None
        total = sum(self._weights) if normalise else 1.0
        weights = [w / total for w in self._weights]
        loss = sum(w * float(x) for w, x in zip(weights, self._losses, strict=True))
        return loss, self._total if total == 1 else self._total.div_(total), weights


class MicroBatches:
    """Micro-batches with weights, each with a graph that is kept or built again for every product.

    Parameters
    ----------
    parameters : Parameters
        What is differentiated for.
    make : callable
        ``make(batch)`` evaluates the model on a micro-batch and returns its graph.
    data : iterable, optional
        The micro-batches, read once if all graphs are kept; None: ``make`` takes none and has one.
    weights : sequence of float, optional
        Of the micro-batches; by default their shares of all samples, so that means over micro-batches become the
        mean over the sample.
    cache : {"auto", "graph", "none"}
        Keep as many graphs as half of the free memory holds, all, or none.

    Attributes
    ----------
    loss : float
        Weighted sum over the micro-batches.
    gradient : Tensor of shape (n,)
        Of the loss.
    """

    def __init__(
        self,
        parameters: Parameters,
        make: Callable[[Any], Graph],
        data: Iterable[Any] | None = None,
        *,
        weights: Sequence[float] | None = None,
        cache: Cache = "auto",
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache must be one of {', '.join(map(repr, CACHES))}, got {cache!r}")
        self._parameters, self._make = parameters, make
        refuse_shuffling(data)
        if data is None:
            data = [WHOLE]
        elif iter(data) is data:  # can be read only once
            data = list(data)
        self._data: Iterable[Any] = data
        self._marks: list[tuple[float, ...]] = []
        self._graphs: list[Graph | None] = []
        mean = Mean(parameters)
        room = _Room(cache, parameters.device)
        for i, batch in enumerate(data):
            graph = make(batch)
            mean.add(graph.loss, graph.gradient, _weight(weights, i, batch))
            self._graphs.append(graph if batch is WHOLE or room.holds(graph) else None)
            self._marks.append(() if batch is WHOLE else fingerprint(batch))
        if not self._graphs:
            raise ValueError("data is empty: it gave no micro-batch")
        if weights is not None and len(weights) != len(self._graphs):
            raise ValueError(
                f"data gave {len(self._graphs)} micro-batches, but there are {len(weights)} weights"
            )
        self.loss, self.gradient, self._weights = mean.finish(normalise=weights is None)

    @property
    def kept(self) -> int:
        """How many graphs are kept."""
        return sum(graph is not None for graph in self._graphs)

    def graphs(self) -> Iterator[tuple[float, Graph]]:
        """Weight and graph of each micro-batch."""
        if self.kept == len(self._graphs):
            yield from zip(self._weights, self._graphs, strict=True)  # type: ignore[misc]
            return
        marks = []
        for i, batch in enumerate(self._data):
            marks.append(fingerprint(batch))
            refuse_change(self._marks[: i + 1], marks)
            graph = self._graphs[i]
            yield self._weights[i], self._make(batch) if graph is None else graph
        refuse_change(self._marks, marks)


def _weight(weights: Sequence[float] | None, i: int, batch: Any) -> float:
    if weights is not None:
        return float(weights[i]) if i < len(weights) else 0.0
    return 1.0 if batch is WHOLE else float(sample_count(batch))


class _Room:
    """Decides whether there is memory for one more graph."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self._cache, self._device = cache, device
        self._size = 0

    def holds(self, graph: Graph) -> bool:
        if self._cache != "auto":
            return self._cache == "graph"
        # All micro-batches have about the size of the first.
        self._size = self._size or held_bytes(graph.roots)
        return self._size < _SHARE * available_bytes(self._device)
