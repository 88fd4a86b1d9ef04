"""The solvers of A x = b: `cg`, `flexible_cg`, `bicgstab`, `neumann`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from krylov.options import Options
from krylov.outcome import SolveResult
from krylov.session import solve
from krylov.stopping import Trace, Verdict
from krylov.workspace import Workspace

__all__ = ["bicgstab", "cg", "flexible_cg", "neumann"]

Stop = Callable[[Trace], Verdict]
Callback = Callable[[Any], Any]
Candidates = Literal["all", "geometric"] | Iterable[int]


def cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callback | None = None,
    curvature: Literal["ignore", "stop", "boundary"] = "ignore",
    radius: float | None = None,
    stop: Stop | None = None,
    candidates: Candidates | None = None,
    workspace: Workspace | None = None,
    check_every: int = 1,
    out: Any = None,
) -> SolveResult:
    """Solve ``A x = b`` for Hermitian positive definite A by conjugate gradients.

    A drop-in for `scipy.sparse.linalg.cg`: same signature, same stopping test, same `info`. The first line of
    keywords is SciPy's; the others do nothing unless given.

    Parameters
    ----------
    A : ndarray, sparse array, torch tensor, LinearOperator, object with shape and matvec, or callable
        The operator, n by n. A callable maps a vector of the kind of `b` to the product.
    b : array of shape (n,) or (n, 1)
        Right-hand side: NumPy array, torch CPU tensor, or anything with DLPack. `x` is of the same kind.
    x0 : array of shape (n,) or (n, 1), or "Mb", optional
        Start; zero by default. Never overwritten.
    rtol, atol : float
        Converged when ``|b - A x| < max(atol, rtol * |b|)`` in the Euclidean norm, as recomputed from x.
    maxiter : int, optional
        At most this many iterations; 10 n by default.
    M : like A, or JacobiPreconditioner, optional
        Approximate inverse of A, Hermitian positive definite. A diagonal one is fused into the iteration.
    callback : callable, optional
        ``callback(x)`` after each iteration, with the current iterate (memory that the next one overwrites).
        Raise StopIteration to end the run.
    curvature : {"ignore", "stop", "boundary"}
        What to do about a direction with ``p.Ap <= eps * p.p * |A|``: nothing, as SciPy; end with the iterate
        before it and return the direction; follow it to the trust radius.
    radius : float, optional
        Euclidean trust radius: the run ends where x meets it (Steihaug 1983).
    stop : callable, optional
        Rule of `krylov.stopping`, or any callable on the trace, in addition to the tolerance.
    candidates : {"all", "geometric"} or iterable of int, optional
        Iterates to keep; the final one always joins them.
    workspace : Workspace, optional
        Memory of an earlier solve of the same size.
    check_every : int
        Callback and rule see every so many-th iterate.
    out : array of shape (n,), optional
        Where x goes; must have the dtype of the solve.

    Returns
    -------
    SolveResult
        Unpacks into ``(x, info)``.

    Raises
    ------
    ValueError, TypeError
        Shapes, dtypes or devices do not fit, or an entry of b or x0 is not finite. Numerical endings never raise.

    Notes
    -----
    10 vector reads and writes an iteration (8 for sparse A, 12 with a diagonal or general M), plus the product.
    Sums are float64 over fixed blocks: the result has the same bits for any number of threads.

    References
    ----------
    Hestenes and Stiefel (1952); Steihaug (1983); van der Vorst and Ye (2000) for going on from a recomputed residual.
    """
    _choice("curvature", curvature, ("ignore", "stop", "boundary"))
    return solve(
        "cg",
        A,
        b,
        x0,
        Options(
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            M=M,
            callback=callback,
            curvature=curvature,
            radius=radius,
            stop=stop,
            candidates=candidates,
            workspace=workspace,
            check_every=check_every,
            out=out,
        ),
    )


def flexible_cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callback | None = None,
    curvature: Literal["ignore", "stop", "boundary"] = "ignore",
    radius: float | None = None,
    stop: Stop | None = None,
    candidates: Candidates | None = None,
    workspace: Workspace | None = None,
    check_every: int = 1,
    out: Any = None,
) -> SolveResult:
    """Solve ``A x = b`` by conjugate gradients with a preconditioner that may change between iterations.

    As `cg`, with the Polak-Ribiere beta, which keeps the next direction right when M is another operator than in the
    iteration before: one that learns, an inner iteration, a randomised cycle. 13 vector reads and writes an iteration
    with a general M.

    Parameters
    ----------
    A, b, x0, rtol, atol, maxiter, M, callback, curvature, radius, stop, candidates, workspace, check_every, out
        See `cg`.

    Returns
    -------
    SolveResult
        Unpacks into ``(x, info)``.

    References
    ----------
    Notay (2000); Sainath et al. (2013), section 3, for its use with an L-BFGS preconditioner.
    """
    _choice("curvature", curvature, ("ignore", "stop", "boundary"))
    return solve(
        "flexible_cg",
        A,
        b,
        x0,
        Options(
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            M=M,
            callback=callback,
            curvature=curvature,
            radius=radius,
            stop=stop,
            candidates=candidates,
            workspace=workspace,
            check_every=check_every,
            out=out,
        ),
    )


def bicgstab(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callback | None = None,
    curvature: Literal["ignore", "track"] = "ignore",
    max_restarts: int | None = None,
    stop: Stop | None = None,
    candidates: Candidates | None = None,
    workspace: Workspace | None = None,
    check_every: int = 1,
    out: Any = None,
) -> SolveResult:
    """Solve ``A x = b`` for any square A by the stabilised bi-conjugate gradient method.

    A drop-in for `scipy.sparse.linalg.bicgstab`: same signature, same stopping test, same `info`.

    Parameters
    ----------
    A, b, x0, rtol, atol, maxiter, M, callback, stop, workspace, check_every, out
        See `cg`; A and M need not be Hermitian. M acts from the right.
    curvature : {"ignore", "track"}
        "track" measures x.Ax and x.b of every iterate (3 vector reads more): `quadratic_values` and `candidates` are
        then those of the descent direction ``sign(b.x) x`` (He et al. 2016, section 3).
    max_restarts : int, optional
        Breakdowns survived by starting anew from the true residual, at a repeated one with a seeded random shadow
        vector. By default 0 with "ignore", as SciPy, and 5 with "track".
    candidates : {"all", "geometric"} or iterable of int, optional
        Iterates to keep, with the sign that makes them descent directions; implies tracking.

    Returns
    -------
    SolveResult
        Unpacks into ``(x, info)``; a breakdown gives info -10 or -11. Of all iterates the one with the smallest
        residual is returned when the run fails.

    Notes
    -----
    16 vector reads and writes an iteration without M and 18 with it, plus two products.

    References
    ----------
    van der Vorst (1992); Saad (2003), algorithm 7.7; He et al. (2016), algorithm 3.
    """
    _choice("curvature", curvature, ("ignore", "track"))
    if max_restarts is None:
        max_restarts = 0 if curvature == "ignore" else 5
    return solve(
        "bicgstab",
        A,
        b,
        x0,
        Options(
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            M=M,
            callback=callback,
            curvature=curvature,
            max_restarts=max_restarts,
            stop=stop,
            candidates=candidates,
            workspace=workspace,
            check_every=check_every,
            out=out,
        ),
    )


def neumann(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    scale: float | Literal["auto"] = "auto",
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callback | None = None,
    stop: Stop | None = None,
    candidates: Candidates | None = None,
    workspace: Workspace | None = None,
    check_every: int = 1,
    out: Any = None,
) -> SolveResult:
    """Solve ``A x = b`` by the Neumann series ``x = scale * sum_k (I - scale * M A)^k M b`` (Richardson's iteration).

    Parameters
    ----------
    A, b, x0, rtol, atol, maxiter, M, callback, stop, candidates, workspace, check_every, out
        See `cg`.
    scale : float or "auto"
        Step length, below ``2 / lambda_max(M A)``. "auto" takes 1 over an upper estimate of the largest eigenvalue
        from a few products.

    Returns
    -------
    SolveResult
        Unpacks into ``(x, info)``. `Outcome.DIVERGENCE` when the residual has grown a thousandfold; x is then the best
        iterate.

    References
    ----------
    Krishnan et al. (2018), section 3.
    """
    return solve(
        "neumann",
        A,
        b,
        x0,
        Options(
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            M=M,
            callback=callback,
            scale=scale,
            stop=stop,
            candidates=candidates,
            workspace=workspace,
            check_every=check_every,
            out=out,
        ),
    )


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
