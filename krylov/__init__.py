"""Solve ``A x = b`` when all you have is the product ``A v``."""

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
    "neumann",
    "stopping",
]
