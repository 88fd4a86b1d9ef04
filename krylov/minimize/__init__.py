"""Minimisation on top of the solvers: `newton_krylov`, a method for `scipy.optimize.minimize`."""

from krylov.minimize.newton_krylov import newton_krylov

__all__ = ["newton_krylov"]
