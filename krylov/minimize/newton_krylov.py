"""The outer loop of the truncated Newton method, and its public function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.optimize import OptimizeResult

from krylov.minimize.escape import escape
from krylov.minimize.gradient_check import check_gradient as compare_gradient
from krylov.minimize.hessian import Hessian
from krylov.minimize.inner import Forcing, InnerSolver
from krylov.minimize.linesearch import Armijo
from krylov.minimize.objective import Iterate, Objective
from krylov.minimize.options import Options
from krylov.minimize.report import MESSAGES, STOPPED, Reporter, announce
from krylov.minimize.trust import TrustRegion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["newton_krylov"]

# Nobody's minimum.
_UNBOUNDED = -1e100


def newton_krylov(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Callable[..., Any] | None = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    *,
    tol: float | None = None,
    gtol: float = 1e-5,
    xtol: float = 0.0,
    maxiter: int | None = None,
    solver: Literal["cg", "flexible_cg", "bicgstab"] = "cg",
    globalization: Literal["trust", "armijo"] = "trust",
    forcing: Literal["eisenstat-walker", "superlinear"] | float = "eisenstat-walker",
    inner_maxiter: int | None = None,
    initial_trust_radius: float | None = None,
    max_trust_radius: float | None = None,
    M: Any = None,
    saddle_check: int = 10,
    seed: int = 0,
    check_gradient: bool = True,
    check_symmetry: bool = True,
    return_all: bool = False,
    disp: bool = False,
) -> OptimizeResult:
    """Minimise a smooth function by a truncated Newton method that uses negative curvature.

    A ``method=`` of `scipy.optimize.minimize`::

        scipy.optimize.minimize(fun, x0, jac=jac, hessp=hessp, method=krylov.minimize.newton_krylov)

    Each iteration solves ``H d = -g`` no more accurately than it pays, with `krylov.cg` or `krylov.bicgstab`.
    Directions of negative curvature are followed, to the trust radius or by a line search. Where the gradient vanishes
    a few steps of Lanczos' method from a seeded random vector look for negative curvature that the gradient cannot
    show; if there is some the run goes on along it, so that it does not end at a saddle.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``, a real scalar. NaN and infinity mean "outside the domain": the step is shortened.
    x0 : array of shape (n,)
        Start, inside the domain. Computations are in float64.
    args : tuple, optional
        Further arguments of `fun`, `jac`, `hess` and `hessp`.
    jac : callable or True
        ``jac(x, *args)``, the gradient; with True `fun` returns ``(value, gradient)``. Required.
    hess : callable, matrix or {"2-point", "3-point"}, optional
        ``hess(x, *args)`` returns a matrix: dense, sparse, or LinearOperator; a matrix itself stands for a constant
        one. It goes before `hessp`. The words mean differences of the gradient: one more gradient a product, or two.
    hessp : callable, optional
        ``hessp(x, p, *args)``, the product of the Hessian with p. Without `hess` and `hessp`: "2-point".
    bounds, constraints
        Not supported: refused with a ValueError.
    callback : callable, optional
        ``callback(x)`` or ``callback(intermediate_result)`` after each iteration, the latter (known by its parameter's
        name) with `x`, `fun`, `jac` and `nit`. Raise StopIteration to end the run.
    tol : float, optional
        `gtol`, as `scipy.optimize.minimize` passes it on.
    gtol : float
        Converged when the Euclidean norm of the gradient is at most this.
    xtol : float
        Also when a step is shorter than ``xtol * max(1, |x|)``; 0 switches this off.
    maxiter : int, optional
        At most this many iterations; 200 n by default.
    solver : {"cg", "flexible_cg", "bicgstab"}
        Of the inner systems. Bi-CG-STAB takes two products an iteration; of its iterates, with the sign that makes them
        descent directions, the one is taken along which the quadratic model falls most (He et al. 2016).
    globalization : {"trust", "armijo"}
        Trust radius (Steihaug 1983), or backtracking line search.
    forcing : {"eisenstat-walker", "superlinear"} or float
        Relative residual of the inner systems: by the decrease of the gradient; ``min(0.5, sqrt(|g|))``; or this
        number.
    inner_maxiter : int, optional
        At most this many inner iterations; 10 n by default.
    initial_trust_radius : float, optional
        ``max(1, |x0|)`` by default.
    max_trust_radius : float, optional
        No limit by default.
    M : preconditioner, optional
        Approximate inverse of the Hessian, for all inner solves: whatever `krylov.cg` takes. One with an ``update``
        method learns from solve to solve and is used with `krylov.flexible_cg`:
        ``krylov.LBFGSPreconditioner(n, 32, harvest=True)`` saves many products where these are expensive.
    saddle_check : int
        Lanczos steps, one product each, that look for negative curvature before the run ends; up to three times as many
        when they are not conclusive. 0: no such check, and the run may end at a saddle.
    seed : int
        Of all random vectors: equal seeds, equal runs.
    check_gradient : bool
        Compare the gradient at x0 with differences of `fun` along a random direction (two evaluations); where they
        differ find the coordinate, and raise. Once more where no step decreases `fun`.
    check_symmetry : bool
        Compare u.Hv with v.Hu for the first two products, which costs none.
    return_all : bool
        Whether to return all iterates, as `allvecs`.
    disp : bool
        Whether to print the end of the run.

    Returns
    -------
    scipy.optimize.OptimizeResult
        `x`, `fun`, `jac`, `success`, `message`, `nit`, `nfev`, `njev`; `nhev`, the calls of `hessp` or `hess`, those of
        the saddle check included; `nprod`, the products with the Hessian, wherever they come from (differences count in
        `njev`, too). `status`: 0 converged; 1 iteration limit; 2 no step decreases `fun`; 3 unbounded below; 99 ended
        by the callback.

    Raises
    ------
    ValueError, TypeError
        `jac` is missing or wrong, products are not symmetric, shapes do not fit, `fun` or `jac` is not finite at x0, an
        option makes no sense, or there are bounds or constraints.

    Notes
    -----
    A rejected step costs an evaluation of `fun` and no product: the next one is taken from the iterates of the same
    inner solve. Inner solves are not verified, and the decrease of the model comes without a product, too.

    References
    ----------
    Steihaug (1983), SIAM J. Numer. Anal. 20; Dembo and Steihaug (1983); Eisenstat and Walker (1996); Nocedal and Wright
    (2006), chapters 4 and 7; He et al. (2016), algorithm 3.

    Examples
    --------
    >>> import krylov
    >>> from scipy.optimize import minimize, rosen, rosen_der, rosen_hess_prod
    >>> result = minimize(
    ...     rosen, [-1.2, 1.0], jac=rosen_der, hessp=rosen_hess_prod, method=krylov.minimize.newton_krylov
    ... )
    >>> result.x.round(6)
    array([1., 1.])
    """
    options = Options(
        solver=solver,
        globalization=globalization,
        gtol=gtol if tol is None else tol,
        xtol=xtol,
        maxiter=maxiter,
        forcing=forcing,
        inner_maxiter=inner_maxiter,
        initial_trust_radius=initial_trust_radius,
        max_trust_radius=max_trust_radius,
        M=M,
        saddle_check=saddle_check,
        seed=seed,
        check_gradient=check_gradient,
        check_symmetry=check_symmetry,
        return_all=return_all,
        disp=disp,
    )
    _refuse(bounds, constraints)
    objective = Objective(fun, jac, args)
    hessian = Hessian(objective, hess, hessp, args, check_symmetry=check_symmetry)
    result = _Minimisation(objective, hessian, options, Reporter(callback)).run(_start(x0))
    if disp:
        announce(result)
    return result


class _Minimisation:
    """One run of the outer loop."""

    def __init__(
        self, objective: Objective, hessian: Hessian, options: Options, reporter: Reporter
    ) -> None:
        self._objective, self._hessian = objective, hessian
        self._options, self._reporter = options, reporter

    def run(self, x0: Vector) -> OptimizeResult:
        options, objective = self._options, self._objective
        maxiter = 200 * x0.size if options.maxiter is None else options.maxiter
        at = objective.start(x0)
        if options.check_gradient:
            compare_gradient(objective, at, options.seed)
        solve = InnerSolver(x0.size, options, Forcing(options.forcing, options.gtol))
        globalization = self._globalization(at)
        visited, nit, status = [at.x], 0, 1
        while True:
            short = nit > 0 and _is_short(visited[-2:], options.xtol)
            new: Iterate | None = None
            if at.norm > options.gtol and not short:
                if nit >= maxiter:
                    status = 1
                    break
                inner = solve(self._hessian.operator(at), at, globalization.radius)
                new = globalization.advance(at, inner)
                if new is None and options.check_gradient:
                    compare_gradient(objective, at, options.seed + 1)
            if new is None:
                status = _status(at.norm <= options.gtol, short, options.saddle_check > 0)
                new = self._escape(at)
                if new is None:
                    break
                if nit >= maxiter:  # it is a saddle, and there is no iteration left to leave it
                    status = 1
                    break
                globalization.restart(float(np.linalg.norm(new.x - at.x)))
            at, nit = new, nit + 1
            if at.value < _UNBOUNDED:
                status = 3
                break
            visited.append(at.x)
            if not options.return_all:
                del visited[:-2]
            if self._reporter(at, nit):
                status = STOPPED
                break
        return self._result(at, nit, status, visited)

    def _globalization(self, at: Iterate) -> TrustRegion | Armijo:
        options = self._options
        reach = max(1.0, float(np.linalg.norm(at.x)))
        if options.globalization == "armijo":
            return Armijo(self._objective, 0.1 * reach)
        largest = 1e140 if options.max_trust_radius is None else float(options.max_trust_radius)
        radius = options.initial_trust_radius
        return TrustRegion(self._objective, reach if radius is None else float(radius), largest)

    def _escape(self, at: Iterate) -> Iterate | None:
        options = self._options
        if options.saddle_check == 0:
            return None
        operator = self._hessian.operator(at)
        return escape(
            operator, self._objective, at, options.saddle_check, options.seed, self._hessian.exact
        )

    def _result(self, at: Iterate, nit: int, status: int, visited: list[Vector]) -> OptimizeResult:
        success = status in (0, 4, 5)
        result = OptimizeResult(
            x=at.x,
            fun=at.value,
            jac=at.gradient,
            success=success,
            status=0 if success else status,
            message=MESSAGES[status],
            nit=nit,
            nfev=self._objective.nfev,
            njev=self._objective.njev,
            nhev=self._hessian.nhev,
            nprod=self._hessian.nprod,
        )
        if self._options.return_all:
            result["allvecs"] = visited
        return result


def _status(flat: bool, short: bool, checked: bool) -> int:
    """Why the run ends here, unless there is a way out of a saddle."""
    if flat:
        return 0 if checked else 5
    return 4 if short else 2


def _is_short(last: list[Vector], xtol: float) -> bool:
    if xtol == 0.0 or len(last) < 2:
        return False
    return float(np.linalg.norm(last[1] - last[0])) <= xtol * max(
        1.0, float(np.linalg.norm(last[1]))
    )


def _start(x0: Any) -> Vector:
    if np.iscomplexobj(x0):
        raise TypeError("x0 must be real")
    x = np.atleast_1d(np.array(x0, dtype=np.float64))
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"x0 must be a vector with at least one entry, but its shape is {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x0 has entries that are not finite")
    return x


def _refuse(bounds: Any, constraints: Any) -> None:
    if bounds is not None:
        raise ValueError(
            "newton_krylov does not support bounds: use method='L-BFGS-B' or 'trust-constr', or substitute variables"
        )
    if constraints is not None and not (
        isinstance(constraints, list | tuple | dict) and len(constraints) == 0
    ):
        raise ValueError("newton_krylov does not support constraints: use method='trust-constr'")
