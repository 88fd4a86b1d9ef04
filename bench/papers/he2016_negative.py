"""What negative curvature offers beside a step: the lowest Ritz vector of the Hessian, followed as far as it helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import krylov.torch as kt
from krylov.ritz_probe import lowest_ritz

__all__ = ["Negative", "Watch"]

Batches = Sequence[tuple[Tensor, Tensor]]
Closure = Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]
#: ``watch(model, closure, curvature sample, evaluation sample)`` gives what is to be called after the step.
Watch = Callable[[torch.nn.Module, Closure, Batches, Batches], Callable[[], Any]]

#: Lanczos steps from a random vector: the lowest Ritz value then has two digits or more.
_STEPS = 30
_LENGTHS = (0.1, 0.3, 1.0, 2.0, 4.0)


class Negative:
    """A `Watch` that writes down a row for each outer iteration."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __call__(
        self, model: torch.nn.Module, closure: Closure, curvature: Batches, evaluation: Batches
    ) -> Callable[[], None]:
        parameters = list(model.parameters())
        hessian = kt.HessianOperator(
            lambda batch: closure(batch)[0], parameters, data=list(curvature)
        )
        n = hessian.shape[0]
        start = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        lowest = lowest_ritz(hessian.to_scipy(), start, _STEPS)
        assert lowest is not None
        v = torch.from_numpy(lowest.vector.astype(np.float32))
        gradient = hessian.gradient
        cosine = abs(float(v @ gradient / gradient.norm()))
        before = _loss(closure, evaluation)

        def stepped() -> None:
            point = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
            after = _loss(closure, evaluation)
            trials = [after]
            for length in (sign * x for x in _LENGTHS for sign in (1, -1)):
                torch.nn.utils.vector_to_parameters(point + length * v, parameters)
                trials.append(_loss(closure, evaluation))
            torch.nn.utils.vector_to_parameters(point, parameters)
            self.rows.append(
                {
                    "lowest": lowest.value,
                    "largest": lowest.scale,
                    "cosine": cosine,
                    "step": before - after,
                    "direction": after - min(trials),
                }
            )

        return stepped


@torch.no_grad()
def _loss(closure: Closure, batches: Batches) -> float:
    total = sum(float(closure(batch)[0]) * len(batch[0]) for batch in batches)
    return total / sum(len(batch[0]) for batch in batches)
