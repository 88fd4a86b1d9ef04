"""Newton steps in a Krylov subspace with a known spectrum: it uses negative curvature, and damping costs nothing."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krylov.outcome import Outcome
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.solvers.directions import Candidate, Directions
from krylov.torch.optim.solvers.saddle_free import ROUNDING, saddle_free

__all__ = ["SubspaceSolver"]

# Candidates: lambda times powers of three, from the shortest step to the longest.
_FACTORS = (9.0, 3.0, 1.0, 1 / 3, 1 / 9)


class SubspaceSolver:
    """Saddle-free Newton steps in the span of the last direction and k Lanczos vectors.

    Parameters
    ----------
    iterations : int
        k: products of a run, and one more with a warm start.
    last_only : bool
        Whether d(lambda) is the only candidate.

    Notes
    -----
    With an orthonormal basis Q of the span and ``T = Q^T B Q = U diag(t) U^T`` the step is::

        d(lambda) = -Q U (|t| + lambda)^-1 U^T Q^T g

    For a positive semidefinite B this is the Levenberg-Marquardt step within the span, which holds the k-th iterate of
    conjugate gradients from the same start. Otherwise it goes downhill along negative curvature too, a Newton step's
    length: d is a descent direction for every lambda. The same operator and gradient with another lambda need no
    product.

    Candidates are d(9 lambda), d(3 lambda) ... d(lambda / 9), in this order; a candidate's value is that of the model
    with its own damping. So lambda is found by losses where it lags behind, and not only by the next steps.

    References
    ----------
    Dauphin et al. (2014), "Identifying and attacking the saddle point problem in high-dimensional non-convex
    optimization", for ``|t|``; Vinyals and Povey (2012), "Krylov subspace descent for deep learning", for the last
    direction in the span.
    """

    def __init__(self, iterations: int, *, last_only: bool = False) -> None:
        self._iterations, self._last_only = iterations, last_only
        self._storage: Tensor | None = None
        self._subspace: _Subspace | None = None
        # Whose subspace it is. Weak: no graph shall live on until the next step.
        self._operator: weakref.ref[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies: a subspace serves one step only."""
        return {**self.__dict__, "_storage": None, "_subspace": None, "_operator": None}

    def __call__(
        self, operator: CurvatureOperator, gradient: Tensor, start: Tensor | None, M: Any = None
    ) -> Directions:
        """Candidates for the step; see `Directions`.

        Where operator and gradient are the same objects as in the last call there is no product, and no new start.
        """
        damping, subspace = operator.shift, self._subspace
        mine = self._operator is not None and self._operator() is operator
        if subspace is None or not mine or subspace.gradient is not gradient:
            self._subspace = self._operator = None
            operator.shift = 0.0
            try:
                subspace = self._build(operator, gradient, start, damping)
            finally:
                operator.shift = damping
            self._subspace, self._operator = subspace, weakref.ref(operator)
        return subspace.directions(damping, self._last_only)

    def _build(
        self, operator: CurvatureOperator, gradient: Tensor, start: Tensor | None, damping: float
    ) -> _Subspace:
        n = gradient.numel()
        shape = min(self._iterations, n) + 1, n
        Q = self._storage
        if Q is None or (Q.shape, Q.dtype, Q.device) != (shape, gradient.dtype, gradient.device):
            Q = self._storage = gradient.new_empty(shape)
        residual, product = -gradient, None
        if start is not None:
            product = operator @ start
            warm = residual - product - damping * start
            # Neither an overflow nor an exact solution is a start.
            if 10 * torch.finfo(gradient.dtype).eps * _norm(gradient) < _norm(warm) < math.inf:
                residual = warm
            else:
                product = None
        run = _lanczos(operator, residual, Q[:-1])
        k, T = len(run.alphas), run.tridiagonal()
        if product is not None and k:
            assert start is not None
            # B Q = Q T + beyond e_k^T, so that of the last direction's products only two are not zero.
            rest, c = _orthogonalised(start, Q[:k])
            length = _norm(rest)
            if length > torch.finfo(gradient.dtype).eps ** 0.5 * _norm(start):
                q = torch.div(rest, length, out=Q[k])
                coupling = _dot(q, run.beyond)
                own = (_dot(q, product) - float(c[-1]) * coupling) / length
                T = torch.nn.functional.pad(T, (0, 1, 0, 1))
                T[k, k - 1] = T[k - 1, k] = coupling
                T[k, k] = own
        used = Q[: len(T)]
        return _Subspace(used, T, (used @ gradient).double().cpu(), k, run.outcome, gradient)


@dataclass(frozen=True)
class _Subspace:
    """An orthonormal basis Q (as rows), ``T = Q^T B Q``, and the coordinates of g."""

    Q: Tensor
    T: Tensor
    g: Tensor
    iterations: int
    outcome: Outcome
    gradient: Tensor

    def directions(self, damping: float, last_only: bool) -> Directions:
        factors = (1.0,) if last_only or not damping > 0 else _FACTORS
        kept: list[Candidate] = []
        negative = False
        if self.iterations:
            t, U = torch.linalg.eigh(self.T)
            negative = bool(t[0] < -ROUNDING[self.Q.dtype] * t.abs().max())
            c = U.T @ self.g
            for factor in factors:
                y, value = saddle_free(t, c, factor * damping, torch.finfo(self.Q.dtype).eps)
                step = (U @ y).to(self.Q) @ self.Q
                if bool(torch.isfinite(step).all()):
                    kept.append(Candidate(self.iterations, step, value, factor * damping))
        steepest = Candidate(0, -self.gradient, math.nan)
        return Directions(kept or [steepest], self.outcome, self.iterations, negative)


@dataclass(frozen=True)
class _Run:
    """``B Q = Q T + beyond e_k^T`` with T tridiagonal."""

    alphas: list[float]
    betas: list[float]
    beyond: Tensor
    outcome: Outcome

    def tridiagonal(self) -> Tensor:
        T = torch.diag(torch.tensor(self.alphas, dtype=torch.float64))
        for i, beta in enumerate(self.betas):
            T[i, i + 1] = T[i + 1, i] = beta
        return T


def _lanczos(operator: CurvatureOperator, first: Tensor, Q: Tensor) -> _Run:
    """Lanczos vectors into the rows of Q, each orthogonalised twice against all others."""
    alphas: list[float] = []
    betas: list[float] = []
    w, length, outcome = first, _norm(first), Outcome.STOPPED_BY_RULE
    for j in range(len(Q)):
        torch.div(w, length, out=Q[j])
        product = operator @ Q[j]
        rest, h = _orthogonalised(product, Q[: j + 1])
        following = _norm(rest)
        if not following < math.inf:
            # This vector cannot be used; the one before it is the last one.
            outcome = Outcome.NON_FINITE
            break
        if j:
            betas.append(length)
        alphas.append(float(h[-1]))
        w, length = rest, following
        if length <= 100 * torch.finfo(w.dtype).eps * _norm(product):
            outcome = Outcome.CONVERGED  # an invariant subspace
            break
    return _Run(alphas, betas, w, outcome)


def _orthogonalised(v: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of v, and the coefficients (float64, on the CPU) of the part within the rows of Q."""
    h = Q @ v
    rest = torch.addmv(v, Q.T, h, alpha=-1)
    again = Q @ rest
    rest.addmv_(Q.T, again, alpha=-1)
    return rest, (h.double() + again.double()).cpu()


def _norm(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())
