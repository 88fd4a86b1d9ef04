"""The user's function, called as products need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from krylov.checks import choice
from krylov.torch.flatten import Parameters
from krylov.torch.guards import Randomness
from krylov.torch.microbatches import WHOLE

__all__ = ["Evaluation", "refuse_uncallable"]


class Evaluation:
    """Calls a function of a batch, or of none for `WHOLE`, with a graph.

    All evaluations draw the same random numbers, or none, and run under the autocast that this was made under.

    Parameters
    ----------
    function : callable
        The user's.
    parameters : Parameters
        What it depends on.
    randomness : {"refuse", "freeze"}
        See `Randomness`.
    """

    def __init__(
        self, function: Callable[..., Any], parameters: Parameters, randomness: str
    ) -> None:
        choice(randomness, "randomness", ("refuse", "freeze"))
        self._function = function
        self._randomness = Randomness(randomness, parameters.device)
        kind = parameters.device.type
        self._autocast = partial(
            torch.autocast,
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            # A weight that was cast under torch.no_grad() would come back without its graph.
            cache_enabled=False,
        )

    def __call__(self, batch: Any) -> Any:
        with self._randomness(), torch.enable_grad(), self._autocast():
            return self._function() if batch is WHOLE else self._function(batch)


def refuse_uncallable(function: Any, name: str) -> None:
    """Raise unless this can be called."""
    if not callable(function):
        raise TypeError(f"{name} must be a function to evaluate, not {type(function).__name__}")
