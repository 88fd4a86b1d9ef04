"""Exact minimisers of the quadratic model by dense factorisations, for networks of up to a few thousand parameters.

With J the Jacobian of the outputs and H_L the Hessian of the loss there, ``B = J^T H_L J``. Where H_L is diagonal and
positive (sums of squares), ``A = H_L^(1/2) J`` and ``g = A^T r``, the step may be had from either side:

    d = -(A^T A + lambda I)^-1 g  =  -A^T (A A^T + lambda I)^-1 r

The smaller matrix is taken; it is factorised anew for each lambda, but made once.

Where the loss is not convex in the outputs B may be indefinite, and B + lambda I have negative eigenvalues. Then the
step is the saddle-free one of `SubspaceSolver`, in the whole space: ``-U (|t| + lambda)^-1 U^T g`` with
``B = U diag(t) U^T``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.blas import dsyrk
from torch import Tensor

from krylov.outcome import Outcome
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.graphs import GaussNewtonGraph, Graph
from krylov.torch.jacobian import jacobian
from krylov.torch.memory import available_bytes
from krylov.torch.optim.solvers.directions import Candidate, Directions
from krylov.torch.optim.solvers.saddle_free import ROUNDING, saddle_free

__all__ = ["DenseSolver"]

# Memory that may be taken: that of Jacobian, matrix, factor and what products need on the way.
_COPIES, _SHARE = 4, 0.5
# Dampings tried where rounding has made a sum of squares indefinite, each time with ten times more added.
_TRIALS = 20


class DenseSolver:
    """``d = -(B + lambda I)^-1 g`` from the Jacobian and a Cholesky factorisation, all in float64.

    Costs a few backward passes (see `krylov.torch.jacobian`) and of the order of ``m n min(m, n)`` operations for m
    outputs and n parameters. Another damping for the same operator and gradient costs one more factorisation. A start
    and a preconditioner are of no use to it. Negative curvature takes the eigenvalues of B, once for all dampings, some
    twenty times the work of a factorisation.

    Rounding may make a matrix indefinite that is not. More damping than asked for then mends it; candidate and record
    have that one.
    """

    def __init__(self) -> None:
        self._system: _System | None = None
        # Whose system it is. Weak: no graph shall live on until the next step.
        self._operator: weakref.ref[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies: a system serves one step only."""
        return {"_system": None, "_operator": None}

    def __call__(
        self, operator: CurvatureOperator, gradient: Tensor, start: Tensor | None, M: Any = None
    ) -> Directions:
        """The exact step; see `Directions`.

        Raises
        ------
        RuntimeError
            Jacobian and matrix do not fit into memory.
        """
        system = self._system
        mine, passes = self._operator is not None and self._operator() is operator, 0.0
        if system is None or not mine or system.gradient is not gradient:
            system = self._system = self._operator = None  # before the next one takes its room
            system = _make_system(operator, gradient)
            self._system, self._operator = system, weakref.ref(operator)
            passes = system.passes
        return replace(system.directions(operator.shift), passes=passes)


@dataclass(frozen=True)
class _System:
    """``(matrix + lambda I) x = right``, and the step ``-back(x)``.

    A None for `back` is the identity. `passes` is how many backward passes over all samples it took. A `convex` matrix
    is a sum of squares: only rounding can make it indefinite.
    """

    matrix: Tensor
    right: Tensor
    back: Tensor | None
    gradient: Tensor
    passes: float
    convex: bool = True

    def directions(self, damping: float) -> Directions:
        """The step for this lambda; -g where there is none."""
        x, shift = self._solve(damping)
        if x is None:
            return self._saddle_free(damping)
        if self.back is not None:
            x = self.back.T @ x
        step = x.neg().to(self.gradient)
        if not bool(torch.isfinite(step).all()):
            return self._steepest()
        # Of the exact minimiser, q(d) = g.d / 2.
        value = float(self.gradient.double() @ step.double()) / 2
        other = None if shift == damping else shift
        candidate = Candidate(1, step, value, other)
        return Directions([candidate], Outcome.CONVERGED, 1, False, shift=other)

    def _solve(self, damping: float) -> tuple[Tensor | None, float]:
        """``(matrix + lambda I)^-1 right`` and lambda, which grows where rounding has made that indefinite.

        None where more than rounding has.
        """
        largest = float(torch.linalg.vector_norm(self.matrix, math.inf))
        most = math.inf if self.convex else ROUNDING[self.gradient.dtype] * largest
        shift, more = damping, len(self.matrix) * torch.finfo(torch.float64).eps * largest
        for _ in range(_TRIALS):
            found = _cholesky_solve(self.matrix, self.right, shift)
            if found is not None:
                return found, shift
            if not more <= most:
                return None, damping
            shift, more = damping + more, 10 * more
        return torch.full_like(self.right, math.nan), shift

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues in ascending order, and eigenvectors."""
        t, U = torch.linalg.eigh(self.matrix)
        return t, U

    def _saddle_free(self, damping: float) -> Directions:
        if not bool(torch.isfinite(self.matrix).all()):
            return self._steepest()
        t, U = self._spectrum
        y, value = saddle_free(t, U.T @ self.right, damping, torch.finfo(self.gradient.dtype).eps)
        step = (U @ y).to(self.gradient)
        if not bool(torch.isfinite(step).all()):
            return self._steepest()
        return Directions([Candidate(1, step, value)], Outcome.NEGATIVE_CURVATURE, 1, True)

    def _steepest(self) -> Directions:
        """A matrix of zeros has no step without damping; anything else is an overflow."""
        finite = all(bool(torch.isfinite(x).all()) for x in (self.matrix, self.right))
        outcome = Outcome.BREAKDOWN if finite else Outcome.NON_FINITE
        return Directions([Candidate(0, -self.gradient, math.nan)], outcome, 0, False)


def _make_system(operator: CurvatureOperator, gradient: Tensor) -> _System:
    parts = [(weight, _gauss_newton_graph(graph)) for weight, graph in operator.graphs()]
    count = sum(z.numel() for _, graph in parts for z in graph.outputs)
    n = operator.shape[0]
    _refuse_large(count, n, min(count, n), operator.device)
    jacobians = [jacobian(graph, operator.parameters) for _, graph in parts]
    passes = sum(weight * taken for (weight, _), (_, taken) in zip(parts, jacobians, strict=True))
    if count < n and operator.penalty is None:
        system = _of_outputs(parts, [J for J, _ in jacobians], gradient, passes)
        if system is not None:
            return system
    _refuse_large(count, n, n, operator.device)
    matrix = torch.zeros(n, n, dtype=torch.float64, device=operator.device)
    convex = True
    for (weight, graph), (J, _) in zip(parts, jacobians, strict=True):
        part, square = _gauss_newton(graph, J)
        matrix += weight * part
        convex = convex and square
    if operator.penalty is not None:
        matrix.diagonal().add_(operator.penalty.double())
    return _System(matrix, gradient.double(), None, gradient, passes, convex)


def _gauss_newton_graph(graph: Graph) -> GaussNewtonGraph:
    if not isinstance(graph, GaussNewtonGraph):
        raise TypeError("solver='dense' needs a Gauss-Newton matrix: take curvature='ggn'")
    return graph


def _of_outputs(
    parts: Sequence[tuple[float, GaussNewtonGraph]],
    jacobians: Sequence[Tensor],
    gradient: Tensor,
    passes: float,
) -> _System | None:
    """The system in the space of the outputs; None where the loss is no sum of squares that gives this gradient."""
    rows, residuals = [], []
    for (weight, graph), J in zip(parts, jacobians, strict=True):
        diagonal = graph.hessian.diagonal()
        if diagonal is None:
            return None
        d = weight * torch.cat([x.reshape(-1) for x in diagonal]).double()
        if not bool((d > 0).all()):
            return None
        root = d.sqrt()
        slope = torch.cat([g.detach().reshape(-1) for g in graph.hessian.gradient]).double()
        rows.append(J.double() * root[:, None])
        residuals.append(weight * slope / root)
    A, r = torch.cat(rows), torch.cat(residuals)
    size = A.abs().T @ r.abs()
    bound = 100 * torch.finfo(gradient.dtype).eps * float(size.max())
    if not bool(((A.T @ r - gradient).abs() <= bound).all()):  # of another sample
        return None
    return _System(_gram(A), r, A, gradient, passes)


def _gauss_newton(graph: GaussNewtonGraph, J: Tensor) -> tuple[Tensor, bool]:
    """J^T H_L J, and whether it is known for a sum of squares."""
    diagonal = graph.hessian.diagonal()
    if diagonal is not None:
        d = torch.cat([x.reshape(-1) for x in diagonal]).double()
        if bool((d >= 0).all()):
            return _gram((J.double() * d.sqrt()[:, None]).T), True
    directions = []
    begin = 0
    for z in graph.outputs:
        block = J[begin : begin + z.numel()].T
        directions.append(block.reshape(-1, *z.shape).to(z.dtype).contiguous())
        begin += z.numel()
    curved = graph.hessian.multiply(directions, True)
    HJ = torch.cat(
        [
            torch.zeros_like(u).reshape(len(J.T), -1) if w is None else w.reshape(len(J.T), -1)
            for u, w in zip(directions, curved, strict=True)
        ],
        1,
    )
    product = HJ.detach().double() @ J.double()
    return (product + product.T) / 2, False


def _gram(A: Tensor) -> Tensor:
    """``A A^T``; on the CPU its lower triangle only."""
    if A.device.type != "cpu":
        return A @ A.T
    values = A.numpy()
    if values.flags.c_contiguous:
        return torch.from_numpy(dsyrk(1.0, values.T, trans=1, lower=1))
    return torch.from_numpy(dsyrk(1.0, np.asfortranarray(values), lower=1))


def _cholesky_solve(matrix: Tensor, right: Tensor, shift: float) -> Tensor | None:
    if matrix.device.type != "cpu":
        shifted = matrix.clone()
        shifted.diagonal().add_(shift)
        factor, info = torch.linalg.cholesky_ex(shifted)
        return None if bool(info) else torch.cholesky_solve(right[:, None], factor)[:, 0]
    values = np.array(matrix.numpy(), order="F")
    values[np.diag_indices_from(values)] += shift
    # LAPACK's own: several times quicker here than torch's.
    try:
        factored = scipy.linalg.cho_factor(values, lower=True, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None
    x = scipy.linalg.cho_solve(factored, right.numpy(), check_finite=False)
    return torch.from_numpy(x)


def _refuse_large(m: int, n: int, side: int, device: torch.device) -> None:
    """Raise where an m x n Jacobian and a square matrix do not fit."""
    needed = 8 * _COPIES * (m * n + side**2)
    room = _SHARE * available_bytes(device)
    if needed > room:
        raise RuntimeError(
            f"solver='dense' would need {needed / 2**30:.1f} GiB for {m} outputs and {n} parameters, and "
            f"{room / 2**30:.1f} GiB may be taken: use solver='flexible_cg', or fewer samples"
        )
