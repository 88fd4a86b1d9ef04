"""Learning rates along a run: a scheduler of torch, one step an outer iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["Rates"]

_NEEDED = ("step", "state_dict", "load_state_dict")


class Rates:
    """The learning rates of an optimizer, and what changes them, if anything does.

    Parameters
    ----------
    scheduler : object or callable, optional
        A scheduler of this optimizer, or a function that makes one from an optimizer.
    optimizer : Optimizer
        Whose rates they are.

    Raises
    ------
    TypeError, ValueError
        It is no scheduler, or that of another optimizer.
    """

    def __init__(self, scheduler: Any, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        given = scheduler
        if isinstance(scheduler, type) or (callable(scheduler) and not _fits(scheduler)):
            scheduler = scheduler(optimizer)
        if given is not None and not _fits(scheduler):
            raise TypeError(
                "scheduler must be one of torch.optim.lr_scheduler, or a function that makes one from the optimizer, "
                f"got {scheduler!r}"
            )
        if getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError(
                "the scheduler is that of another optimizer: make it from the one that is given here"
                + ("" if given is scheduler else ", which is the function's argument")
            )
        self._scheduler = scheduler

    @property
    def name(self) -> str | None:
        """What kind of scheduler it is; None where the rates do not change."""
        return None if self._scheduler is None else type(self._scheduler).__name__

    def record(self) -> dict[str, Any]:
        """The rates as an entry of a record: one number, or one a group; nothing where they do not change."""
        if self._scheduler is None:
            return {}
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"lr": rates[0] if len(rates) == 1 else rates}

    def advance(self, judged: float) -> None:
        """An outer iteration is over, after which the parameters are judged by this loss."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(judged)
        elif self._scheduler is not None:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any] | None:
        """That of the scheduler; the rates themselves are in the optimizer's."""
        return None if self._scheduler is None else dict(self._scheduler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there."""
        if self._scheduler is not None and state is not None:
            self._scheduler.load_state_dict(dict(state))


def _fits(scheduler: Any) -> bool:
    return all(callable(getattr(scheduler, name, None)) for name in _NEEDED)
