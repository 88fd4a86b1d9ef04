"""A linear solve that autograd differentiates, by the adjoint system."""

from krylov.torch.implicit.differentiable import solve

__all__ = ["solve"]
