"""The Hessian of a loss with respect to the outputs of the model, as an operator.

Where the loss is a sum of terms that are known here (`closed_forms` reads that off its autograd graph), the product has
a closed form:

    log-softmax z -> log p      H u = w (p u - p (p.u)),   w = - sum_j c_j over the classes of a row
    squared error  (z - y)^2    H u = 2 c u
    logarithm      log z        H u = -c u / z^2
    exponential    e^z          H u = c e^z u
    logistic loss with logits   H u = c (1 + (w+ - 1) y) s (1 - s) u,   s = sigmoid(z), w+ the weight of positives

with ``c = d loss / d term``, which carries reductions, class weights, ignored targets, label smoothing and the weights
of terms. Where a term is no function of an output itself but of ``P z + const`` for the outputs z (a slice, a
transpose, a temperature), the product is ``P^T H P u``. Every other loss is differentiated twice by autograd, on the
outputs only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from krylov.torch.closed_forms import Term, closed_form_terms, is_diagonal
from krylov.torch.guards import refuse_no_second

__all__ = ["LossHessian", "loss_hessian"]

Parts = list[Tensor | None]


class LossHessian:
    """``multiply(u)`` is the product with directions in output space, one tensor an output.

    Attributes
    ----------
    gradient : list of Tensor
        d loss / d outputs.
    is_closed_form : bool
        Whether all terms of the loss were recognised.
    """

    gradient: list[Tensor]
    is_closed_form: bool

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> Parts:
        """The product; `batched`: each tensor has a leading dimension of independent directions.

        None stands for zeros.
        """
        raise NotImplementedError

    def diagonal(self) -> list[Tensor] | None:
        """The entries, one tensor an output, of a Hessian that is known to be diagonal; None for every other."""
        return None

    def sample(self, generator: torch.Generator) -> Parts:
        """``R e`` for random signs e and a factor ``R R^T = H``; only where there is a closed form.

        Its outer product is H in the mean. Terms with a negative weight have no real factor and count as zero.
        """
        raise NotImplementedError


def loss_hessian(loss: Tensor, outputs: Sequence[Tensor]) -> LossHessian:
    """The Hessian of `loss` with respect to `outputs`, none of which is computed from another.

    Raises
    ------
    ValueError
        The loss does not depend on the outputs.
    """
    terms = closed_form_terms(loss, outputs)
    return _Autograd(loss, outputs) if terms is None else _ClosedForm(loss, outputs, terms)


def _gradient(loss: Tensor, outputs: Sequence[Tensor], create_graph: bool) -> Parts:
    found = torch.autograd.grad(
        loss, list(outputs), create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    if all(g is None for g in found):
        raise ValueError(
            "the loss does not depend on the outputs: return the very tensors that it was computed from"
        )
    return list(found)


def _filled(gradient: Parts, outputs: Sequence[Tensor]) -> list[Tensor]:
    """New tensors that nothing else refers to."""
    return [
        torch.zeros_like(z) if g is None else g.detach()
        for g, z in zip(gradient, outputs, strict=True)
    ]


class _Autograd(LossHessian):
    is_closed_form = False

    def __init__(self, loss: Tensor, outputs: Sequence[Tensor]) -> None:
        self._outputs = list(outputs)
        found = _gradient(loss, outputs, create_graph=True)
        self._varying = [i for i, g in enumerate(found) if g is not None and g.requires_grad]
        self._sources = [g for g in found if g is not None and g.requires_grad]
        self.gradient = _filled(found, outputs)
        refuse_no_second(self._sources)

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> Parts:
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

    def __init__(self, loss: Tensor, outputs: Sequence[Tensor], terms: Sequence[Term]) -> None:
        self.gradient = _filled(_gradient(loss, outputs, create_graph=False), outputs)
        self._terms, self._count = terms, len(outputs)

    def multiply(self, u: Sequence[Tensor | None], batched: bool = False) -> Parts:
        product: Parts = [None] * self._count
        for term in self._terms:
            direction = term.argument.push(u, batched)
            if direction is not None:
                _add(product, term.argument.pull(term.multiply(direction), batched))
        return product

    def diagonal(self) -> list[Tensor] | None:
        if not all(map(is_diagonal, self._terms)):
            return None
        ones: Parts = [torch.ones_like(g) for g in self.gradient]
        diagonal = _filled(self.multiply(ones), self.gradient)
        # The terms may mix outputs on the way to their arguments: then random directions show it.
        generator = torch.Generator(self.gradient[0].device).manual_seed(0)
        u: Parts = [
            torch.randn(g.shape, generator=generator, dtype=g.dtype, device=g.device)
            for g in self.gradient
        ]
        for product, d, v in zip(self.multiply(u), diagonal, u, strict=True):
            assert v is not None
            wanted = d * v
            found = torch.zeros_like(wanted) if product is None else product
            if not torch.allclose(found, wanted, rtol=100 * torch.finfo(d.dtype).eps, atol=0.0):
                return None
        return diagonal

    def sample(self, generator: torch.Generator) -> Parts:
        total: Parts = [None] * self._count
        for term in self._terms:
            _add(total, term.argument.pull(term.root(term.signs(generator)), False))
        return total


def _add(total: Parts, parts: Parts) -> None:
    for i, part in enumerate(parts):
        if part is not None:
            before = total[i]
            total[i] = part if before is None else before + part
