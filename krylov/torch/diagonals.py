"""Diagonals of curvature matrices, for Jacobi preconditioning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from krylov.checks import choice, integer
from krylov.preconditioners import JacobiPreconditioner
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.evaluation import Evaluation, refuse_uncallable
from krylov.torch.flatten import Parameters
from krylov.torch.graphs import GaussNewtonGraph
from krylov.torch.guards import explained, refuse_unfit
from krylov.torch.microbatches import WHOLE, sample_count

__all__ = ["EmpiricalFisherDiagonal", "GaussNewtonDiagonal"]


class _DiagonalEstimate:
    """What both diagonals share."""

    #: Tensor of shape (n,), nowhere negative, on the device of the parameters.
    diagonal: Tensor

    def preconditioner(self, shift: float = 0.0, power: float = 1.0) -> JacobiPreconditioner:
        """``(diagonal + shift) ** -power`` as an M for the solvers."""
        return JacobiPreconditioner(self.diagonal.cpu(), power, shift)


class EmpiricalFisherDiagonal(_DiagonalEstimate):
    """Mean over groups of samples of the squared mean gradient of the group.

    With one sample a group it is the diagonal of the empirical Fisher matrix. The mean over b samples has about 1 / b
    of the variance of one, so groups of b give about 1 / b of that diagonal where noise dominates: a factor that
    matters beside a shift.

    Parameters
    ----------
    loss_fn : callable
        As for `HessianOperator`: ``loss_fn()``, or ``loss_fn(batch)`` with `data`. If it returns a scalar, the batch is
        a group; if it returns a vector, one loss per sample, each sample is.
    params, data, randomness, allow_batch_norm
        See `HessianOperator`.
    chunk : int
        Gradients of samples that are computed at once.

    Attributes
    ----------
    diagonal : Tensor of shape (n,)

    Notes
    -----
    Costs one gradient, or for b samples a micro-batch, each a group, b backward passes through it: about 2 b / 3
    gradients. From an operator that keeps its graphs (`of`) it costs nothing.

    References
    ----------
    Martens (2010), section 4.7, with ``power=0.75``.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Tensor],
        params: Iterable[Any] | Mapping[str, Tensor],
        *,
        data: Iterable[Any] | None = None,
        chunk: int = 16,
        randomness: str = "refuse",
        allow_batch_norm: bool = False,
    ) -> None:
        refuse_uncallable(loss_fn, "loss_fn")
        integer(chunk, "chunk", 1)
        parameters = Parameters(params)
        evaluate = Evaluation(loss_fn, parameters, randomness)
        total = torch.zeros(parameters.n, dtype=parameters.dtype, device=parameters.device)
        samples = 0
        for batch in [WHOLE] if data is None else data:
            losses = evaluate(batch)
            whole = losses.sum() if isinstance(losses, Tensor) and losses.ndim == 1 else losses
            refuse_unfit(whole, allow_batch_norm=allow_batch_norm)
            if losses.ndim == 1:
                count = len(losses)
                _add_squares_of_each(total, losses, parameters, chunk)
            else:
                count = 1 if batch is WHOLE else sample_count(batch)
                with explained(parameters.device):
                    gradient = torch.autograd.grad(losses, parameters.tensors, allow_unused=True)
                vector = parameters.join(gradient)
                total.addcmul_(vector, vector, value=count)
            samples += count
        if samples == 0:
            raise ValueError("data is empty: it gave no samples")
        self.diagonal = total.div_(samples)

    @classmethod
    def of(cls, operator: CurvatureOperator) -> EmpiricalFisherDiagonal:
        """From the gradients of the micro-batches of an operator: these are the groups, with the operator's weights."""
        made = cls.__new__(cls)
        total: Tensor | None = None
        for weight, graph in operator.graphs():
            vector = operator.parameters.join(graph.gradient)
            square = vector.square_().mul_(weight)
            total = square if total is None else total.add_(square)
        assert total is not None
        made.diagonal = total
        return made


def _add_squares_of_each(total: Tensor, losses: Tensor, parameters: Parameters, chunk: int) -> None:
    rows = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
    for block in torch.split(rows, chunk):
        with explained(parameters.device):
            gradients = torch.autograd.grad(
                losses,
                parameters.tensors,
                block,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
        total.add_(parameters.join(gradients, len(block)).square_().sum(0))


class GaussNewtonDiagonal(_DiagonalEstimate):
    """Diagonal of a Gauss-Newton matrix, estimated without bias from random signs.

    For a loss that is recognised (see `GaussNewtonOperator`) with ``R R^T = H_L``, the mean over probes of
    ``(J^T R e)^2``, with a sign for each output: no cancellation between parameters, and nowhere negative. For any
    other loss the mean of ``e * (G e)``, with a sign for each parameter (Hutchinson), negative entries set to zero; it
    has more variance.

    Parameters
    ----------
    operator : GaussNewtonOperator
        Its graphs are used; its shift is left out, as a preconditioner adds its own.
    probes : int
        Random vectors; the relative error of an entry falls with their square root.
    seed : int
        Of the signs. The global generators are left alone.
    method : {"auto", "factor", "hutchinson"}
        Which of the two.

    Attributes
    ----------
    diagonal : Tensor of shape (n,)

    Raises
    ------
    TypeError
        The operator is not a Gauss-Newton matrix.
    ValueError
        method="factor", and the loss is not recognised.

    Notes
    -----
    A probe costs one backward pass, 2/3 of a gradient; Hutchinson's a product, 4/3.

    References
    ----------
    Chapelle and Erhan (2011); Martens, Sutskever and Swersky (2012).
    """

    def __init__(
        self,
        operator: CurvatureOperator,
        *,
        probes: int = 1,
        seed: int = 0,
        method: str = "auto",
    ) -> None:
        integer(probes, "probes", 1)
        choice(method, "method", ("auto", "factor", "hutchinson"))
        if not isinstance(operator, CurvatureOperator):
            raise TypeError(
                f"operator must be a GaussNewtonOperator, not {type(operator).__name__}"
            )
        generator = torch.Generator(operator.device).manual_seed(integer(seed, "seed"))
        total: Tensor | None = None
        for weight, graph in operator.graphs():
            if not isinstance(graph, GaussNewtonGraph):
                raise TypeError("the operator is not a Gauss-Newton matrix, but a Hessian")
            estimate = _Estimate(graph, operator.parameters, generator, method)
            for _ in range(probes):
                part = estimate.probe().mul_(weight / probes)
                total = part if total is None else total.add_(part)
        assert total is not None
        total.clamp_(min=0)
        if operator.penalty is not None:
            total.add_(operator.penalty)
        self.diagonal = total


class _Estimate:
    """Random vectors with the diagonal of one graph's matrix as their mean."""

    def __init__(
        self,
        graph: GaussNewtonGraph,
        parameters: Parameters,
        generator: torch.Generator,
        method: str,
    ) -> None:
        self._graph, self._parameters, self._generator = graph, parameters, generator
        known = graph.hessian.is_closed_form
        if method == "factor" and not known:
            raise ValueError(
                "method='factor' needs a loss that is recognised (see GaussNewtonOperator): take 'hutchinson'"
            )
        self._factored = known and method != "hutchinson"

    def probe(self) -> Tensor:
        """A new vector."""
        join = self._parameters.join
        if self._factored:
            return join(self._graph.pull(self._graph.hessian.sample(self._generator))).square_()
        signs = self._signs()
        return join(self._graph.multiply(self._parameters.split(signs))).mul_(signs)

    def _signs(self) -> Tensor:
        bits = torch.randint(
            2, (self._parameters.n,), generator=self._generator, device=self._parameters.device
        )
        return bits.to(self._parameters.dtype).mul_(2).sub_(1)
