"""Hessian-free optimization (Martens 2010; Sainath et al. 2013; He et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from krylov.checks import choice, finite_number, flag, integer
from krylov.stopping import Trace, Verdict
from krylov.torch.flatten import Parameters
from krylov.torch.guards import Randomness
from krylov.torch.microbatches import WHOLE, sample_count
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.directions import Solver
from krylov.torch.optim.linesearch import Armijo
from krylov.torch.optim.model_solvers import make_solver
from krylov.torch.optim.objective import Objective
from krylov.torch.optim.outer_iteration import Memory, Method, Samples, outer_iteration
from krylov.torch.optim.preconditioning import make_preconditioning
from krylov.torch.optim.record import Ledger, StepRecord
from krylov.torch.optim.saddle import Escape
from krylov.torch.optim.tensors import arrays_of, tensors_of
from krylov.torch.statistics import GradientStatistics

__all__ = ["HessianFree"]

_KEY = "hessian_free"
# Attributes that torch does not know of.
_OWN = (
    "_parameters",
    "_method",
    "_memory",
    "_allow_batch_norm",
    "_randomness",
    "last_step",
    "last_statistics",
)


class HessianFree(Optimizer):
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
    solver : {"flexible_cg", "cg", "bicgstab", "subspace"}
        With "ggn" and "cg" this is GN-CG of He et al. (2016), with "hessian" and "cg" HF-CG, with "hybrid" Hybrid-CG,
        with "hessian" and "bicgstab" HF-Bi-CG-STAB. "subspace" takes saddle-free Newton steps in a Krylov subspace,
        and compares five dampings, 9 lambda to lambda / 9, at no product.
    preconditioner : {"lbfgs", "ritz", "nystrom", "jacobi", "kronecker", None}
        "lbfgs" and "ritz" learn from each run for the next; "nystrom" takes m products for a sketch as long as runs
        are long enough to pay for it; "jacobi" computes a diagonal in every step; "kronecker" (K-FAC) approximates the
        Gauss-Newton matrix of affine layers, for runs of few iterations on deep networks.
    preconditioner_options : mapping
        Keywords of `LBFGSPreconditioner` or `RitzPreconditioner`; for "nystrom" `m`, `worth`, `remeasure`; for "jacobi"
        `diagonal` ("gauss_newton", the default with "ggn", or "fisher"), `power`, `probes`; for "kronecker" `every`,
        `decay`, `probes`, `storage` of `krylov.torch.optim.kronecker.KroneckerFactors`.
    damping : float or LevenbergMarquardt
        lambda of the first step, or the whole rule.
    stop : int or callable
        Iterations of every run (for "subspace" products), or a rule of `krylov.stopping`: `QuadraticProgress` is that
        of Martens and of Sainath et al. By default 10: with a warm start short runs do the work of long ones.
    maxiter : int
        Iterations at most.
    warm_start : float
        Each run starts from this multiple of the last run's result; 0: from zero.
    armijo : Armijo
        The line search.
    retries : int
        How often a rejected step is tried again at once with more damping; it costs no gradient.
    escape : bool or None
        Whether a vanishing gradient or a rejected step is answered by a search for negative curvature (some products
        with the Hessian). None: unless curvature is "ggn".
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers: raise, or draw the same ones in all evaluations of a step.
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
    the step as learning rates have scaled it, which costs one product where they are not 1; the last loss is computed
    anew when the evaluation sample is another one.

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
        damping: float | LevenbergMarquardt = 1.0,
        stop: int | Callable[[Trace], Verdict] | None = None,
        maxiter: int = 250,
        warm_start: float = 0.95,
        armijo: Armijo | None = None,
        retries: int = 2,
        escape: bool | None = None,
        randomness: Literal["refuse", "freeze"] = "refuse",
        allow_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        choice(curvature, "curvature", ("ggn", "hessian", "hybrid"))
        choice(solver, "solver", ("flexible_cg", "cg", "bicgstab", "subspace"))
        choice(randomness, "randomness", ("refuse", "freeze"))
        flag(allow_batch_norm, "allow_batch_norm")
        if escape is not None:
            flag(escape, "escape")
        if not 0 <= finite_number(warm_start, "warm_start") <= 1:
            raise ValueError(f"warm_start must be between 0 and 1, got {warm_start!r}")
        if armijo is not None and not isinstance(armijo, Armijo):
            raise TypeError(f"armijo must be an Armijo, not {type(armijo).__name__}")
        seed, maxiter, retries = (
            integer(seed, "seed", 0),
            integer(maxiter, "maxiter", 1),
            integer(retries, "retries", 0),
        )
        rule = _damping(damping)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._parameters = Parameters(self.param_groups)
        self._method = Method(
            curvature,
            make_solver(solver, stop, maxiter),
            make_preconditioning(
                preconditioner,
                preconditioner_options,
                n=self._parameters.n,
                dtype=self._parameters.dtype,
                curvature=curvature,
                solver=solver,
                seed=seed,
            ),
            rule,
            armijo or Armijo(),
            Escape(seed) if escape or (escape is None and curvature != "ggn") else None,
            float(warm_start),
            retries,
        )
        self._memory = Memory(rule.initial)
        self._allow_batch_norm = allow_batch_norm
        self._randomness = Randomness(randomness, self._parameters.device)
        self.last_step: StepRecord | None = None
        self.last_statistics: GradientStatistics | None = None

    @property
    def damping(self) -> float:
        """Lambda of the next step."""
        return self._memory.damping

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only while the optimizer is being built, since the vectors have one length."""
        if hasattr(self, "_parameters"):
            raise RuntimeError("HessianFree cannot take further parameters: build a new optimizer")
        super().add_param_group(param_group)
        for name in ("lr", "weight_decay"):
            if not finite_number(param_group[name], name) >= 0:
                raise ValueError(f"{name} must not be negative, got {param_group[name]!r}")

    def step(  # type: ignore[override]
        self,
        closure: Callable[..., Any] | None = None,
        *,
        gradient: Iterable[Any] | None = None,
        curvature: Iterable[Any] | None = None,
        evaluation: Iterable[Any] | None = None,
    ) -> Tensor:
        """One outer iteration.

        Parameters
        ----------
        closure : callable
            ``closure()``, or with samples ``closure(batch)``, evaluates the mean loss; for the Gauss-Newton matrix it
            returns ``(loss, outputs)``. No backward pass in it.
        gradient, curvature, evaluation : iterable of batches, optional
            Samples for the gradient, for the curvature (default: that of the gradient), and for the comparison of
            losses (default: that of the gradient).

        Returns
        -------
        Tensor of shape ()
            The loss before the step, as in every optimizer of torch: on the evaluation sample, with the penalty of
            weight decay. ``last_step.loss_after`` is the one after it.

        Raises
        ------
        FloatingPointError
            The loss or its gradient is not finite to begin with; the parameters stay as they are.
        RuntimeError, TypeError, ValueError
            What the closure gives cannot be differentiated twice, with the cure; see `HessianOperator`.

        Notes
        -----
        Whatever is raised, by the closure too, leaves parameters and damping as they were. Only a preconditioner may
        have learnt from the run.
        """
        if closure is None:
            raise TypeError(
                "HessianFree needs a closure that evaluates the loss: step(closure). A GradScaler calls step() "
                "without one and cannot be used: take torch.autocast with dtype=torch.bfloat16, which needs no scaler"
            )
        if not callable(closure):
            raise TypeError(f"closure must be a function, not {type(closure).__name__}")
        samples = _samples(gradient, curvature, evaluation)
        parameters = self._parameters
        if not all(tensor.requires_grad for tensor in parameters.tensors):
            raise RuntimeError(
                "a parameter has lost requires_grad since the optimizer was built: to freeze some, put them into a "
                "group and set its lr to 0, or build a new optimizer"
            )
        ledger = Ledger(parameters.n * parameters.dtype.itemsize)
        self._randomness.renew()
        objective = Objective(
            closure,
            parameters,
            self._entries("weight_decay", 0.0),
            ledger,
            self._randomness,
            self._allow_batch_norm,
            needs_outputs=self._method.curvature != "hessian",
        )
        memory = replace(self._memory)
        point, record, statistics = outer_iteration(
            self._method,
            memory,
            objective,
            ledger,
            samples,
            parameters.read(),
            self._entries("lr", 1.0),
        )
        if record.accepted:
            parameters.write(point)
        self._memory, self.last_step, self.last_statistics = memory, record, statistics
        return torch.tensor(record.loss_before, dtype=parameters.dtype)

    def step_batches(
        self,
        closure: Callable[..., Any],
        *,
        gradient: Iterable[Any],
        curvature: Iterable[Any] | None = None,
        evaluation: Iterable[Any] | None = None,
    ) -> Tensor:
        """`step` with separate samples, each an iterable of batches that the closure takes."""
        return self.step(closure, gradient=gradient, curvature=curvature, evaluation=evaluation)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on; may be saved by `torch.save` and read with ``weights_only=True``."""
        memory = {f.name: getattr(self._memory, f.name) for f in fields(Memory)}
        extra = {"memory": memory, "preconditioning": self._method.preconditioning.state_dict()}
        return {**super().state_dict(), _KEY: tensors_of(extra)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        KeyError, TypeError, ValueError
            The state is that of another optimizer, of other parameters, or damaged; nothing has changed then.
        """
        if _KEY not in state_dict:
            raise KeyError("this is not the state of a HessianFree optimizer")
        extra = arrays_of(state_dict[_KEY])
        if missing := {"memory", "preconditioning"} - extra.keys():
            raise ValueError(f"the state of HessianFree has no {', '.join(sorted(missing))}")
        memory = self._restored(extra["memory"])
        before = super().state_dict()
        super().load_state_dict({k: v for k, v in state_dict.items() if k != _KEY})
        try:
            self._method.preconditioning.load_state_dict(extra["preconditioning"])
        except BaseException:
            super().load_state_dict(before)
            raise
        self._memory = memory

    def _restored(self, saved: Mapping[str, Any]) -> Memory:
        names = {f.name for f in fields(Memory)}
        if wrong := names ^ saved.keys():
            raise ValueError(f"the state of HessianFree does not fit: {', '.join(sorted(wrong))}")
        memory = Memory(**saved)
        finite_number(memory.damping, "damping")
        finite_number(memory.largest_gradient, "largest_gradient")
        integer(memory.steps, "steps", 0)
        integer(memory.searched, "searched")
        flag(memory.met_negative, "met_negative")
        flag(memory.rejected, "rejected")
        if memory.direction is not None:
            if not isinstance(memory.direction, Tensor):
                raise TypeError(
                    f"direction must be a tensor, not {type(memory.direction).__name__}"
                )
            if memory.direction.shape != (self._parameters.n,):
                raise ValueError(
                    f"the state has {memory.direction.numel()} parameters, this optimizer {self._parameters.n}"
                )
            memory.direction = memory.direction.to(self._parameters.device, self._parameters.dtype)
        return memory

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's own leaves out what a subclass has added."""
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in _OWN}}

    def _entries(self, name: str, neutral: float) -> Tensor | None:
        """A group option for each entry of the vector; None where all groups have the neutral value."""
        values = {id(p): float(g[name]) for g in self.param_groups for p in g["params"]}
        if all(value == neutral for value in values.values()):
            return None
        return self._parameters.spread(values)


def _damping(damping: Any) -> LevenbergMarquardt:
    if isinstance(damping, LevenbergMarquardt):
        return damping
    if finite_number(damping, "damping") < 0:
        raise ValueError(f"damping must not be negative, got {damping!r}")
    return LevenbergMarquardt(initial=float(damping))


def _samples(gradient: Any, curvature: Any, evaluation: Any) -> Samples:
    first = [WHOLE] if gradient is None else _batches(gradient, "gradient")
    second = first if curvature is None else _batches(curvature, "curvature")
    third = first if evaluation is None else _batches(evaluation, "evaluation")
    if gradient is None and (curvature is not None or evaluation is not None):
        raise ValueError("give the gradient sample too: step_batches(closure, gradient=...)")
    sizes = [sum(1 if b is WHOLE else sample_count(b) for b in s) for s in (first, second, third)]
    for name, size in zip(("gradient", "curvature", "evaluation"), sizes, strict=True):
        if not size:
            raise ValueError(f"{name} holds no samples: its batches are empty")
    return Samples(first, second, third, (sizes[0], sizes[1], sizes[2]))


def _batches(sample: Iterable[Any], name: str) -> Sequence[Any]:
    if isinstance(sample, Tensor) or not isinstance(sample, Iterable):
        raise TypeError(
            f"{name} must be an iterable of batches, not {type(sample).__name__}: give [batch]"
        )
    batches = list(sample)
    if not batches:
        raise ValueError(f"{name} is empty: it must have at least one batch")
    return batches
