"""Hessian-free optimization (Martens 2010; Sainath et al. 2013; He et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from krylov.checks import flag, integer
from krylov.stopping import Trace, Verdict
from krylov.torch.optim.arguments import Arguments
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.linesearch import Armijo, GridSearch, LineSearch, check_line_search
from krylov.torch.optim.local_model import Place
from krylov.torch.optim.outer_iteration import (
    HessianFreeMemory,
    HessianFreeMethod,
    outer_iteration,
)
from krylov.torch.optim.record import StepRecord
from krylov.torch.optim.saddle import Escape
from krylov.torch.optim.second_order import SecondOrder
from krylov.torch.optim.solvers.directions import Solver
from krylov.torch.optim.solvers.factory import make_solver
from krylov.torch.statistics import GradientStatistics

__all__ = ["HessianFree"]

# Of exact steps with a grid search: with little damping the direction is good, and the length says how far the model
# holds. Judged by rho of the full length such steps are rejected, and lambda stays where it is (docs/pinn.md).
_EXACT = LevenbergMarquardt(1e-3, decrease=0.2, low=0.1, high=0.2, judge="length")


class HessianFree(SecondOrder):
    """Newton-type steps from a truncated solve with the curvature of a sample.

    Each step minimises ``q(d) = g.d + d.(B + lambda I) d / 2`` approximately, picks among the iterates of that run the
    one with the smallest loss, shortens it by Armijo's rule, and adapts lambda to the ratio of real to predicted
    decrease. A step that would raise the loss is rejected; the parameters then stay as they are.

    Parameters
    ----------
    params : iterable of Tensor or of groups
        As for every optimizer. Groups know ``lr`` and ``weight_decay``.
    lr : float
        Factor of every step; 1 is a Newton step. Schedulers may change it.
    weight_decay : float
        ``weight_decay |w|^2 / 2`` is part of loss, gradient and curvature.
    curvature : {"ggn", "hessian", "hybrid"}
        The Gauss-Newton matrix, the Hessian, or the Hessian until a run meets negative curvature, then the
        Gauss-Newton matrix for one step.
    solver : {"flexible_cg", "cg", "bicgstab", "subspace", "dense"}
        With "ggn" and "cg" this is GN-CG of He et al. (2016), with "hessian" and "cg" HF-CG, with "hybrid" Hybrid-CG,
        with "hessian" and "bicgstab" HF-Bi-CG-STAB. "subspace" takes saddle-free Newton steps in a Krylov subspace,
        and compares five dampings, 9 lambda to lambda / 9, at no product. "dense" factorises the Gauss-Newton matrix of
        a network of up to a few thousand parameters (or outputs): exact steps, for damping far below what conjugate
        gradients get through.
    preconditioner : {"lbfgs", "ritz", "nystrom", "jacobi", "kronecker", None}
        "lbfgs" and "ritz" learn from each run for the next; "nystrom" takes m products for a sketch as long as runs
        are long enough to pay for it; "jacobi" computes a diagonal in every step; "kronecker" (K-FAC) approximates the
        Gauss-Newton matrix of affine layers, for runs of few iterations on deep networks.
    preconditioner_options : mapping
        Keywords of `LBFGSPreconditioner` or `RitzPreconditioner`; for "nystrom" `m`, `worth`, `remeasure`; for "jacobi"
        `diagonal` ("gauss_newton", the default with "ggn", or "fisher"), `power`, `probes`; for "kronecker" `every`,
        `decay`, `probes`, `storage` of `krylov.torch.optim.preconditioning.kronecker.KroneckerFactors`.
    damping : float or LevenbergMarquardt, optional
        lambda of the first step, or the whole rule. By default lambda begins with 1; for "dense" with 1e-3, and follows
        the length of the grid search (there a number too begins that rule).
    stop : int or callable
        Iterations of every run (for "subspace" products), or a rule of `krylov.stopping`: `QuadraticProgress` is that
        of Martens and of Sainath et al. By default 10: with a warm start short runs do the work of long ones.
    maxiter : int
        Iterations at most.
    warm_start : float
        Each run starts from this multiple of the last run's result; 0: from zero.
    line_search : Armijo or GridSearch, optional
        Armijo's rule shortens steps that lower the loss; `GridSearch`, the default for "dense", also those that raise
        it.
    retries : int
        How often a rejected step is tried again at once with more damping; it costs no gradient.
    escape : bool or None
        Whether a vanishing gradient or a rejected step is answered by a search for negative curvature (some products
        with the Hessian). None: unless curvature is "ggn".
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers: raise, or draw the same ones in all evaluations of a step,
        for each micro-batch its own.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode.
    seed : int
        Of all random choices made here.

    Attributes
    ----------
    last_step : StepRecord or None
        What the last step did and what it cost.
    last_statistics : GradientStatistics or None
        Variance of the gradient over the micro-batches of the last step, for `VarianceSchedule`.
    damping : float
        lambda of the next step.

    Notes
    -----
    ``step(closure)``: the closure returns the loss, or loss and outputs for the Gauss-Newton matrix; it must not call
    ``backward()`` and is called several times a step. ``step_batches`` takes separate samples.

    Deviations from the printed algorithms: rho is the quotient of two negative numbers (the printed sign is wrong), of
    the step as learning rates have scaled it, which costs one product where groups differ in theirs; the last loss is
    computed anew when the evaluation sample is another one. With a learning rate of zero in all groups nothing is
    tried, and lambda stays as it is.

    Examples
    --------
    >>> x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))
    >>> model = torch.nn.Linear(5, 3)
    >>> optimizer = HessianFree(model.parameters())
    >>> def closure():
    ...     outputs = model(x)
    ...     return torch.nn.functional.cross_entropy(outputs, y), outputs
    >>> for _ in range(3):
    ...     loss = optimizer.step(closure)
    """

    _key: ClassVar[str] = "hessian_free"
    _method: HessianFreeMethod
    _memory: HessianFreeMemory

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        curvature: Literal["ggn", "hessian", "hybrid"] = "ggn",
        solver: Solver = "flexible_cg",
        preconditioner: Literal["lbfgs", "ritz", "nystrom", "jacobi", "kronecker"] | None = None,
        preconditioner_options: Mapping[str, Any] | None = None,
        damping: float | LevenbergMarquardt | None = None,
        stop: int | Callable[[Trace], Verdict] | None = None,
        maxiter: int = 250,
        warm_start: float = 0.95,
        line_search: LineSearch | None = None,
        retries: int = 2,
        escape: bool | None = None,
        randomness: Literal["refuse", "freeze"] = "refuse",
        allow_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        check_line_search(line_search)
        search = line_search or (GridSearch() if solver == "dense" else Armijo())
        usual = _EXACT if solver == "dense" and search.rescues else LevenbergMarquardt()
        given = Arguments.checked(
            ("ggn", "hessian", "hybrid"),
            ("flexible_cg", "cg", "bicgstab", "subspace", "dense"),
            curvature=curvature,
            solver=solver,
            preconditioner=preconditioner,
            preconditioner_options=preconditioner_options,
            damping=usual if damping is None else LevenbergMarquardt.of(damping, usual),
            maxiter=maxiter,
            warm_start=warm_start,
            line_search=search,
            seed=seed,
        )
        if solver == "dense" and curvature != "ggn":
            raise ValueError(
                "solver='dense' makes the Gauss-Newton matrix of the outputs' Jacobian: take curvature='ggn'"
            )
        if escape is not None:
            flag(escape, "escape")
        retries = integer(retries, "retries", 0)
        if given.rule.judge == "length" and not search.rescues:
            raise ValueError(
                "damping judged by length needs a line search that also shortens steps that raise the loss, and "
                "Armijo's does not here: give line_search=GridSearch()"
            )
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            randomness=randomness,
            allow_batch_norm=allow_batch_norm,
        )
        self._method = HessianFreeMethod(
            curvature,
            make_solver(solver, stop, given.maxiter),
            given.preconditioning(self._parameters),
            given.rule,
            given.warm_start,
            search,
            Escape(given.seed) if escape or (escape is None and curvature != "ggn") else None,
            retries,
        )
        self._memory = HessianFreeMemory(given.rule.initial)

    def _advance(
        self, memory: HessianFreeMemory, place: Place
    ) -> tuple[Tensor, StepRecord, GradientStatistics]:
        return outer_iteration(self._method, memory, place)
