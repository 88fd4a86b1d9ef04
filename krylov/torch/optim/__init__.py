"""Optimizers of second order, and the parts of their steps."""

from krylov.torch.optim.hessian_free import HessianFree
from krylov.torch.optim.newton_cg import NewtonCG

__all__ = ["HessianFree", "NewtonCG"]
