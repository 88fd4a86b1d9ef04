"""Which of the pairs that a run offers are kept, though nobody knows how many there will be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from krylov.preconditioners.state import Saved

__all__ = ["SELECTIONS", "Selection"]

SELECTIONS = ("uniform", "last", "first")


class Selection:
    """Keeps at most m of a stream.

    "uniform" keeps every stride-th; when there is no room, every other one of those kept goes and the stride doubles
    (Sainath et al. 2013, section 3.3, for a stream of unknown length).
    """

    def __init__(self, kind: str, m: int) -> None:
        self.kind, self.m = kind, m
        self.restart()

    def restart(self) -> None:
        """A new stream."""
        self.seen, self.stride = 0, 1

    def state(self) -> dict[str, Any]:
        """Where it is in its stream."""
        return {"seen": self.seen, "stride": self.stride}

    def restore(self, saved: Saved) -> None:
        """Go on from there."""
        self.seen, self.stride = saved.integer("seen", 0), saved.integer("stride", 1)

    def offer(self, kept: int) -> list[int] | None:
        """Positions, oldest first, of the `kept` ones that must go so that the next can be kept; None: it is not."""
        index, self.seen = self.seen, self.seen + 1
        if self.kind == "last":
            return [] if kept < self.m else [0]
        if self.kind == "first":
            return [] if kept < self.m else None
        if index % self.stride:
            return None
        if kept < self.m:
            return []
        # Those kept are the multiples of the stride; the first multiple of twice the stride finds them too many.
        if index % (2 * self.stride) or self.m == 1:
            return None
        self.stride *= 2
        return list(range(1, kept, 2))
