"""Eigenvalues of a Hermitian operator by Lanczos: `lanczos`, `extremal_eigenvalues`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy.linalg

from krylov import _core
from krylov.arrays import Exchange, as_vector, common_dtype, view
from krylov.checks import integer
from krylov.drive import drive
from krylov.operators import BoundOperator, as_operator
from krylov.workspace import dtype_code, staggered

if TYPE_CHECKING:
    from krylov.problem import Problem

__all__ = ["Extremes", "LanczosResult", "extremal_eigenvalues", "lanczos"]


class LanczosResult(NamedTuple):
    """Result of `lanczos` after j <= k steps.

    Attributes
    ----------
    ritz_values : ndarray of shape (j,)
        Ascending.
    residuals : ndarray of shape (j,)
        Norms of ``A y - theta y`` for their Ritz vectors: an eigenvalue lies within this distance.
    alpha, beta : ndarray of shape (j,)
        Diagonal of the tridiagonal matrix, and what stands below it; ``beta[j - 1]`` couples to the next vector.
    """

    ritz_values: Any
    residuals: Any
    alpha: Any
    beta: Any


class Extremes(NamedTuple):
    """Smallest and largest eigenvalue, and with ``vectors=True`` their unit eigenvectors ``(v_min, v_max)``."""

    min: float
    max: float
    vectors: tuple[Any, Any] | None = None


def lanczos(
    A: Any,
    k: int,
    v0: Any = None,
    *,
    seed: int | None = None,
    reorthogonalize: Literal["full", "none"] = "full",
) -> LanczosResult:
    """Ritz values of a Hermitian operator after k steps of Lanczos' method.

    Parameters
    ----------
    A : as in `cg`
        Hermitian operator, n by n.
    k : int
        Steps, one product each; fewer are made when the space is exhausted.
    v0 : array of shape (n,), optional
        Start; random by default. Needed for a callable A.
    seed : int, optional
        Of the random start; 0 by default, so that a repeated call gives the same result.
    reorthogonalize : {"full", "none"}
        "full" keeps k + 1 vectors and yields each eigenvalue once; "none" keeps 3, and finds copies of converged ones.

    Returns
    -------
    LanczosResult

    Raises
    ------
    ValueError
        k < 1, shapes do not fit, v0 is zero or not finite, or A gives NaN or infinity.

    References
    ----------
    Lanczos (1950); Parlett (1998), chapter 13.
    """
    if reorthogonalize not in ("full", "none"):
        raise ValueError(f"reorthogonalize must be 'full' or 'none', got {reorthogonalize!r}")
    operand = _operand(A, v0)
    return _tridiagonalise(operand, k, _start(operand, v0, seed), reorthogonalize == "full")[0]


def extremal_eigenvalues(A: Any, k: int = 10, v0: Any = None, *, vectors: bool = False) -> Extremes:
    """Smallest and largest eigenvalue of a Hermitian operator from about 2 k products.

    The largest comes from k steps of Lanczos; the smallest from k more on ``lambda_max I - A``, whose largest it is,
    started from the lower Ritz vector of the first run (the shift of Krishnan et al. 2018, section 4.2).

    Parameters
    ----------
    A : as in `cg`, with a shape
        Hermitian operator.
    k : int
        Steps of each run.
    v0 : array of shape (n,), optional
        Start of the first run; random by default. Where A has changed little since the last call, the sum of the two
        vectors that this returned.
    vectors : bool
        Whether to return the eigenvectors too.

    Returns
    -------
    Extremes
        Ritz values: `max` is never above the true one and `min` never below, up to rounding.

    Raises
    ------
    ValueError
        As `lanczos`.
    """
    if as_operator(A, "A").shape is None:
        raise ValueError(
            "a callable A has no shape: wrap it as a scipy.sparse.linalg.LinearOperator"
        )
    operand = _operand(A, v0)
    first, basis = _tridiagonalise(operand, k, _start(operand, v0, None), True)
    largest = float(first.ritz_values[-1])
    bottom, top = _ritz_vector(first, basis, 0), _ritz_vector(first, basis, -1)

    def shifted(v: Any, target: Any) -> Any:
        np.multiply(v, largest, out=target)
        target -= operand.operator(v)
        return target

    shifted_operator = BoundOperator(shifted, operand.operator.convert, None)
    second, basis = _tridiagonalise(
        _Operand(operand.n, operand.dtype, shifted_operator), k, bottom, True
    )
    smallest = min(largest - float(second.ritz_values[-1]), float(first.ritz_values[0]))
    if not vectors:
        return Extremes(smallest, largest)
    return Extremes(smallest, largest, (_ritz_vector(second, basis, -1), top))


def neumann_scale(problem: Problem, steps: int = 12) -> tuple[float, int]:
    """Scale for `neumann`, and the products with A it took: 1 over an upper estimate of lambda_max(M A).

    Without M by Lanczos, whose largest Ritz value and its residual bound an eigenvalue from above; with M, where M A is
    not Hermitian, by power iteration with a tenth in reserve. What makes no sense (products that vanish or are not
    finite) is left to the solver to report.
    """
    if not problem.b.any() or not np.isfinite(problem.b).all():
        return 1.0, 0
    size = _Operand(problem.n, problem.dtype, problem.a)
    v = _start(size, None, None)
    if problem.m is None and problem.diagonal is None:
        run, _ = _run_lanczos(size, min(steps, problem.n), v, True)
        if run.status == _core.Status.NON_FINITE:
            return 1.0, run.products
        result = _ritz(run)
        largest, spent = float(result.ritz_values[-1] + result.residuals[-1]), run.products
    else:
        spent = 2 * steps
        for _ in range(spent):
            v = problem.precondition(problem.a(v / np.linalg.norm(v)))
            largest = 1.1 * float(np.linalg.norm(v))
            if not 0 < largest < np.inf:
                break
    return (1.0 / largest if 0 < largest < np.inf else 1.0), spent


@dataclass(frozen=True)
class _Operand:
    """An operator with the size and dtype of its vectors."""

    n: int
    dtype: np.dtype[Any]
    operator: BoundOperator


def _operand(A: Any, v0: Any) -> _Operand:
    a = as_operator(A, "A")
    given = None if v0 is None else view(v0, "v0")
    if a.shape is not None:
        n = a.shape[0]
    elif given is not None:
        n = given.size
    else:
        raise ValueError("a callable A has no shape: give a start vector v0")
    known = [d for d in (a.dtype, None if given is None else given.dtype) if d is not None]
    dtype = common_dtype(*known) if known else np.dtype(np.float64)
    if given is not None:
        as_vector(given, n, dtype, "v0")
    return _Operand(n, dtype, a.bind(n, dtype, Exchange(np.empty(0) if v0 is None else v0)))


def _start(operand: _Operand, v0: Any, seed: int | None) -> Any:
    if v0 is not None:
        start = as_vector(view(v0, "v0"), operand.n, operand.dtype, "v0")
        if not np.isfinite(start).all() or not start.any():
            raise ValueError("v0 must be finite and not zero")
        return start
    start = np.empty(operand.n, operand.dtype)
    _core.fill_random(start, 0 if seed is None else integer(seed, "seed", 0))
    return start


def _run_lanczos(
    operand: _Operand, steps: int, start: Any, keep: bool
) -> tuple[_core.Run, list[Any]]:
    n, dtype = operand.n, operand.dtype
    run = _core.Run.lanczos(n, dtype_code(dtype), steps, keep)
    basis = staggered(steps + 1 if keep else 3, n, dtype)
    basis[0][:] = start
    for slot, vector in enumerate(basis):
        run.set_vector(slot, vector)
    run.set_convert(lambda answer, _: operand.operator.convert(answer))
    if operand.operator.csr is not None:
        run.set_matrix(operand.operator.csr)
    drive(run, operand.operator.multiply, None, lambda: None)
    return run, run.vectors


def _tridiagonalise(
    operand: _Operand, k: int, start: Any, keep: bool
) -> tuple[LanczosResult, list[Any]]:
    integer(k, "k", 1)
    if operand.n < 1:
        raise ValueError("A is empty")
    run, basis = _run_lanczos(operand, min(k, operand.n), start, keep)
    if run.status == _core.Status.NON_FINITE:
        raise ValueError("A gave NaN or infinity: check its entries")
    return _ritz(run), basis


def _ritz(run: _core.Run) -> LanczosResult:
    alpha, beta = run.alphas, run.betas
    values, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
    return LanczosResult(values, np.abs(beta[-1] * vectors[-1]), alpha, beta)


def _ritz_vector(result: LanczosResult, basis: list[Any], index: int) -> Any:
    _, vectors = scipy.linalg.eigh_tridiagonal(result.alpha, result.beta[:-1])
    vector = sum(c * v for c, v in zip(vectors[:, index], basis, strict=False))
    return (vector / np.linalg.norm(vector)).astype(basis[0].dtype)
