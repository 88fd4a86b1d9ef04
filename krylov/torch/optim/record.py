"""What a step did and what it cost."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from krylov.outcome import Outcome

__all__ = ["GRADIENTS", "Ledger", "StepRecord", "samples_read"]

#: Floating-point work in gradients of the same samples, for chains of layers (forward 1, backward 2).
GRADIENTS = {"loss": 1 / 3, "gradient": 1.0, "ggn": 4 / 3, "hessian": 2.0, "probe": 2 / 3}


@dataclass(frozen=True)
class StepRecord:
    """One outer iteration.

    Attributes
    ----------
    step : int
        Its number, from 1.
    accepted : bool
        Whether the parameters were changed.
    loss_before, loss_after : float
        On the evaluation sample, with the penalty of weight decay; NaN where the loss after was of no interest.
    gradient_norm : float
        Euclidean, on the gradient sample.
    damping : float
        That the system was solved with, the last one where there were several.
    rho : float
        Decrease of the loss over that of the quadratic model; NaN where there is none.
    alpha : float
        Step length along the direction.
    curvature : str
        "ggn" or "hessian": the operator of this step.
    outcome : Outcome or None
        Of the linear solve.
    iterations, products, evaluations : int
        Of the solver; products with the curvature; evaluations of the loss.
    candidate : int
        Iteration whose iterate was chosen.
    negative_curvature : bool
        Whether the solver met a direction of negative curvature.
    escapes : int
        Saddles left along negative curvature.
    gradient_samples, curvature_samples, evaluation_samples : int
        Sizes of the samples.
    cost : float
        Floating-point work in gradients of one sample each.
    gradient_equivalents : float
        The same in gradients of the gradient sample.
    collectives, bytes : int
        All-reduces that shards of the data would need (one a gradient, a product, a loss, a diagonal), and their
        payload.
    seconds : dict
        By part: "gradient", "curvature", "precondition", "solve", "evaluate", "total".
    """

    step: int
    accepted: bool
    loss_before: float
    loss_after: float
    gradient_norm: float
    damping: float
    rho: float
    alpha: float
    curvature: str
    outcome: Outcome | None
    iterations: int
    products: int
    evaluations: int
    candidate: int
    negative_curvature: bool
    escapes: int
    gradient_samples: int
    curvature_samples: int
    evaluation_samples: int
    cost: float
    gradient_equivalents: float
    collectives: int
    bytes: int
    seconds: dict[str, float] = field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For a log: plain numbers and words."""
        entries = asdict(self)
        entries["outcome"] = None if self.outcome is None else self.outcome.name
        return entries


def samples_read(record: StepRecord) -> int:
    """Once for each gradient, product and loss."""
    return (
        record.gradient_samples
        + record.products * record.curvature_samples
        + record.evaluations * record.evaluation_samples
    )


class Ledger:
    """Adds up work, communication and time while a step runs."""

    def __init__(self, vector_bytes: int) -> None:
        self._vector_bytes = vector_bytes
        self._began = time.perf_counter()
        self.counts: Counter[str] = Counter()
        self.cost = 0.0
        self.collectives = 0
        self.bytes = 0
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []

    def spend(self, kind: str, samples: int, times: int = 1) -> None:
        """So many evaluations of this kind, each of this many samples."""
        if not times:
            return
        self.counts[kind] += times
        self.cost += GRADIENTS[kind] * samples * times
        self.collectives += times
        self.bytes += times * (8 if kind == "loss" else self._vector_bytes)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time spent within goes to this part, and not to the one around it."""
        began = time.perf_counter()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            spent = time.perf_counter() - began
            self._seconds[name] += spent
            if self._open:
                self._seconds[self._open[-1]] -= spent

    @property
    def products(self) -> int:
        return self.counts["ggn"] + self.counts["hessian"]

    def seconds(self) -> dict[str, float]:
        """By part, and the total since the ledger was opened."""
        return {**self._seconds, "total": time.perf_counter() - self._began}
