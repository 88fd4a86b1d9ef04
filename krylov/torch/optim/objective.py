"""The function that an optimizer of second order minimises: loss, gradient and curvature on samples of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from krylov.torch.convolutions import LeanConvolutions
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.flatten import Parameters
from krylov.torch.graphs import GaussNewtonGraph, Graph, HessianGraph, output_tensors
from krylov.torch.guards import Randomness, explained, refuse_unfit
from krylov.torch.microbatches import WHOLE, MicroBatches, sample_count
from krylov.torch.optim.record import Ledger
from krylov.torch.statistics import GradientStatistics

__all__ = ["Curvature", "Objective"]

Curvature = Literal["ggn", "hessian"]
Batches = Sequence[Any]

_BACKWARD = (
    "the closure must not call backward(): the optimizer differentiates the loss itself. Return the loss, or loss and "
    "outputs, and leave out backward() and zero_grad()"
)
# What torch.autograd.grad says where there is no graph.
_NO_GRAPH = "does not require grad"


class Objective:
    """Loss of a closure over micro-batches, plus ``sum_i decay_i w_i^2 / 2``, as a function of the parameter vector.

    Parameters
    ----------
    closure : callable
        ``closure(batch)``, or ``closure()`` for the batch `WHOLE`, returns the mean loss, or loss and outputs.
    parameters : Parameters
        Whose values the closure reads.
    decay : Tensor of shape (n,) or None
        Weight decay of each entry.
    ledger : Ledger
        Where the work is written down.
    randomness : Randomness
        Sees to equal random numbers in all evaluations of a micro-batch (the same object).
    allow_batch_norm : bool
        See `HessianOperator`.
    needs_outputs : bool
        Whether the closure must give outputs, even where this evaluation can do without.
    differentiates : bool
        Whether it is known that the closure takes derivatives itself, so that it must always be called with a graph.

    Attributes
    ----------
    differentiates : bool
        The same, with what has been learnt since: where nothing is known the first loss is tried without a graph, and
        evaluated once more where that fails.
    """

    def __init__(
        self,
        closure: Callable[..., Any],
        parameters: Parameters,
        decay: Tensor | None,
        ledger: Ledger,
        randomness: Randomness,
        allow_batch_norm: bool,
        needs_outputs: bool = False,
        differentiates: bool = False,
    ) -> None:
        self._closure, self.parameters, self._decay = closure, parameters, decay
        self._ledger, self._randomness = ledger, randomness
        self._allow_batch_norm, self._needs_outputs = allow_batch_norm, needs_outputs
        self.differentiates = differentiates

    def loss(self, batches: Batches) -> float:
        """At the present parameters, penalty included; NaN where it overflows."""
        total, samples = 0.0, 0
        with self._ledger.part("evaluate"):
            values = [(self._value(batch), _count(batch)) for batch in batches]
            samples = sum(count for _, count in values)
            total = sum(float(loss) * (count / samples) for loss, count in values)
            if self._decay is not None:
                total += self._penalty(self.parameters.read())
        self._ledger.spend("loss", samples)
        return total

    def _value(self, batch: Any) -> Tensor:
        """The loss of one batch, without a graph where the closure can do without."""
        if not self.differentiates:
            try:
                with self._randomness(id(batch)), torch.no_grad():
                    return self._call(batch)[0].detach()
            except RuntimeError as error:
                if _NO_GRAPH not in str(error):
                    raise
                self._ledger.spend("loss", _count(batch))
        # It takes derivatives itself, by its inputs (the residuals of a differential equation).
        with self._randomness(id(batch)), torch.enable_grad():
            loss = self._call(batch)[0].detach()
        self.differentiates = True
        return loss

    def loss_at(self, point: Tensor, batches: Batches) -> float:
        """At another point."""
        with self.parameters.at(point):
            return self.loss(batches)

    def linearise(
        self,
        gradient: Batches,
        curvature: Batches,
        kind: Curvature,
        statistics: GradientStatistics | None = None,
    ) -> tuple[float, Tensor, CurvatureOperator]:
        """Loss and gradient on one sample, curvature on another.

        Micro-batches that are in both (the same objects) are evaluated once: their graphs give the gradient too.
        """
        shared = _nested(curvature, gradient)
        observer = statistics if shared else None  # only while the sample is first read

        def make(batch: Any) -> Graph:
            graph = self._graph(batch, kind)
            if observer is not None:
                observer.add(self.parameters.join(graph.gradient), _count(batch))
            return graph

        counts = [_count(batch) for batch in curvature]
        worked = sum(counts)
        with self._ledger.part("curvature"), self._without_backward():
            weights = [count / worked for count in counts]
            graphs = MicroBatches(self.parameters, make, curvature, weights=weights)
        observer = None
        operator = CurvatureOperator(self.parameters, graphs, diagonal=self._decay)
        value, g, seen = graphs.loss, graphs.gradient, worked
        done = {id(batch) for batch in curvature}
        if not shared:
            value, g, seen, done = 0.0, torch.zeros_like(g), 0, set()
        with self._ledger.part("gradient"), self._without_backward():
            for batch in gradient:
                if id(batch) in done:
                    continue
                loss, parts = self._differentiate(batch)
                count, vector = _count(batch), self.parameters.join(parts)
                if statistics is not None:
                    statistics.add(vector, count)
                seen += count
                worked += count
                value += (loss - value) * (count / seen)
                g = torch.lerp(g, vector, count / seen)
        self._ledger.spend("gradient", worked)
        if self._decay is not None:
            point = self.parameters.read()
            value += self._penalty(point)
            g = g.addcmul(self._decay, point)
        return value, g, operator

    @contextmanager
    def _without_backward(self) -> Iterator[None]:
        """Within, a backward pass that would accumulate into the parameters' gradients raises."""

        def refuse(_: Tensor) -> None:
            raise RuntimeError(_BACKWARD)

        hooks = [
            t.register_post_accumulate_grad_hook(refuse)  # type: ignore[no-untyped-call]
            for t in self.parameters.tensors
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _penalty(self, point: Tensor) -> float:
        assert self._decay is not None
        return float(torch.sum(self._decay.double() * point.double().square())) / 2

    def _graph(self, batch: Any, kind: Curvature) -> Graph:
        with self._randomness(id(batch)), torch.enable_grad():
            with LeanConvolutions() as convolutions:
                loss, outputs = self._call(batch)
            refuse_unfit(loss, allow_batch_norm=self._allow_batch_norm)
            if outputs is None and (kind == "ggn" or self._needs_outputs):
                raise ValueError(
                    "the Gauss-Newton matrix needs the outputs of the model: return (loss, outputs) from the closure, "
                    "or take curvature='hessian'"
                )
            if kind == "hessian":
                return HessianGraph(loss, self.parameters)
            return GaussNewtonGraph(loss, output_tensors(outputs), self.parameters, convolutions)

    def _differentiate(self, batch: Any) -> tuple[float, Sequence[Tensor | None]]:
        with self._randomness(id(batch)), torch.enable_grad(), explained():
            loss, _ = self._call(batch)
            return float(loss.detach()), torch.autograd.grad(
                loss, self.parameters.tensors, allow_unused=True
            )

    def _call(self, batch: Any) -> tuple[Tensor, Any]:
        # It may hold casts of the parameters from when they had other values.
        torch.clear_autocast_cache()
        result = self._closure() if batch is WHOLE else self._closure(batch)
        if isinstance(result, tuple):
            if len(result) != 2:
                raise ValueError(
                    f"the closure must return loss or (loss, outputs), not {len(result)} things"
                )
            return result
        if not isinstance(result, Tensor):
            raise TypeError(
                f"the closure must return the loss as a tensor, not {type(result).__name__}"
            )
        return result, None


def _count(batch: Any) -> int:
    return 1 if batch is WHOLE else sample_count(batch)


def _nested(inner: Batches, outer: Batches) -> bool:
    """Whether the micro-batches of one sample are among those of the other, each once."""
    a, b = {id(batch) for batch in inner}, {id(batch) for batch in outer}
    return a <= b and len(a) == len(inner) and len(b) == len(outer)
