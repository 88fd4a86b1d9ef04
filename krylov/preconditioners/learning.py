"""How a preconditioner learns from the runs that it takes part in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Learner", "learner_of"]


@runtime_checkable
class Learner(Protocol):
    """A preconditioner that `cg` and `flexible_cg` feed with the pairs of their own run while `harvest` is true.

    Any object with these four attributes learns, not only the classes of this package.
    """

    harvest: bool

    def begin_run(self, multiply: Callable[[NDArray[Any]], NDArray[Any]]) -> int:
        """A run begins; `multiply` is its operator. Returns how many products were made with it."""

    def learn(self, p: NDArray[Any], Ap: NDArray[Any]) -> None:
        """A direction of the run and its product, both overwritten later."""

    def end_run(self, niter: int | None) -> None:
        """The run has ended after so many iterations; None: by an exception."""


def learner_of(M: Any, method: str) -> Learner | None:
    """M where it is to learn from a run of this method.

    Raises
    ------
    ValueError
        M would change within a run of a method that assumes that it does not.
    """
    if method not in ("cg", "flexible_cg") or not getattr(M, "harvest", False):
        return None
    if not isinstance(M, Learner):
        return None
    if method == "cg" and getattr(M, "refresh", False):
        raise ValueError(
            "M.refresh changes M within the run, and cg needs a fixed one: use flexible_cg, or refresh=False"
        )
    return M
