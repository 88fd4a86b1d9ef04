"""Solve ``A x = b`` when all you have is the product ``A v``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from krylov import stopping
from krylov._core import __version__
from krylov.config import build_config
from krylov.outcome import Outcome, SolveResult
from krylov.preconditioners import (
    JacobiPreconditioner,
    LBFGSPreconditioner,
    NystromPreconditioner,
    RitzPreconditioner,
)
from krylov.solve import bicgstab, cg, flexible_cg, neumann
from krylov.spectrum import Extremes, LanczosResult, extremal_eigenvalues, lanczos
from krylov.workspace import Workspace

if TYPE_CHECKING:
    from krylov import minimize

__all__ = [
    "Extremes",
    "JacobiPreconditioner",
    "LBFGSPreconditioner",
    "LanczosResult",
    "NystromPreconditioner",
    "Outcome",
    "RitzPreconditioner",
    "SolveResult",
    "Workspace",
    "__version__",
    "bicgstab",
    "build_config",
    "cg",
    "extremal_eigenvalues",
    "flexible_cg",
    "lanczos",
    "minimize",
    "neumann",
    "stopping",
]


def __getattr__(name: str) -> Any:
    # scipy.optimize takes longer to import than all the rest: only for those who minimise.
    if name == "minimize":
        import krylov.minimize as module

        return module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
