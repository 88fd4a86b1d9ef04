"""How far to go: CG-backtracking over the iterates of a run, then a line search along the one chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from krylov.checks import integer, number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Armijo", "GridSearch", "LineSearch", "backtrack", "check_line_search"]


def backtrack(steps: Sequence[Tensor], loss_along: Callable[[Tensor], float]) -> tuple[int, float]:
    """From the last iterate back for as long as the loss gets smaller (Martens 2010, section 4.6).

    Parameters
    ----------
    steps : sequence of Tensor
        Iterates in the order of the run; at least one.
    loss_along : callable
        ``loss_along(d)``, the loss after the step d; may be NaN.

    Returns
    -------
    (int, float)
        Position of the one chosen and the loss there.
    """
    best = len(steps) - 1
    lowest = loss_along(steps[best])
    for i in range(best - 1, -1, -1):
        loss = loss_along(steps[i])
        if math.isfinite(lowest) and not loss < lowest:
            break
        best, lowest = i, loss
    return best, lowest


@dataclass(frozen=True)
class Armijo:
    """Shorter and shorter steps until ``L(alpha) <= L(0) + c alpha g.d``.

    Parameters
    ----------
    c : float
        Part of the decrease promised by the slope that must come true.
    factor : float
        From one length to the next.
    trials : int
        Lengths tried at most.
    """

    #: Whether steps that raise the loss are searched too. Armijo's rule leaves these to the damping.
    rescues: ClassVar[bool] = False

    c: float = 1e-2
    factor: float = 0.5
    trials: int = 20

    def __post_init__(self) -> None:
        for name in ("c", "factor"):
            if not 0 < number(getattr(self, name), name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        integer(self.trials, "trials", 1)

    def search(
        self, before: float, slope: float, at_one: float, loss_at: Callable[[float], float]
    ) -> tuple[float, float]:
        """Length and loss; length 0 where no trial is good enough.

        Parameters
        ----------
        before, at_one : float
            Loss at lengths 0 and 1.
        slope : float
            ``g.d``. Where the gradient of another sample says that d leads uphill, any decrease will do.
        loss_at : callable
            ``loss_at(alpha)``.
        """
        alpha, loss = 1.0, at_one
        for trial in range(self.trials):
            if trial:
                alpha *= self.factor
                loss = loss_at(alpha)
            if loss <= before + self.c * alpha * min(slope, 0.0) and loss < before:
                return alpha, loss
        return 0.0, before


@dataclass(frozen=True)
class GridSearch:
    """The best length in a geometric grid around 1, by walking from 1 for as long as the loss gets smaller.

    Shorter lengths first: down to the first that lowers the loss, and on while the next one is better. Where 1 itself
    stays the best, longer ones. A step that raises the loss is searched as well, and is rejected only if every length
    does. With exact steps of little damping, whose direction is good but whose length is not, this is the line search
    of energy natural gradient descent (Müller and Zeinhofer 2023).

    Parameters
    ----------
    factor : float
        From one length to the next shorter one.
    shorter, longer : int
        Lengths tried below and above 1 at most.
    """

    rescues: ClassVar[bool] = True

    factor: float = 0.5
    shorter: int = 15
    longer: int = 0

    def __post_init__(self) -> None:
        if not 0 < number(self.factor, "factor") < 1:
            raise ValueError(f"factor must be in (0, 1), got {self.factor!r}")
        integer(self.shorter, "shorter", 0)
        integer(self.longer, "longer", 0)
        if self.longer * -math.log(self.factor) > math.log(1e100):
            raise ValueError("lengths above 1e100 are of no use: raise factor or lower longer")

    def search(
        self, before: float, slope: float, at_one: float, loss_at: Callable[[float], float]
    ) -> tuple[float, float]:
        """Length and loss; length 0 where no trial lowers the loss. See `Armijo.search`; the slope is not used."""
        best, lowest = (1.0, at_one) if at_one < before else (0.0, before)
        for k in range(1, self.shorter + 1):
            loss = loss_at(self.factor**k)
            if loss < lowest:
                best, lowest = self.factor**k, loss
            elif best:
                break
        if best == 1:
            for k in range(1, self.longer + 1):
                loss = loss_at(self.factor**-k)
                if not loss < lowest:
                    break
                best, lowest = self.factor**-k, loss
        return best, lowest


LineSearch = Armijo | GridSearch


def check_line_search(value: Any) -> None:
    """None or one of them.

    Raises
    ------
    TypeError
        It is something else.
    """
    if value is not None and not isinstance(value, LineSearch):
        raise TypeError(
            f"line_search must be an Armijo or a GridSearch, not {type(value).__name__}"
        )
