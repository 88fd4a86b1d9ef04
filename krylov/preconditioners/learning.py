"""How a preconditioner learns from the runs that it takes part in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Learner", "lesson"]


@runtime_checkable
class Learner(Protocol):
    """A preconditioner that `cg` and `flexible_cg` feed with the pairs of their own run while `harvest` is true.

    Any object with these four attributes learns, not only the classes of this package.
    """

    harvest: bool

    def begin_run(self, fixed: bool) -> None:
        """A run begins; `fixed`: its method assumes that M stays as it is until the end (`cg`)."""

    def learn(self, p: NDArray[Any], Ap: NDArray[Any]) -> None:
        """A direction of the run and its product, both overwritten later."""

    def end_run(self, complete: bool) -> None:
        """The run has ended, complete or by an exception."""


@contextmanager
def lesson(M: Any, method: str) -> Iterator[Callable[[Any, Any], None] | None]:
    """A run of this method, to whose pairs M listens if it is a learner that harvests; gives its `learn`, or None."""
    learns = method in ("cg", "flexible_cg") and getattr(M, "harvest", False)
    if not (learns and isinstance(M, Learner)):
        yield None
        return
    M.begin_run(fixed=method == "cg")
    complete = False
    try:
        yield M.learn
        complete = True
    finally:
        M.end_run(complete)
