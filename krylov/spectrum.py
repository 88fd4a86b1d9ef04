"""Eigenvalues of a Hermitian operator by Lanczos: `lanczos`, `extremal_eigenvalues`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.linalg

from krylov import _core
from krylov.arrays import Exchange, common_dtype, view
from krylov.drive import drive
from krylov.operators import Multiplier, as_operator
from krylov.workspace import dtype_code, staggered

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
    problem = _problem(A, v0)
    return _tridiagonalise(problem, k, _start(problem, v0, seed), reorthogonalize == "full")[0]


def extremal_eigenvalues(A: Any, k: int = 10, *, vectors: bool = False) -> Extremes:
    """Smallest and largest eigenvalue of a Hermitian operator from about 2 k products.

    The largest comes from k steps of Lanczos; the smallest from k more on ``lambda_max I - A``, whose largest it is,
    started from the lower Ritz vector of the first run (the shift of Krishnan et al. 2018, section 4.2).

    Parameters
    ----------
    A : as in `cg`, with a shape
        Hermitian operator.
    k : int
        Steps of each run.
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
    problem = _problem(A, None)
    first, basis = _tridiagonalise(problem, k, _start(problem, None, None), True)
    largest = float(first.ritz_values[-1])
    bottom, top = _ritz_vector(first, basis, 0), _ritz_vector(first, basis, -1)

    def shifted_product(v: Any, target: Any) -> Any:
        np.multiply(v, largest, out=target)
        target -= problem.multiply(v)
        return target

    shifted = _Problem(problem.n, problem.dtype, shifted_product, None, problem.convert)
    second, basis = _tridiagonalise(shifted, k, bottom, True)
    smallest = min(largest - float(second.ritz_values[-1]), float(first.ritz_values[0]))
    if not vectors:
        return Extremes(smallest, largest)
    return Extremes(smallest, largest, (_ritz_vector(second, basis, -1), top))


def neumann_step(A: Any, b: Any, M: Any, steps: int = 12) -> tuple[float, int]:
    """Step length for `neumann`, and the products with A it took: 1 over an upper estimate of lambda_max(M A).

    Without M by Lanczos, whose largest Ritz value and its residual bound an eigenvalue from above; with M, where M A is
    not Hermitian, by power iteration with a tenth in reserve.
    """
    problem = _problem(A, b, like=b)
    if problem.n == 0:
        return 1.0, 0
    v = _start(problem, None, None)
    if M is None:
        result, _ = _tridiagonalise(problem, min(steps, problem.n), v, True)
        largest, spent = float(result.ritz_values[-1] + result.residuals[-1]), result.alpha.size
    else:
        m = as_operator(M, "M")
        apply_m = m.multiplier(problem.n, problem.dtype, Exchange(b))
        convert_m = m.converter(problem.n, problem.dtype, narrow=True)
        spent = 2 * steps
        for _ in range(spent):
            v = convert_m(apply_m(problem.multiply(v / np.linalg.norm(v)), np.empty_like(v)))
            largest = 1.1 * float(np.linalg.norm(v))
            if not 0 < largest < np.inf:
                break
    # A product that is zero or not finite is for the solver to report.
    return (1.0 / largest if 0 < largest < np.inf else 1.0), spent


@dataclass(frozen=True)
class _Problem:
    """An operator with everything a run needs."""

    n: int
    dtype: np.dtype[Any]
    product: Multiplier
    matrix: _core.CsrMatrix | None
    convert: Callable[[Any], Any]

    def multiply(self, v: Any) -> Any:
        return self.convert(self.product(v, np.empty_like(v)))


def _problem(A: Any, vector: Any, like: Any = None) -> _Problem:
    a = as_operator(A, "A")
    given = None if vector is None else view(vector, "v0" if like is None else "b")
    if a.shape is None and given is None:
        raise ValueError("a callable A has no shape: give a start vector v0")
    n = given.size if a.shape is None and given is not None else a.shape[0]  # type: ignore[index]
    if given is not None and (
        given.size != n or given.ndim > 2 or (given.ndim == 2 and given.shape[1] != 1)
    ):
        raise ValueError(f"shapes of A {a.shape} and the vector {given.shape} are incompatible")
    known = [d for d in (a.dtype, None if given is None else given.dtype) if d is not None]
    dtype = common_dtype(*known) if known else np.dtype(np.float64)
    product = a.multiplier(n, dtype, Exchange(vector if vector is not None else np.empty(0)))
    return _Problem(n, dtype, product, a.csr(dtype), a.converter(n, dtype))


def _start(problem: _Problem, v0: Any, seed: int | None) -> Any:
    if v0 is not None:
        start = np.array(view(v0, "v0"), problem.dtype).reshape(-1)
        if not np.isfinite(start).all() or not start.any():
            raise ValueError("v0 must be finite and not zero")
        return start
    start = np.empty(problem.n, problem.dtype)
    _core.fill_random(start, 0 if seed is None else operator.index(seed))
    return start


def _tridiagonalise(
    problem: _Problem, k: int, start: Any, keep: bool
) -> tuple[LanczosResult, list[Any]]:
    n, dtype = problem.n, problem.dtype
    if operator.index(k) < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if n < 1:
        raise ValueError("A is empty")
    steps = min(k, n)
    run = _core.Run.lanczos(n, dtype_code(dtype), steps, keep)
    basis = staggered(steps + 1 if keep else 3, n, dtype)
    basis[0][:] = start
    for slot, vector in enumerate(basis):
        run.set_vector(slot, vector)
    run.set_convert(lambda answer, _: problem.convert(answer))
    if problem.matrix is not None:
        run.set_matrix(problem.matrix)
    drive(run, problem.product, None, lambda: None)
    if run.status == _core.Status.NON_FINITE:
        raise ValueError("A gave NaN or infinity: check its entries")
    alpha, beta = run.alphas, run.betas
    values, last = _eigen(alpha, beta)
    return LanczosResult(values, np.abs(beta[-1] * last[-1]), alpha, beta), basis


def _eigen(alpha: Any, beta: Any) -> tuple[Any, Any]:
    values, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
    return values, vectors


def _ritz_vector(result: LanczosResult, basis: list[Any], index: int) -> Any:
    coefficients = _eigen(result.alpha, result.beta)[1][:, index]
    vector = sum(c * v for c, v in zip(coefficients, basis, strict=False))
    return vector / np.linalg.norm(vector)
