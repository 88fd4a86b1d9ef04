"""Newton-CG (Reiz, Neckel and Bungartz 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from krylov.checks import number
from krylov.torch.optim.arguments import Arguments
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.linesearch import LineSearch
from krylov.torch.optim.local_model import Memory, Place
from krylov.torch.optim.newton_step import NewtonMethod, newton_step
from krylov.torch.optim.record import StepRecord
from krylov.torch.optim.second_order import SecondOrder
from krylov.torch.optim.solvers.directions import Solver
from krylov.torch.optim.solvers.factory import make_truncated_solver
from krylov.torch.statistics import GradientStatistics

__all__ = ["NewtonCG"]


class NewtonCG(SecondOrder):
    """Newton steps by a few iterations of conjugate gradients, one for each mini-batch.

    Each step solves ``(B + tau I) d = -g`` to a relative residual of `tol`, and moves the parameters by ``lr d``. The
    run ends at the first direction of negative curvature with the iterate before it, or with -g where there is none;
    -g is also taken where d does not lead downhill. With a fixed rate and a fixed tau a step costs one gradient and a
    few products, and evaluates no loss beside.

    Parameters
    ----------
    params : iterable of Tensor or of groups
        As for every optimizer. Groups know ``lr`` and ``weight_decay``.
    lr : float
        Factor of every step; 1 is a Newton step. Schedulers may change it.
    weight_decay : float
        ``weight_decay |w|^2 / 2`` is part of loss, gradient and curvature.
    damping : float or LevenbergMarquardt
        tau, fixed; or a rule by which it follows the ratio of real to predicted decrease, which takes the loss after
        each step. A step that does not lower it is then rejected: the parameters stay as they are.
    tol : float
        Residual at which a run ends, relative to the gradient; in (0, 1).
    maxiter : int
        Iterations of a run at most.
    curvature : {"hessian", "ggn"}
        B: the Hessian or the Gauss-Newton matrix.
    solver : {"cg", "flexible_cg", "bicgstab", "subspace"}
        "bicgstab" (two products an iteration) goes on through negative curvature and takes the sign of its iterate that
        leads downhill. "subspace" takes a saddle-free Newton step in a Krylov subspace of `maxiter` products; `tol`
        plays no part.
    preconditioner, preconditioner_options
        See `HessianFree`.
    line_search : Armijo or GridSearch, optional
        Backtracking from lr, in place of a fixed step; it takes at least one evaluation of the loss. A step of which no
        part lowers the loss enough is rejected.
    warm_start : float
        Momentum of the start vector: each run starts from this multiple of the last direction, for one product more;
        0: from zero.
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers: raise, or draw the same ones in all evaluations of a step,
        for each micro-batch its own.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode.
    seed : int
        Of all random choices made here, which are those of preconditioners.

    Attributes
    ----------
    last_step : StepRecord or None
        What the last step did and what it cost. ``loss_after`` and ``rho`` are NaN where the loss after the step was
        not evaluated; ``candidate`` is 0 for a step along -g.
    last_statistics : GradientStatistics or None
        Variance of the gradient over the micro-batches of the last step.
    damping : float
        tau of the next step.

    Notes
    -----
    ``step(closure)``: the closure returns the loss, for the Gauss-Newton matrix loss and outputs; it must not call
    ``backward()``. ``step_batches`` takes separate samples. An evaluation sample, where one is given, is judged by: the
    record then has the loss on it before and after, and a step to where it is not finite is rejected.

    A fixed step may still lead to where the loss is not finite. The next step then raises FloatingPointError and leaves
    the parameters there, as it cannot tell a bad batch from a step too far; `kt.fit` keeps the best ones.

    A rate of zero in all groups moves nothing: such a step is on record as not accepted, and damping stays as it is.

    Deviations from the printed algorithm: -g is the fallback for ``g.d >= 0``, where the paper prints ``g.d > tau``;
    runs end at negative curvature, which the textbook's conjugate gradients would pass without notice.

    References
    ----------
    Reiz, Neckel and Bungartz (2022), "Neural nets with a Newton conjugate gradient method on multiple GPUs",
    algorithm 2; Nocedal and Wright (2006), algorithm 7.1, for the end at negative curvature.

    Examples
    --------
    >>> x, y = torch.randn(64, 5), torch.randn(64, 1)
    >>> model = torch.nn.Linear(5, 1)
    >>> optimizer = NewtonCG(model.parameters(), lr=0.5)
    >>> for part in torch.arange(64).split(16):
    ...     loss = optimizer.step(lambda: (model(x[part]) - y[part]).square().mean())
    """

    _key: ClassVar[str] = "newton_cg"
    _method: NewtonMethod

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        weight_decay: float = 0.0,
        damping: float | LevenbergMarquardt = 1.0,
        tol: float = 0.1,
        maxiter: int = 10,
        curvature: Literal["hessian", "ggn"] = "hessian",
        solver: Solver = "cg",
        preconditioner: Literal["lbfgs", "ritz", "nystrom", "jacobi", "kronecker"] | None = None,
        preconditioner_options: Mapping[str, Any] | None = None,
        line_search: LineSearch | None = None,
        warm_start: float = 0.0,
        randomness: Literal["refuse", "freeze"] = "refuse",
        allow_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        given = Arguments.checked(
            ("hessian", "ggn"),
            ("cg", "flexible_cg", "bicgstab", "subspace"),
            curvature=curvature,
            solver=solver,
            preconditioner=preconditioner,
            preconditioner_options=preconditioner_options,
            damping=damping,
            maxiter=maxiter,
            warm_start=warm_start,
            line_search=line_search,
            seed=seed,
        )
        if not 0 < number(tol, "tol") < 1:
            raise ValueError(f"tol must be in (0, 1), got {tol!r}")
        if given.rule.judge == "length" and line_search is None:
            raise ValueError(
                "damping judged by length needs a line search: give line_search=GridSearch()"
            )
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            randomness=randomness,
            allow_batch_norm=allow_batch_norm,
        )
        self._method = NewtonMethod(
            curvature,
            make_truncated_solver(solver, float(tol), given.maxiter),
            given.preconditioning(self._parameters),
            given.rule,
            given.warm_start,
            isinstance(damping, LevenbergMarquardt),
            line_search,
        )
        self._memory = Memory(given.rule.initial)

    def _advance(
        self, memory: Memory, place: Place
    ) -> tuple[Tensor, StepRecord, GradientStatistics]:
        return newton_step(self._method, memory, place)
