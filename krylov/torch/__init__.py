"""Second-order training for PyTorch: curvature operators, differentiable solves, optimizers."""

from __future__ import annotations

from krylov.torch.curvature import GaussNewtonOperator, HessianOperator
from krylov.torch.damping import LevenbergMarquardt
from krylov.torch.flatten import Parameters
from krylov.torch.hessian_free import HessianFree
from krylov.torch.implicit import solve
from krylov.torch.linesearch import Armijo
from krylov.torch.record import StepRecord

__all__ = [
    "Armijo",
    "GaussNewtonOperator",
    "HessianFree",
    "HessianOperator",
    "LevenbergMarquardt",
    "Parameters",
    "StepRecord",
    "solve",
]
