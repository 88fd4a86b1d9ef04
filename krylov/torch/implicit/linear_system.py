"""One linear system and its adjoint: how they are solved for values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

import krylov
from krylov.preconditioners.low_rank import LowRankPreconditioner
from krylov.torch.implicit.linear_map import LinearMap
from krylov.torch.implicit.operands import as_linear_map

__all__ = ["HERMITIAN", "System"]

# Methods that need A to be its own adjoint.
HERMITIAN = ("cg", "flexible_cg")


@dataclass(frozen=True)
class System:
    """How A x = b is solved, for any b.

    Attributes
    ----------
    a, reverse : LinearMap
        A; its adjoint where it is known beforehand.
    like : Tensor of shape (n,)
        A vector of the system.
    method : str
        Of `krylov`.
    M, reverse_M
        Preconditioner; that of the adjoint where it is known.
    settings : mapping
        Further keywords of the method.
    check : bool
        Whether to raise when a run does not end as asked.
    side : {"forward", "backward"}
        How messages call it.
    """

    a: LinearMap
    reverse: LinearMap | None
    like: Tensor
    method: str
    M: Any
    reverse_M: Any
    settings: Mapping[str, Any]
    check: bool
    side: str = "forward"

    def adjoint(self) -> System:
        """The system with the conjugate transpose of A."""
        side = "forward" if self.side == "backward" else "backward"
        if self.method in HERMITIAN:
            return replace(self, side=side)
        reverse = self.a.adjoint() if self.reverse is None else self.reverse
        reverse_M = self.reverse_M
        if reverse_M is None:
            reverse_M = adjoint_preconditioner(self.M, self.like)
        return replace(self, a=reverse, reverse=self.a, M=reverse_M, reverse_M=self.M, side=side)

    def run(self, b: Tensor, x0: Tensor | str | None = None) -> Tensor:
        """Solve for values: x without its derivatives.

        Raises
        ------
        RuntimeError
            A column did not converge, and `check` is on.
        """
        b = b.detach()
        if b.ndim == 1:
            return self._column(self.a.operator(), b, x0, "")
        if b.shape[1] == 0:
            return b.clone()
        operator = self.a.operator()
        columns = [
            self._column(
                operator, b[:, j], x0[:, j] if isinstance(x0, Tensor) else x0, f" for column {j}"
            )
            for j in range(b.shape[1])
        ]
        return torch.stack(columns, 1)

    def _column(self, operator: Any, b: Tensor, x0: Tensor | str | None, which: str) -> Tensor:
        if self.side == "backward" and not torch.isfinite(b).all():
            if self.check:
                raise RuntimeError(
                    f"the gradient that comes back to kt.solve{which} is not finite: look for the cause in what was "
                    "made of x"
                )
            return torch.full_like(b, torch.nan)
        result = getattr(krylov, self.method)(operator, b, x0, M=self.M, **self.settings)
        if self.check and not result.outcome.ok:
            raise RuntimeError(
                f"the {self.side} solve{which} ended with {result.outcome.name} after {result.niter} iterations, at "
                f"residual norm {result.residual_norm:.3g}. {result.outcome.value} (check=False takes what there is.)"
            )
        x: Tensor = result.x
        return x


def adjoint_preconditioner(M: Any, like: Tensor) -> Any:
    """The adjoint of a preconditioner, or M itself where it has none: that costs iterations, never the right answer."""
    if isinstance(M, krylov.JacobiPreconditioner | LowRankPreconditioner):
        return M.H
    if isinstance(M, Tensor):
        return M.detach().mH
    if isinstance(M, np.ndarray) or sp.issparse(M):
        return M.conj().T
    if isinstance(M, LinearOperator):
        try:  # the operator tells only by failing
            M.rmatvec(np.zeros(M.shape[0], M.dtype))
        except (NotImplementedError, TypeError):
            return M
        return M.H
    if hasattr(M, "matvec") and not hasattr(M, "rmatvec"):
        return M
    if not (hasattr(M, "matvec") or callable(M)):
        return M
    try:
        return as_linear_map(M, like, "M").adjoint().operator()
    except (RuntimeError, TypeError):  # products that autograd cannot follow
        return M
