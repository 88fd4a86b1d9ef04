"""Derivatives of ``x = A^-1 b``, right to second order.

With x0 = x as a constant, every x0 gives the solution as

    x1 = x0 + A^-1 (b - A x0),    x2 = x1 + A^-1 (b - A x1),

and the corrections are zero in value. If ``A^-1 r`` is differentiated in r alone, as ``A^-H``, then x1 has the right
first derivatives and x2 the right second ones: what is left out of A^-1 is multiplied by a residual, and x1's residual
vanishes to first order. Autograd forms ``b - A x`` itself, so it finds whatever A depends on.

Once, ``u = A^-H g`` goes into the residual of x0 and one adjoint solve is all. Where the backward pass is recorded, u
goes into the residual of x1, and u is a differentiable solve itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from krylov.torch.implicit.linear_system import System

__all__ = ["attach"]

# What reaches x1 in the pass that it has no part in cancels; more than this times its norm is a gradient.
_ROUNDING = 1e3


def attach(system: System, b: Tensor, x: Tensor, *, must_depend: bool = False) -> Tensor:
    """The solution x of ``A x = b`` with its derivatives.

    Raises
    ------
    RuntimeError
        A depends on nothing that requires grad, but must.
    """
    a = system.a
    if a.depends is not False:
        product = a.product(x)
        if product.requires_grad:
            return _attach_twice(system, b, b - product, x)
    if must_depend:
        raise RuntimeError(
            "second derivatives need an adjoint= that depends on the same tensors as A, but its product requires no "
            "grad: do not detach in it"
        )
    if not b.requires_grad:
        return x
    solution: Tensor = _Solve.apply(system, x, b, False)[0]  # type: ignore[no-untyped-call]
    return solution


def _attach_twice(system: System, b: Tensor, residual: Tensor, x: Tensor) -> Tensor:
    first, slack = _Solve.apply(system, x, residual, True)  # type: ignore[no-untyped-call]
    if not system.a.twice:
        return cast(Tensor, first)
    # All that A's product sends back to it meets at the gate, in the same order whenever it is formed.
    gate = first.view_as(first)
    again = b - system.a.product(gate)
    solution: Tensor = _Recorded.apply(  # type: ignore[no-untyped-call]
        system, first, slack, residual, gate, again
    )
    return solution


class _Solve(torch.autograd.Function):
    """``x + A^-1 residual``, differentiated in the residual.

    The second output is zero; as gradient it is given the size of what is left of gradients that cancel.
    """

    @staticmethod
    def forward(
        ctx: Any, system: System, x: Tensor, residual: Tensor, depends: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.system, ctx.depends = system, depends
        ctx.save_for_backward(*([residual] if depends else []), *system.a.tensors)
        ctx.set_materialize_grads(False)
        return x.clone(), torch.zeros((), dtype=torch.float64, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (g, leftover), system = gradients, ctx.system
        if g is None or (leftover is not None and torch.linalg.vector_norm(g) <= leftover):
            return None, None, None, None
        saved = ctx.saved_tensors  # raises if a tensor of A was overwritten
        recorded = torch.is_grad_enabled()
        if recorded and ctx.depends and not system.a.twice:
            raise RuntimeError(
                "kt.solve has no second derivatives in a sparse tensor A, as torch's sparse constructors lose them: "
                "give A as a callable made of its values and index_add, or do without create_graph"
            )
        adjoint = system.adjoint()
        with torch.enable_grad():  # products may need it
            u = adjoint.run(g)
        if recorded:
            if ctx.depends:
                u = _End.apply(u, g, saved[0])  # type: ignore[no-untyped-call]
            else:
                u = attach(adjoint, g, u)
        return None, None, u, None


class _Recorded(torch.autograd.Function):
    """``x1 + A^-1 (b - A x1)``, and the choice between the residuals of x0 and x1."""

    @staticmethod
    def forward(
        ctx: Any,
        system: System,
        first: Tensor,
        slack: Tensor,
        residual: Tensor,
        gate: Tensor,
        again: Tensor,
    ) -> Tensor:
        ctx.system = system
        ctx.save_for_backward(gate, again, *system.a.tensors)
        ctx.set_materialize_grads(False)
        return first.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (g,) = gradients
        if g is None:
            return None, None, None, None, None, None
        gate, again = ctx.saved_tensors[:2]
        adjoint = ctx.system.adjoint()
        with torch.enable_grad():
            u = adjoint.run(g)
        if not torch.is_grad_enabled():
            return None, None, None, u, None, None
        # The residual of x1 sends -A^H u to x1, which A^H u from here cancels: x1 counts in second derivatives only.
        (echo,) = torch.autograd.grad(again, gate, u, retain_graph=True, allow_unused=True)
        if echo is None:
            raise RuntimeError(
                "second derivatives need products A v that autograd can differentiate in v: do not detach v"
            )
        eps = torch.finfo(echo.dtype).eps
        leftover = torch.linalg.vector_norm(echo).double() * (_ROUNDING * eps)
        u = attach(adjoint, g, u, must_depend=True)
        return None, -echo, leftover, None, None, u


class _End(torch.autograd.Function):
    """The identity, where derivatives end; it lies on the path to everything that they could be asked of."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, *paths: Tensor) -> Tensor:
        return u.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "kt.solve has first and second derivatives, and this is a third: write it as a solve of its own"
        )
