"""Judges iterates on behalf of the caller: callback, stopping rule, candidates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from krylov.outcome import Candidate, Outcome
from krylov.stopping import Trace

if TYPE_CHECKING:
    from krylov import _core
    from krylov.options import Options
    from krylov.problem import Problem

__all__ = ["Judge"]

# Growth of the grid of candidates (Martens 2010, section 4.6).
_GRID = 1.3


class Judge:
    """Called by the drive loop after an iteration; ends the run when the rule or the callback says so."""

    def __init__(self, run: _core.Run, problem: Problem, options: Options, maxiter: int) -> None:
        self.outcome: Outcome | None = None
        self._run = run
        self._x = problem.x
        self._exchange = problem.exchange
        self._callback = options.callback
        self._seen = self._exchange.outward(self._x) if options.callback else None
        self._rule = options.stop
        self._trace = Trace(run)
        self._signed = options.track
        self._wanted = _wanted(options.candidates, maxiter)
        self._candidates: list[Candidate] = []

    def __call__(self) -> None:
        iteration = self._run.iterations
        if self._wanted is not None and iteration in self._wanted:
            self._keep(iteration)
        if self._callback is not None:
            try:
                self._callback(self._seen)
            except StopIteration:
                self._end(Outcome.STOPPED_BY_CALLBACK)
                return
        if self._rule is not None and (verdict := self._rule(self._trace)):
            if verdict in (Outcome.CONVERGED, Outcome.CONVERGED_INDEFINITE):
                raise ValueError(
                    f"stop returned {verdict}, which only the solver can find out: return True, or raise rtol"
                )
            self._end(verdict if isinstance(verdict, Outcome) else Outcome.STOPPED_BY_RULE)

    def finish(self, niter: int) -> list[Candidate]:
        """The candidates, with the final iterate as the last."""
        kept = self._candidates and self._candidates[-1][0] == niter
        if self._wanted is not None and niter > 0 and not kept:
            self._keep(niter)
        return self._candidates

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._run.stop()

    def _keep(self, iteration: int) -> None:
        x, curvature, value = (
            self._x.copy(),
            self._run.curvature(),
            self._run.quadratic_value_at(iteration),
        )
        if self._signed and (signs := self._run.signs).size and signs[-1] < 0:
            x = -x
        self._candidates.append((iteration, self._exchange.outward(x), value, curvature))


def _wanted(candidates: Any, maxiter: int) -> range | frozenset[int] | None:
    if candidates == "all":
        return range(1, maxiter + 1)
    if candidates == "geometric":
        grid, value = {1}, 1.0
        while value < maxiter:
            value *= _GRID
            grid.add(math.ceil(value))
        return frozenset(grid)
    wanted: frozenset[int] | None = candidates
    return wanted
