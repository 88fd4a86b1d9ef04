"""The Neumann optimizer (Krishnan, Xiao and Saurous 2018, algorithm 2)."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from krylov.checks import finite_number, flag, not_negative
from krylov.torch.optim.groups import check_group, check_saved_groups
from krylov.torch.optim.neumann_schedule import Clock, Timetable, momentum_range
from krylov.torch.optim.neumann_state import check_buffers
from krylov.torch.optim.neumann_update import (
    Bucket,
    Coefficients,
    distance,
    finite,
    plain_step,
    update,
)
from krylov.torch.optim.tensors import entry, reading

__all__ = ["Neumann", "NeumannStep"]

_KEY = "neumann"
# Attributes that torch does not know of.
_OWN = ("_timetable", "_clock", "_training", "_alpha", "_beta", "_gamma", "last_step")
# Options of groups.
_OPTIONS = ("lr", "weight_decay")
_DTYPES = (torch.float32, torch.float64)
#: A factor that float32 parameters would not survive.
_BEYOND = 1e30
#: The paper's beta, for each parameter.
_BETA = 1e-5


@dataclass(frozen=True)
class NeumannStep:
    """What a step did.

    Attributes
    ----------
    step : int
        Its number, from 1.
    warmup, reset : bool
        Whether it was one of plain SGD; whether the Neumann iterate began anew.
    momentum : float
        mu; 0 during the warm-up.
    distance : float
        ``|w - v|`` before it; NaN where it was not needed.
    regulariser : float
        Norm of the gradient of both regularisers, positive where they attract w to v, negative where they repel it.
    """

    step: int
    warmup: bool
    reset: bool
    momentum: float
    distance: float
    regulariser: float

    def as_dict(self) -> dict[str, Any]:
        """For a log: plain numbers."""
        return asdict(self)


class Neumann(Optimizer):
    """Newton-like steps by a Neumann series whose products are gradients at displaced parameters.

    With ``mu = lambda_max / (|lambda_min| + lambda_max)`` and ``eta = 1 / lambda_max`` the iteration
    ``m = mu m - eta grad(x + mu m)`` sums the Neumann series of a convexified Hessian; each of its iterations takes
    the gradient of another mini-batch and moves x by m. One gradient and two buffers, as Adam.

    Parameters
    ----------
    params : iterable of Tensor or of groups
        As for every optimizer. Groups know ``lr`` and ``weight_decay``.
    lr : float
        eta, the one number to tune; schedulers may change it. `neumann_rate` measures ``1 / lambda_max``.
    warmup_steps : int
        Steps of plain SGD at the beginning; in the paper 5 epochs. The default is that of 40 steps an epoch.
    reset_every : int or None
        K: iterations until m begins anew; in the paper 10 epochs. None: never.
    reset_growth : int
        K is multiplied by it at each reset; 1 keeps it.
    momentum : (float, float) or float
        mu goes from the first to the last as ``1 - 1 / (1 + t)``; a number keeps it.
    momentum_every : int
        Steps in which this t grows by one: 1, or those of an epoch for the slowest reading of the paper.
    alpha : float
        Of the cubic regulariser ``alpha |w - v|^3 / 3``, which keeps w near its moving average v.
    beta : float, optional
        Of the repulsive regulariser ``beta / |w - v|``; by default 1e-5 times the number of parameters that have
        gradients. With ``alpha=0, beta=0`` there is no average, and one buffer less.
    gamma : float
        Of the moving average ``v = w + gamma (v - w)``.
    weight_decay : float
        ``weight_decay |w|^2 / 2`` is part of the loss.

    Attributes
    ----------
    last_step : NeumannStep or None
        What the last step did.
    training : bool
        Whether the parameters are the displaced ones, at which gradients are taken.

    Raises
    ------
    TypeError, ValueError
        An option makes no sense, or a group is empty.

    Notes
    -----
    The parameters hold ``w = x + mu m`` while training. ``eval()`` puts x in its place, ``train()`` puts w back; to
    save or to evaluate a model, call ``eval()`` first. `fit` does.

    Deviations from the printed algorithm: K counts from the last reset; where w = v the direction of the regularisers
    is zero; their gradient is that of the printed algorithm, not of the printed equation 8. Without regularisers and
    resets, and with constant mu, the iteration is Nesterov's momentum.

    References
    ----------
    Krishnan, Xiao and Saurous (2018), "Neumann optimizer", algorithm 2 and table 1.

    Examples
    --------
    >>> model = torch.nn.Linear(5, 1)
    >>> optimizer = Neumann(model.parameters(), lr=0.1, warmup_steps=2, reset_every=4, beta=0)
    >>> x, y = torch.randn(64, 5), torch.randn(64, 1)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.mse_loss(model(x), y).backward()
    ...     optimizer.step()
    >>> optimizer.eval()  # the parameters to use
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        warmup_steps: int = 200,
        reset_every: int | None = 400,
        reset_growth: int = 2,
        momentum: tuple[float, float] | float = (0.5, 0.9),
        momentum_every: int = 1,
        alpha: float = 1e-7,
        beta: float | None = None,
        gamma: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        self._timetable = Timetable(
            warmup_steps, reset_every, reset_growth, momentum_range(momentum), momentum_every
        )
        self._alpha = not_negative(alpha, "alpha")
        self._beta = None if beta is None else not_negative(beta, "beta")
        if not 0 <= finite_number(gamma, "gamma") < 1:
            raise ValueError(f"gamma must be at least 0 and below 1, got {gamma!r}")
        self._gamma = float(gamma)
        self._clock = self._timetable.begin()
        self._training = True
        self.last_step: NeumannStep | None = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @property
    def training(self) -> bool:
        """Whether the parameters are the displaced ones."""
        return self._training

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its buffers begin with its first gradient.

        Raises
        ------
        TypeError, ValueError
            It is empty, has a negative rate, or parameters of a dtype other than float32 and float64.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group, len(self.param_groups) - 1)
        except Exception:
            del self.param_groups[-1]
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients that the parameters have.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and calls ``backward()``, as for SGD.

        Returns
        -------
        Tensor or None
            What the closure has returned: the loss at the displaced parameters.

        Raises
        ------
        RuntimeError
            The optimizer is in evaluation mode, no parameter has a gradient, or a gradient is sparse.
        FloatingPointError
            The loss or a gradient is not finite.

        Notes
        -----
        Whatever is raised leaves the parameters as they were.
        """
        if not self._training:
            raise RuntimeError(
                "Neumann is in evaluation mode, where gradients are of the wrong parameters: call optimizer.train() "
                "before loss and gradient are computed"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            value = loss.detach() if isinstance(loss, Tensor) else loss
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {float(value)}: lower lr or begin from other parameters"
                )
        with torch.no_grad():
            self._take()
        return loss

    def eval(self) -> None:
        """Put ``x = w - mu m`` into the parameters: what is evaluated, saved and used."""
        if self._training:
            self._displace(-1)
            self._training = False

    def train(self) -> None:
        """Put ``w = x + mu m`` into the parameters: where gradients are taken."""
        if not self._training:
            self._displace(1)
            self._training = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, in either mode; parameters are to be saved in the same mode."""
        own = {"clock": self._clock.as_dict(), "training": self._training}
        return {**super().state_dict(), _KEY: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, in the mode of then: the model's parameters are those of then too.

        Raises
        ------
        KeyError
            The state is that of another optimizer.
        ValueError
            It is that of other parameters, or damaged; the message has the name of the entry. Nothing has changed then.
        """
        if _KEY not in state_dict:
            raise KeyError("this is not the state of a Neumann optimizer")
        with reading("Neumann"):
            own = entry(state_dict, _KEY, Mapping)
            clock = Clock.from_dict(entry(own, "clock", Mapping))
            training = flag(entry(own, "training", object), "training")
            check_saved_groups(state_dict, _OPTIONS)
            check_buffers(state_dict, [p for g in self.param_groups for p in g["params"]])
            # torch takes tensors of the right dtype as they are, and two optimizers would share them.
            super().load_state_dict(
                copy.deepcopy({k: v for k, v in state_dict.items() if k != _KEY})
            )
        self._clock, self._training = clock, training

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's own leaves out what a subclass has added."""
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in _OWN}}

    def _take(self) -> None:
        buckets = self._buckets()
        plan = self._timetable.next(self._clock)
        r, force = math.nan, 0.0
        if plan.warmup:
            for bucket in buckets:
                plain_step(bucket)
        else:
            if self._regularised and not plan.reset:
                r = distance(buckets)
                if not math.isfinite(r):
                    raise FloatingPointError(
                        "the parameters are not finite, or too far from their moving average: lower lr"
                    )
                force = self._force(r, sum(bucket.count for bucket in buckets))
            pull = force / r if force else 0.0
            if abs(pull) * max(bucket.lr for bucket in buckets) > _BEYOND:
                raise FloatingPointError(
                    f"w is within {r:.1e} of its moving average, where the repulsive regulariser is {-force:.1e}: give "
                    "more warmup_steps, or beta=0"
                )
            coefficients = Coefficients(plan.mu, self._gamma, pull, plan.reset)
            for bucket in buckets:
                update(bucket, coefficients)
                for parameter in bucket.w:
                    self.state[parameter]["mu"] = plan.mu
        self._keep_squares(buckets)
        self._clock = plan.clock
        self.last_step = NeumannStep(plan.clock.step, plan.warmup, plan.reset, plan.mu, r, force)

    @property
    def _regularised(self) -> bool:
        return self._alpha != 0 or self._beta != 0

    def _force(self, r: float, count: int) -> float:
        """``alpha r^2 - beta / r^2``: the length of the regularisers' gradient, whose direction is that of w - v."""
        beta = _BETA * count if self._beta is None else self._beta
        square = r * r
        # Where w = v there is no direction. Beyond float64's range nothing can be said either.
        return self._alpha * square - beta / square if square > 1e-300 else 0.0

    def _buckets(self) -> list[Bucket]:
        found: dict[Any, Bucket] = {}
        for number, group in enumerate(self.param_groups):
            lr, decay = (not_negative(group[name], name) for name in _OPTIONS)
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    raise RuntimeError(
                        f"a gradient of shape {tuple(gradient.shape)} is sparse, which Neumann cannot use: give the "
                        "embedding sparse=False"
                    )
                key = number, parameter.device, parameter.dtype
                self._add(found.setdefault(key, Bucket(lr, decay)), parameter, gradient)
        buckets = list(found.values())
        if not buckets:
            raise RuntimeError(
                "no parameter has a gradient: call loss.backward() before step(), or in the closure"
            )
        if not finite(buckets):
            raise FloatingPointError(
                "a gradient is not finite; the parameters are those before this step: lower lr, or look for the "
                "operation with torch.autograd.detect_anomaly()"
            )
        return buckets

    def _add(self, bucket: Bucket, parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        # u = w - v: the step that displaces w by s displaces u by s, and no difference is ever formed.
        for name in ("m", "u") if self._regularised else ("m",):
            if name not in state:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state.setdefault("mu", 0.0)
        if self._regularised:
            bucket.add(parameter, gradient, state["m"], state["u"], state.get("square"))
        else:
            bucket.add(parameter, gradient, state["m"], None)

    def _keep_squares(self, buckets: list[Bucket]) -> None:
        """Keep ``|u|^2`` for the next step; it is part of the state, as u read anew has other last bits."""
        for bucket in buckets:
            for parameter, square in zip(bucket.w, bucket.squares, strict=True):
                state = self.state[parameter]
                if square is not None:
                    state["square"] = square
                elif bucket.u:
                    state.pop("square", None)

    def _displace(self, sign: int) -> None:
        """Add ``sign mu m`` to the parameters, with mu of the last step that each took part in."""
        with torch.no_grad():
            for mu, parameters, iterates in self._displaced():
                torch._foreach_add_(parameters, iterates, alpha=sign * mu)

    def _displaced(self) -> Iterator[tuple[float, list[Tensor], list[Tensor]]]:
        parts: defaultdict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state and state["mu"]:
                    parameters, iterates = parts[state["mu"], parameter.device, parameter.dtype]
                    parameters.append(parameter)
                    iterates.append(state["m"])
        for (mu, *_), (parameters, iterates) in parts.items():
            yield mu, parameters, iterates


def _check(group: dict[str, Any], number: int) -> None:
    check_group(group, number, _OPTIONS)
    for parameter in group["params"]:
        if parameter.dtype not in _DTYPES:
            raise TypeError(
                f"a parameter of shape {tuple(parameter.shape)} is {parameter.dtype}; parameters must be float32 or "
                "float64: keep them so, and compute in less under torch.autocast"
            )
