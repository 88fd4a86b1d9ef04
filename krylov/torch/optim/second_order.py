"""What the optimizers of second order share: groups, samples, guards, state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from krylov.checks import choice, flag, integer, not_negative
from krylov.torch.flatten import Parameters
from krylov.torch.guards import Randomness
from krylov.torch.optim.groups import check_group, check_saved_groups
from krylov.torch.optim.local_model import Memory, Method, Place
from krylov.torch.optim.objective import Objective
from krylov.torch.optim.record import Ledger, StepRecord
from krylov.torch.optim.samples import Samples
from krylov.torch.optim.tensors import arrays_of, entry, reading, saved_tensor, tensors_of
from krylov.torch.statistics import GradientStatistics

__all__ = ["SecondOrder"]

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
# Options of groups.
_OPTIONS = ("lr", "weight_decay")
# By the types of what is remembered: no number of these may be negative, but for the integers.
_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "float": not_negative,
    "int": integer,
    "bool": flag,
}


class SecondOrder(Optimizer, ABC):
    """An optimizer whose steps come from a quadratic model.

    A subclass makes its ``_method`` and its ``_memory``, and takes a step in ``_advance``.

    Parameters
    ----------
    params, lr, weight_decay
        As for every optimizer; groups know the last two.
    randomness : {"refuse", "freeze"}
        What to do about a closure that draws random numbers.
    allow_batch_norm : bool
        Whether BatchNorm may be in training mode.
    """

    #: Under which `state_dict` holds what torch's own does not know.
    _key: ClassVar[str]
    _method: Method
    _memory: Memory

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        weight_decay: float,
        randomness: str,
        allow_batch_norm: bool,
    ) -> None:
        choice(randomness, "randomness", ("refuse", "freeze"))
        self._allow_batch_norm = flag(allow_batch_norm, "allow_batch_norm")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._parameters = Parameters(self.param_groups)
        self._randomness = Randomness(randomness, self._parameters.device)
        self.last_step: StepRecord | None = None
        self.last_statistics: GradientStatistics | None = None

    @abstractmethod
    def _advance(self, memory: Any, place: Place) -> tuple[Tensor, StepRecord, GradientStatistics]:
        """The next parameters, what happened, and the variance of the gradient; `memory` is brought up to date."""

    @property
    def damping(self) -> float:
        """Lambda of the next step."""
        return self._memory.damping

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only while the optimizer is being built, since the vectors have one length.

        Raises
        ------
        TypeError, ValueError
            It is empty, or has a negative rate.
        """
        if hasattr(self, "_parameters"):
            raise RuntimeError(
                f"{type(self).__name__} cannot take further parameters: build a new optimizer"
            )
        super().add_param_group(param_group)
        check_group(self.param_groups[-1], len(self.param_groups) - 1, _OPTIONS)

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
            The loss, its gradient or a product with the curvature is not finite to begin with; the parameters stay as
            they are.
        RuntimeError, TypeError, ValueError
            What the closure gives cannot be differentiated twice, with the cure; see `HessianOperator`.

        Notes
        -----
        Whatever is raised, by the closure too, leaves parameters and damping as they were. Only a preconditioner may
        have learnt from the run.
        """
        if closure is None:
            raise TypeError(
                f"{type(self).__name__} needs a closure that evaluates the loss: step(closure). A GradScaler calls "
                "step() without one and cannot be used: take torch.autocast with dtype=torch.bfloat16, which needs no "
                "scaler"
            )
        if not callable(closure):
            raise TypeError(f"closure must be a function, not {type(closure).__name__}")
        samples = Samples.of(gradient, curvature, evaluation)
        parameters = self._parameters
        if not all(tensor.requires_grad for tensor in parameters.tensors):
            raise RuntimeError(
                "a parameter has lost requires_grad since the optimizer was built: to freeze some, put them into a "
                "group and set its lr to 0, or build a new optimizer"
            )
        ledger = Ledger(parameters.n * parameters.dtype.itemsize)
        self._randomness.renew()
        decay = self._of_groups("weight_decay")
        objective = Objective(
            closure,
            parameters,
            parameters.spread(decay) if any(decay.values()) else None,
            ledger,
            self._randomness,
            self._allow_batch_norm,
            needs_outputs=self._method.curvature != "hessian",
            differentiates=self._memory.differentiates,
        )
        memory = replace(self._memory)
        place = Place(objective, ledger, samples, parameters.read(), self._scale())
        point, record, statistics = self._advance(memory, place)
        if record.accepted:
            parameters.write(point)
        memory.differentiates = objective.differentiates
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
        memory = {f.name: getattr(self._memory, f.name) for f in fields(self._memory)}
        extra = {"memory": memory, "preconditioning": self._method.preconditioning.state_dict()}
        return {**super().state_dict(), self._key: tensors_of(extra)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        KeyError
            The state is that of another optimizer.
        ValueError
            It is that of other parameters, or damaged; the message has the name of the entry. Nothing has changed then.
        """
        if self._key not in state_dict:
            raise KeyError(f"this is not the state of a {type(self).__name__} optimizer")
        with reading(type(self).__name__):
            extra = arrays_of(entry(state_dict, self._key, Mapping))
            memory = self._restored(entry(extra, "memory", Mapping))
            preconditioning = entry(extra, "preconditioning", Mapping)
            check_saved_groups(state_dict, _OPTIONS)
            before = super().state_dict()
            super().load_state_dict({k: v for k, v in state_dict.items() if k != self._key})
            try:
                self._method.preconditioning.load_state_dict(preconditioning)
            except BaseException:
                super().load_state_dict(before)
                raise
        self._memory = memory

    def _restored(self, saved: Mapping[str, Any]) -> Memory:
        kind, parameters = type(self._memory), self._parameters
        if wrong := {f.name for f in fields(kind)} ^ saved.keys():
            raise ValueError(
                f"the state of {type(self).__name__} does not fit: {', '.join(sorted(wrong))}"
            )
        memory = kind(**saved)
        for field in fields(kind):
            if check := _CHECKS.get(str(field.type)):
                setattr(memory, field.name, check(getattr(memory, field.name), field.name))
        integer(memory.steps, "steps", 0)
        if memory.direction is not None:
            memory.direction = saved_tensor(memory.direction, "direction", (parameters.n,)).to(
                parameters.device, parameters.dtype
            )
        return memory

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's own leaves out what a subclass has added."""
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in _OWN}}

    def _of_groups(self, name: str) -> dict[int, float]:
        """A group option for each tensor that is trained, by its ``id``."""
        trained = {id(tensor) for tensor in self._parameters.tensors}
        return {
            id(p): not_negative(g[name], name)
            for g in self.param_groups
            for p in g["params"]
            if id(p) in trained
        }

    def _scale(self) -> float | Tensor | None:
        """Learning rates: one number for all entries where they agree, None where it is 1."""
        rates = self._of_groups("lr")
        first, *others = set(rates.values())
        if others:
            return self._parameters.spread(rates)
        return None if first == 1 else first
