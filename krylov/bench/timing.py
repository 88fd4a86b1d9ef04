"""Interleaved timing: contestants take turns, the best of each counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

__all__ = ["PAUSE", "Times", "best_call", "interleave", "spans"]

# Enough for the pools of OpenBLAS and OpenMP to fall asleep.
PAUSE = 0.05
# One turn of a contestant: seconds of the same piece of work, once or several times over.
Turn = Callable[[], Sequence[float]]


@dataclass(frozen=True)
class Times:
    """What interleaved turns of several contestants took.

    Attributes
    ----------
    rounds : dict of str to list of float
        The best of each turn, in seconds, by contestant.
    """

    rounds: dict[str, list[float]]

    def best(self, name: str) -> float:
        """Seconds of the best turn."""
        return min(self.rounds[name])

    def ratio(self, above: str, below: str) -> float:
        """Best turn of one contestant over the best of the other."""
        return self.best(above) / self.best(below)

    def median_ratio(self, above: str, below: str) -> float:
        """Median over the rounds of the ratio within a round."""
        pairs = zip(self.rounds[above], self.rounds[below], strict=True)
        return median(a / b for a, b in pairs)


def interleave(
    contestants: Mapping[str, Turn],
    rounds: int,
    *,
    patience: int = 4,
    pause: float = 0.0,
    warm_up: bool = True,
) -> Times:
    """Let the contestants take turns, until the best turn of each is no accident.

    Parameters
    ----------
    contestants : mapping of str to callable
        A turn each; it returns the seconds of one or several equal pieces of work.
    rounds : int
        How many turns each takes at least.
    patience : int
        On a busy machine they go on, up to so many times as many turns, until everybody's third best turn is within 4 %
        of the best.
    pause : float
        Seconds before each turn: threads of another package's pool go on spinning for a while after its turn.
    warm_up : bool
        Whether a first round is thrown away.
    """
    if warm_up:
        for turn in contestants.values():
            turn()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for done in range(patience * rounds):
        if done >= rounds and (done < 3 or all(map(_settled, taken.values()))):
            break
        for name, turn in contestants.items():
            sleep(pause)
            taken[name].append(min(turn()))
    return Times(taken)


def _settled(seconds: list[float]) -> bool:
    best, _, third = sorted(seconds)[:3]
    return third <= 1.04 * best


def spans(stamps: Sequence[float], size: int, skip: int = 0) -> list[float]:
    """Seconds per step over windows of `size` steps, from the times at which steps began, without the first `skip`."""
    kept = stamps[skip:]
    ends = range(size, len(kept), size)
    return [(kept[k] - kept[k - size]) / size for k in ends]


def best_call(function: Callable[[], object], repeat: int = 200, tries: int = 5) -> float:
    """Seconds of one call of something short."""
    best = float("inf")
    for _ in range(tries):
        begin = perf_counter()
        for _ in range(repeat):
            function()
        best = min(best, perf_counter() - begin)
    return best / repeat
