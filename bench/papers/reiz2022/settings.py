"""What each optimizer is tried with on the tuning seed, scenario by scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import krylov.torch as kt
from reiz2022.contestants import (
    Contestant,
    Setting,
    adam,
    hessian_free,
    lbfgs,
    neumann,
    newton_cg,
    sgd,
)

#: Which of the contestants are ours.
OURS = ("HessianFree", "NewtonCG", "Neumann")
#: More samples than any scenario has.
_ALL = 1_000_000


@dataclass(frozen=True)
class Entry:
    """A contestant and its grid."""

    contestant: Contestant
    settings: Mapping[str, Setting]


def _rates(values: Sequence[float], batches: Sequence[int], **more: Any) -> dict[str, Setting]:
    """Every rate with every batch."""
    return {
        f"rate {rate:g}, batch {_batch(batch)}": {"lr": rate, "batch": batch, **more}
        for rate, batch in product(values, batches)
    }


def _batch(size: int) -> str:
    return "all" if size == _ALL else str(size)


def _marquardt(initial: float, factor: float = 2.0) -> kt.LevenbergMarquardt:
    return kt.LevenbergMarquardt(initial, increase=factor, decrease=1 / factor)


def _lbfgs(*batches: int, histories: Sequence[int] = (20, 100)) -> Entry:
    return Entry(
        lbfgs,
        {
            f"batch {_batch(batch)}, history {history}": {"batch": batch, "history": history}
            for batch, history in product(batches, histories)
        },
    )


def _regression() -> dict[str, Entry]:
    kronecker = {"preconditioner": "kronecker", "warm_start": 0.0}
    return {
        "SGD": Entry(sgd, _rates((0.03, 0.1, 0.3), (128, 512))),
        "Adam": Entry(adam, _rates((0.01, 0.03, 0.1, 0.3), (128, 512))),
        "torch LBFGS": _lbfgs(_ALL),
        "HessianFree": Entry(
            hessian_free,
            {
                "10 iterations": {"damping": 0.01},
                "30 iterations": {"damping": 0.01, "stop": 30},
                "10 iterations, Kronecker": {
                    "damping": _marquardt(1e-3, 3),
                    "stop": 10,
                    **kronecker,
                },
                "20 iterations, Kronecker": {"damping": 0.01, "stop": 20, **kronecker},
            },
        ),
        "NewtonCG": Entry(
            newton_cg,
            {
                "paper: Hessian, rate 1, damping 0.1, batch 512": {
                    "damping": 0.1,
                    "batch": 512,
                },
                "Gauss-Newton, Armijo, adaptive damping, 30 iterations": {
                    "curvature": "ggn",
                    "damping": _marquardt(0.01),
                    "line_search": kt.Armijo(),
                    "maxiter": 30,
                    "tol": 0.01,
                },
                "the same, Kronecker": {
                    "curvature": "ggn",
                    "damping": _marquardt(0.01),
                    "line_search": kt.Armijo(),
                    "maxiter": 20,
                    "tol": 0.01,
                    "preconditioner": "kronecker",
                    "solver": "flexible_cg",
                },
            },
        ),
        "Neumann": Entry(neumann, _rates((0.03, 0.1, 0.3), (128, 512))),
    }


def _bayesian() -> dict[str, Entry]:
    return {
        "SGD": Entry(sgd, _rates((0.003, 0.01, 0.03), (100, 500))),
        "Adam": Entry(adam, _rates((3e-3, 0.01, 0.03), (100, 500))),
        "torch LBFGS": _lbfgs(_ALL, 2000, histories=(20,)),
        "HessianFree": Entry(
            hessian_free,
            {
                "growing batch, 6 iterations": {
                    "damping": _marquardt(0.03),
                    "batch": 250,
                    "growth": 1.03,
                    "stop": 6,
                },
                "batch 500, 10 iterations, Jacobi": {
                    "damping": 0.01,
                    "batch": 500,
                    "preconditioner": "jacobi",
                    "warm_start": 0.0,
                },
            },
        ),
        "NewtonCG": Entry(
            newton_cg,
            {
                "Gauss-Newton, falling rate, batch 500": {
                    "curvature": "ggn",
                    "lr": 0.3,
                    "damping": 0.01,
                    "maxiter": 3,
                    "tol": 0.01,
                    "warm_start": 0.95,
                    "batch": 500,
                    "falling": True,
                },
                "paper: Hessian, rate 0.1, batch 500": {"lr": 0.1, "damping": 0.1, "batch": 500},
            },
        ),
        "Neumann": Entry(
            neumann,
            {
                **_rates((0.01, 0.03), (100,)),
                "rate 0.06, batch 100, no repulsion, momentum to 0.97": {
                    "lr": 0.06,
                    "batch": 100,
                    "beta": 0.0,
                    "momentum": (0.5, 0.97),
                },
            },
        ),
    }


def _autoencoder() -> dict[str, Entry]:
    return {
        "SGD": Entry(sgd, _rates((1e-3, 3e-3, 6e-3), (128,))),
        "Adam": Entry(adam, _rates((3e-3, 0.01, 0.03), (128,))),
        "torch LBFGS": _lbfgs(_ALL, 2000, histories=(20,)),
        "HessianFree": Entry(
            hessian_free,
            {
                "batch 500, 10 iterations": {"damping": 1.0, "batch": 500},
                "growing batch, 10 iterations": {"damping": 1.0, "batch": 500, "growth": 1.05},
                "growing batch, 3 iterations, Kronecker": {
                    "damping": _marquardt(1.0, 1.5),
                    "batch": 250,
                    "growth": 1.02,
                    "stop": 3,
                    "preconditioner": "kronecker",
                    "warm_start": 0.0,
                },
            },
        ),
        "NewtonCG": Entry(
            newton_cg,
            {
                "paper: Hessian, rate 0.1, batch 500": {"lr": 0.1, "damping": 10.0, "batch": 500},
                "Gauss-Newton, growing batch": {
                    "curvature": "ggn",
                    "damping": _marquardt(1.0),
                    "batch": 500,
                    "growth": 1.05,
                },
            },
        ),
        "Neumann": Entry(neumann, _rates((1e-3, 3e-3, 6e-3), (128,))),
    }


def _residual() -> dict[str, Entry]:
    return {
        "SGD": Entry(sgd, _rates((0.03, 0.1, 0.3), (64,))),
        "Adam": Entry(adam, _rates((1e-3, 3e-3, 0.01), (64,))),
        "torch LBFGS": _lbfgs(500, histories=(20,)),
        "HessianFree": Entry(
            hessian_free,
            {
                "batch 250, half of it for the curvature, 3 iterations": {
                    "damping": 0.1,
                    "batch": 250,
                    "part": 2,
                    "stop": 3,
                },
            },
        ),
        "NewtonCG": Entry(
            newton_cg,
            {
                "paper: Hessian, rate 0.1, batch 125": {
                    "lr": 0.1,
                    "damping": 0.1,
                    "batch": 125,
                    "maxiter": 3,
                },
                "Gauss-Newton, rate 0.3, batch 125": {
                    "curvature": "ggn",
                    "lr": 0.3,
                    "damping": 0.1,
                    "batch": 125,
                    "maxiter": 3,
                },
            },
        ),
        "Neumann": Entry(neumann, _rates((0.03, 0.1, 0.3), (64,))),
    }


GRIDS: dict[str, dict[str, Entry]] = {
    "reg-lif": _regression(),
    "reg-bos": _regression(),
    "vae-mnist": _autoencoder(),
    "bnn-mnist": _bayesian(),
    "resnet": _residual(),
}
