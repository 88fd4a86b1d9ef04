"""Preconditioners. Each is a SciPy LinearOperator that SciPy's own solvers accept as `M`."""

from krylov.preconditioners.jacobi import JacobiPreconditioner
from krylov.preconditioners.lbfgs import LBFGSPreconditioner
from krylov.preconditioners.nystrom import NystromPreconditioner
from krylov.preconditioners.ritz import RitzPreconditioner

__all__ = [
    "JacobiPreconditioner",
    "LBFGSPreconditioner",
    "NystromPreconditioner",
    "RitzPreconditioner",
]
