"""Second-order training for PyTorch: curvature operators, differentiable solves, optimizers, a training driver."""

from __future__ import annotations

from krylov.torch.curvature import GaussNewtonOperator, HessianOperator
from krylov.torch.diagonals import EmpiricalFisherDiagonal, GaussNewtonDiagonal
from krylov.torch.flatten import Parameters
from krylov.torch.implicit import solve
from krylov.torch.optim.damping import LevenbergMarquardt
from krylov.torch.optim.hessian_free import HessianFree
from krylov.torch.optim.linesearch import Armijo, GridSearch
from krylov.torch.optim.neumann import Neumann, NeumannStep
from krylov.torch.optim.neumann_series import (
    NeumannRate,
    NeumannSeries,
    NeumannSeriesStep,
    neumann_rate,
)
from krylov.torch.optim.newton_cg import NewtonCG
from krylov.torch.optim.record import StepRecord
from krylov.torch.sampling import Sampler
from krylov.torch.schedules import (
    FixedSize,
    GeometricSchedule,
    GeometricThenVariance,
    GradientStatistics,
    VarianceSchedule,
)
from krylov.torch.spectrum import SpectrumRecord, SpectrumTracker
from krylov.torch.training import (
    CheckpointError,
    Data,
    Ending,
    History,
    NonFiniteLoss,
    autoencoder,
    cnn,
    fit,
    load_data,
    mlp,
)

__all__ = [
    "Armijo",
    "CheckpointError",
    "Data",
    "EmpiricalFisherDiagonal",
    "Ending",
    "FixedSize",
    "GaussNewtonDiagonal",
    "GaussNewtonOperator",
    "GeometricSchedule",
    "GeometricThenVariance",
    "GradientStatistics",
    "GridSearch",
    "HessianFree",
    "HessianOperator",
    "History",
    "LevenbergMarquardt",
    "Neumann",
    "NeumannRate",
    "NeumannSeries",
    "NeumannSeriesStep",
    "NeumannStep",
    "NewtonCG",
    "NonFiniteLoss",
    "Parameters",
    "Sampler",
    "SpectrumRecord",
    "SpectrumTracker",
    "StepRecord",
    "VarianceSchedule",
    "autoencoder",
    "cnn",
    "fit",
    "load_data",
    "mlp",
    "neumann_rate",
    "solve",
]
