"""How a solve ended, and everything it leaves behind."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A kept iterate: (iteration, x, quadratic value, curvature x.Ax).
Candidate = tuple[int, Any, float, float]


class Outcome(Enum):
    """Why a solve ended. The value is a sentence of advice; `ok` tells whether `x` is what was asked for."""

    CONVERGED = "The true residual meets the tolerance."
    CONVERGED_INDEFINITE = (
        "The true residual meets the tolerance, but A or M is not positive definite: x solves A x = b and "
        "minimises nothing; use curvature='stop' to see the direction."
    )
    STOPPED_BY_RULE = "The stopping rule ended the run."
    TRUST_RADIUS = "The iterate has reached the trust radius."
    ITERATION_LIMIT = (
        "The iterations are used up before the tolerance is met: raise maxiter, relax rtol, or give a "
        "preconditioner M."
    )
    TIME_LIMIT = (
        "The time is used up before the tolerance is met: allow more, or give a preconditioner M."
    )
    STOPPED_BY_CALLBACK = "The callback ended the run by raising StopIteration."
    NEGATIVE_CURVATURE = (
        "A direction of negative curvature was met, so A is not positive definite: follow the direction "
        "returned, add a shift to A, or use bicgstab."
    )
    INDEFINITE_PRECONDITIONER = (
        "The preconditioner M is not positive definite (r.Mr <= 0): repair M, or use bicgstab, which does "
        "not need it to be."
    )
    BREAKDOWN = (
        "The recurrence divides by a number lost in rounding: start from another x0, allow restarts, or "
        "change the preconditioner or the method."
    )
    STAGNATION = (
        "The true residual no longer decreases: the tolerance is below what this precision and conditioning "
        "allow; relax rtol, improve M, or use a wider dtype."
    )
    DIVERGENCE = "The residual grows without bound: use a smaller scale, or cg or bicgstab instead."
    NON_FINITE = (
        "A product with A or M gave NaN or infinity: check A, M and b for such entries and for overflow; x is "
        "the best iterate before it."
    )

    @property
    def ok(self) -> bool:
        """Whether the solve ended as asked: converged, or by its own rule or radius."""
        return self in _OK


_OK = frozenset(
    {
        Outcome.CONVERGED,
        Outcome.CONVERGED_INDEFINITE,
        Outcome.STOPPED_BY_RULE,
        Outcome.TRUST_RADIUS,
    }
)


class SolveResult(tuple[Any, int]):
    """Result of a solve: unpacks into ``(x, info)`` as SciPy's does and carries everything else.

    Attributes
    ----------
    x : array of shape (n,)
        The solution, of the same kind as `b` (NumPy array or torch tensor). Where the run failed, the best iterate:
        the last one of `cg` while A is positive definite, as it has the smallest quadratic value; otherwise the one
        with the smallest residual.
    info : int
        SciPy's integer: 0 for convergence; otherwise the number of iterations, or -10 and -11 for a
        breakdown of Bi-CG-STAB. As in SciPy it is `maxiter` when the last iteration allowed was used, even
        if that one converged, and 0 for ``maxiter=0``; `outcome` always tells the truth.
    outcome : Outcome
        Why the run ended; its value is advice.
    niter, nmatvec, restarts : int
        Iterations, products with A (those of the verification included), and how often the recurrence
        went on from a recomputed residual.
    residual_norm : float
        Norm of the residual of the recurrence at the end.
    true_residual_norm : float or None
        Norm of ``b - A x`` as recomputed at the end; None where the run was ended by a rule, a callback, the
        trust radius or negative curvature and no product was spent on it.
    residual_norms : ndarray
        Residual norms of the recurrence, entry 0 the initial one.
    quadratic_values : ndarray
        Values of x.Ax / 2 - b.x, one for each entry of `residual_norms`; empty for `bicgstab` unless it tracks.
    curvature : float
        x.Ax of the final iterate.
    direction : array or None
        Unit direction of negative curvature, where one ended the run.
    direction_curvature : float
        Its curvature p.Ap (the most negative Rayleigh quotient met, where it was ignored); 0 if none was met.
    candidates : list of (int, array, float, float)
        Iterates that were kept: iteration, x, quadratic value, curvature x.Ax.
    """

    outcome: Outcome
    niter: int
    nmatvec: int
    restarts: int
    residual_norm: float
    true_residual_norm: float | None
    residual_norms: NDArray[np.float64]
    quadratic_values: NDArray[np.float64]
    curvature: float
    direction: Any
    direction_curvature: float
    candidates: list[Candidate]
    _alphas: NDArray[np.float64]
    _betas: NDArray[np.float64]

    def __new__(cls, x: Any, info: int, **attributes: Any) -> SolveResult:
        self = super().__new__(cls, (x, info))
        self.__dict__.update(attributes)
        return self

    def __reduce__(self) -> Any:
        return _rebuild, (self.x, self.info, self.__dict__)

    @property
    def x(self) -> Any:
        """The solution."""
        return self[0]

    @property
    def info(self) -> int:
        """SciPy's integer."""
        return self[1]

    def ritz_values(self) -> NDArray[np.float64]:
        """Estimates of the eigenvalues of (preconditioned) A from the coefficients of the run, for free.

        The tridiagonal matrix of Lanczos is hidden in alpha and beta (Golub and Van Loan, section 11.3).

        Returns
        -------
        ndarray of shape (niter,)
            Ritz values, ascending.

        Raises
        ------
        ValueError
            The run has no such coefficients: not `cg` or `flexible_cg`, no iteration, or a recurrence that was
            restarted or met negative curvature.
        """
        alpha, beta = self._alphas, self._betas
        if alpha.size == 0:
            raise ValueError(
                "no Ritz values: only runs of cg and flexible_cg with an iteration have them"
            )
        if self.restarts or not (np.all(alpha > 0) and np.all(beta[:-1] >= 0)):
            raise ValueError("no Ritz values: the run was restarted or met negative curvature")
        diagonal = 1.0 / alpha
        diagonal[1:] += beta[:-1] / alpha[:-1]
        off_diagonal = np.sqrt(beta[:-1]) / alpha[:-1]
        return np.asarray(scipy.linalg.eigvalsh_tridiagonal(diagonal, off_diagonal))

    def __repr__(self) -> str:
        return (
            f"SolveResult({self.outcome.name}, info={self.info}, niter={self.niter}, "
            f"nmatvec={self.nmatvec}, residual_norm={self.residual_norm:.3g})"
        )


def _rebuild(x: Any, info: int, attributes: dict[str, Any]) -> SolveResult:
    return SolveResult(x, info, **attributes)
