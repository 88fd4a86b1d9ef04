"""What is left of a training run when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Ending", "History"]


class Ending(Enum):
    """Why training ended. The value is a sentence."""

    STEPS = "All iterations have been taken."
    TARGET = "The loss aimed at is reached."
    TIME_LIMIT = "The time is used up."
    CALLBACK = "The callback ended the run by raising StopIteration."
    INTERRUPTED = "Interrupted after a complete iteration; resume continues from there."


@dataclass(frozen=True)
class History:
    """The records of all iterations, those before a resumption too.

    Attributes
    ----------
    records : list of dict
        As in the log; the first one, of step 0, is the beginning. Numbers that are not finite are None.
    ending : Ending
        Why training ended.
    best_step : int
        The iteration with the smallest held-out loss (training loss where nothing is held out).
    best_loss : float
        That loss.
    """

    records: list[dict[str, Any]]
    ending: Ending
    best_step: int
    best_loss: float

    def column(self, name: str) -> list[Any]:
        """One entry of all records, ``"loss"`` or ``"optimizer.rho"``; None where there is none."""
        found: list[Any] = []
        for record in self.records:
            value: Any = record
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found.append(value)
        return found
