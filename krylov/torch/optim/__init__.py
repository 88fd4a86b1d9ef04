"""Optimizers of second order, and the parts of their steps."""

from krylov.torch.optim.hessian_free import HessianFree

__all__ = ["HessianFree"]
