"""A sample of the data in micro-batches: its loss, its gradient, and the kept graphs for products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from krylov.checks import choice, finite_number
from krylov.torch.flatten import Parameters
from krylov.torch.graphs import Graph
from krylov.torch.guards import refuse_other_loss
from krylov.torch.memory import available_bytes, held_bytes

__all__ = ["WHOLE", "Cache", "Mean", "MicroBatches", "sample_count"]

Cache = Literal["auto", "graph", "none"]
CACHES = ("auto", "graph", "none")

#: The one batch of functions that take none.
WHOLE = object()
# Of the memory there is, what kept graphs may take.
_SHARE = 0.5
_CHANGED = (
    "the parameters have been changed since this operator was built: its products belong to where they were. "
    "Build a new operator after each step"
)
_SHUFFLES = (
    "data gives its batches in another order each time it is read (a DataLoader with shuffle=True?): the products of "
    "one operator must all see the same samples. Give list(loader), or a loader with shuffle=False"
)


def sample_count(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor.

    Raises
    ------
    TypeError
        There is no tensor in it.
    """
    for tensor in _tensors(batch):
        return int(tensor.shape[0]) if tensor.ndim else 1
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
        """Loss, gradient, and the weights, which sum to one with `normalise`.

        Raises
        ------
        ValueError
            There was no micro-batch, or none with a sample.
        """
        if self._total is None:
            raise ValueError("data is empty: it gave no micro-batch")
        total = sum(self._weights) if normalise else 1.0
        if total == 0:
            raise ValueError("data is empty: its micro-batches have no samples")
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
        Keep as many graphs as half of the free memory holds, and that of an only micro-batch always; all; or none.

    Attributes
    ----------
    loss : float
        Weighted sum over the micro-batches.
    gradient : Tensor of shape (n,)
        Of the loss.

    Raises
    ------
    TypeError, ValueError
        The data are empty or shuffled, or do not fit the weights.
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
        choice(cache, "cache", CACHES)
        self._parameters, self._make = parameters, make
        source = _readable(data)
        given = _checked_weights(weights, source)
        self._marks: list[tuple[float, ...]] = []
        self._losses: list[Tensor] = []
        self._graphs: list[Graph | None] = []
        mean = Mean(parameters)
        # The graph of the only one is there already: nothing is to be decided.
        alone = isinstance(source, list | tuple) and len(source) == 1
        room = _Room("graph" if alone and cache == "auto" else cache, parameters.device)
        for i, batch in enumerate(source):
            graph = make(batch)
            mean.add(graph.loss, graph.gradient, _weight(given, i, batch))
            self._losses.append(graph.loss)
            self._graphs.append(graph if room.holds(graph, batch) else None)
            self._marks.append(_fingerprint(batch))
        if given is not None and len(given) != len(self._graphs):
            raise _wrong_count(len(self._graphs), len(given))
        self.loss, self.gradient, self._weights = mean.finish(normalise=given is None)
        self._at = parameters.mark()
        # What is read again for every product.
        self._data = source if self.kept < len(self._graphs) else None

    @property
    def kept(self) -> int:
        """How many graphs are kept."""
        return sum(graph is not None for graph in self._graphs)

    def graphs(self) -> Iterator[tuple[float, Graph]]:
        """Weight and graph of each micro-batch.

        Raises
        ------
        RuntimeError
            The parameters are no longer those of the construction, or the function has changed.
        ValueError
            The data have another order than then.
        """
        if self._parameters.mark() != self._at:
            raise RuntimeError(_CHANGED)
        if self._data is None:
            yield from zip(self._weights, self._graphs, strict=True)
            return
        count = 0
        for i, batch in enumerate(self._data):
            count += 1
            if count > len(self._marks) or _fingerprint(batch) != self._marks[i]:
                raise ValueError(_SHUFFLES)
            graph = self._graphs[i]
            if graph is None:
                graph = self._make(batch)
                refuse_other_loss(self._losses[i], graph.loss)
            yield self._weights[i], graph
        if count != len(self._marks):
            raise ValueError(_SHUFFLES)


def _readable(data: Iterable[Any] | None) -> Iterable[Any]:
    """The data as something that can be read more than once."""
    if data is None:
        return [WHOLE]
    if isinstance(data, Tensor) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"data must be an iterable of batches, not {type(data).__name__}: give [batch]"
        )
    sampler = getattr(data, "sampler", None)
    if isinstance(sampler, torch.utils.data.RandomSampler | torch.utils.data.WeightedRandomSampler):
        raise ValueError(_SHUFFLES)
    return list(data) if isinstance(data, Iterator) else data


def _checked_weights(weights: Sequence[float] | None, data: Iterable[Any]) -> list[float] | None:
    if weights is None:
        return None
    values = [finite_number(w, "weights") for w in weights]
    try:
        count = len(data)  # type: ignore[arg-type]
    except TypeError:  # known when it has been read
        return values
    if count != len(values):
        raise _wrong_count(count, len(values))
    return values


def _wrong_count(batches: int, weights: int) -> ValueError:
    return ValueError(f"data gave {batches} micro-batches, but there are {weights} weights")


def _weight(weights: Sequence[float] | None, i: int, batch: Any) -> float:
    if weights is not None:
        return weights[i] if i < len(weights) else 0.0
    return 1.0 if batch is WHOLE else float(sample_count(batch))


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for entry in batch:
            yield from _tensors(entry)


def _fingerprint(batch: Any) -> tuple[float, ...]:
    """A few numbers that tell one batch from another."""
    return tuple(number for tensor in _tensors(batch) for number in _numbers(tensor.detach()))


def _numbers(tensor: Tensor) -> tuple[float, float]:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return tensor.numel(), 0.0
    flat = tensor.reshape(-1)
    picked = flat[:: max(1, flat.numel() // 64)].double().nan_to_num()
    places = torch.arange(1, picked.numel() + 1, device=picked.device, dtype=picked.dtype)
    return flat.numel(), float(places @ picked)


class _Room:
    """Decides whether there is memory for one more graph."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self._cache, self._device = cache, device
        self._size = 0

    def holds(self, graph: Graph, batch: Any) -> bool:
        if self._cache == "none":
            return False
        if self._cache == "graph" or batch is WHOLE:  # the only one: it is there already
            return True
        # All micro-batches have about the size of the first.
        self._size = self._size or held_bytes(graph.roots)
        return self._size < _SHARE * available_bytes(self._device)
