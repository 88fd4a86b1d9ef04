"""The system of a solve: A, M, b and x, checked against each other and in the form that a run needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from krylov.arrays import (
    Exchange,
    as_vector,
    common_dtype,
    is_torch,
    refuse_complex,
    refuse_non_finite,
    view,
)
from krylov.operators import BoundOperator, as_operator
from krylov.preconditioners.jacobi import inverse_diagonal_of
from krylov.preconditioners.low_rank import LowRankPreconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.options import Options

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """A x = b, ready to be solved.

    Attributes
    ----------
    a : BoundOperator
        The operator.
    m : BoundOperator or None
        The preconditioner, unless C++ applies it.
    diagonal : ndarray or None
        The preconditioner, where it is diagonal.
    low_rank : LowRankPreconditioner or None
        The preconditioner, where it is a multiple of the identity corrected on a few columns.
    b, x : ndarray of shape (n,)
        Right-hand side, and the start that becomes the solution.
    start : ndarray of shape (n,) or None
        The start, where it is not zero.
    exchange : Exchange
        To the caller's kind of array and back.
    """

    a: BoundOperator
    m: BoundOperator | None
    diagonal: NDArray[Any] | None
    low_rank: LowRankPreconditioner | None
    b: NDArray[Any]
    x: NDArray[Any]
    start: NDArray[Any] | None
    exchange: Exchange

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.b.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all vectors."""
        return self.b.dtype

    def precondition(self, r: NDArray[Any]) -> NDArray[Any]:
        """M r, for work outside the iteration."""
        if self.low_rank is not None:
            product: NDArray[Any] = self.low_rank @ r
            return product
        if self.diagonal is not None:
            return np.asarray(self.diagonal * r)
        return r if self.m is None else self.m(r)


def prepare(A: Any, b: Any, x0: Any, options: Options) -> Problem:
    """Check everything that can be checked without a product.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or devices do not fit, or an entry of x0 is not finite.
    """
    operator = as_operator(A, "A")
    given = view(b, "b")
    n = given.shape[0] if given.ndim else 1
    if given.ndim == 2 and given.shape[1] != 1 and operator.shape is not None:
        n = operator.shape[
            0
        ]  # for the message: a row or a matrix has the wrong shape whatever its length
    dtype = common_dtype(given.dtype, *([] if operator.dtype is None else [operator.dtype]))
    rhs = as_vector(given, n, dtype, "b")
    exchange = Exchange(b)
    a = operator.bind(n, dtype, exchange)
    m, diagonal, low_rank = _preconditioner(A, options.M, n, dtype, exchange)
    start = None
    if x0 is not None and not isinstance(x0, str):
        start = as_vector(view(x0, "x0"), n, dtype, "x0")
        refuse_non_finite(start, "x0")
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(start))
        if options.radius is not None and not norm < options.radius:
            raise ValueError(
                f"x0 has norm {norm:.3g}, outside the trust radius {options.radius:.3g}"
            )
    elif x0 is not None and x0 != "Mb":
        raise ValueError(f"x0 must be a vector or 'Mb', got {x0!r}")
    x = np.zeros(n, dtype) if options.out is None else _output(options.out, rhs, n, dtype)
    problem = Problem(a, m, diagonal, low_rank, rhs, x, start, exchange)
    if isinstance(x0, str):
        start = problem.precondition(rhs.copy())
        refuse_non_finite(start, "M b, which x0='Mb' asks for,")
        problem = replace(problem, start=start)
    elif start is not None and np.may_share_memory(x, start):
        problem = replace(problem, start=start.copy())
    x[:] = 0 if problem.start is None else problem.start
    return problem


def _preconditioner(
    A: Any, M: Any, n: int, dtype: np.dtype[Any], exchange: Exchange
) -> tuple[BoundOperator | None, NDArray[Any] | None, LowRankPreconditioner | None]:
    if M is None:
        psolve = getattr(A, "psolve", None)  # SciPy's contract
        if psolve is None:
            return None, None, None
        M = LinearOperator((n, n), matvec=psolve, dtype=dtype)
    if getattr(M, "ndim", 2) == 1:
        raise ValueError(
            "M must be an operator; for a diagonal give JacobiPreconditioner(diagonal)"
        )
    bound = as_operator(M, "M").bind(n, dtype, exchange, narrow=True)
    if isinstance(M, LowRankPreconditioner) and M.is_native and M.dtype == dtype:
        return None, None, M
    diagonal = inverse_diagonal_of(M)
    if diagonal is None:
        return bound, None, None
    refuse_complex(diagonal.dtype, dtype, "M")
    return None, np.ascontiguousarray(diagonal, dtype), None


def _output(out: Any, rhs: NDArray[Any], n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not (isinstance(out, np.ndarray) or is_torch(out) or hasattr(out, "__dlpack__")):
        raise TypeError(
            f"out must be an array of shape ({n},) to write into, not {type(out).__name__}"
        )
    x = view(out, "out")
    if x.shape != (n,) or x.dtype != dtype or not x.flags.c_contiguous or not x.flags.writeable:
        raise ValueError(
            f"out must be a contiguous, writable vector of shape ({n},) and dtype {dtype}; it has shape "
            f"{x.shape} and dtype {x.dtype}"
        )
    if np.may_share_memory(x, rhs):
        raise ValueError("out must not share memory with b: the solver reads b to the end")
    return x
