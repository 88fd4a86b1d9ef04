"""Options of `fit`, checked once, before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from krylov.checks import choice, finite_number, integer, number
from krylov.torch.schedules import Schedule
from krylov.torch.spectrum import SpectrumTracker
from krylov.torch.training.measure import Metric

__all__ = ["FitOptions"]


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit`, which says what they mean.

    Raises
    ------
    TypeError, ValueError
        One of them makes no sense.
    """

    steps: int = 100
    batch: int | None = None
    gradient_schedule: Schedule | None = None
    curvature_schedule: Schedule | None = None
    gradient_samples: str = "nested"
    curvature_samples: str = "fresh"
    evaluation: str = "gradient"
    metric: Metric | None = None
    seed: int = 0
    keep: str = "best"
    log: Path | None = None
    tensorboard: Path | None = None
    checkpoint: Path | None = None
    checkpoint_every: int = 1
    resume: bool = False
    time_limit: float | None = None
    target_loss: float | None = None
    target_held_out: float | None = None
    callback: Callable[[Mapping[str, Any]], object] | None = None
    spectrum: SpectrumTracker | None = None
    scheduler: Any = None  #: checked by `Rates`, with the optimizer
    progress: bool = True

    @classmethod
    def of(cls, given: dict[str, Any]) -> FitOptions:
        """Options by keyword; folders and files may be strings."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise TypeError(f"fit has no option {unknown[0]!r}; there are {', '.join(names)}")
        paths = {
            name: Path(given[name])
            for name in ("log", "tensorboard", "checkpoint")
            if given.get(name) is not None
        }
        return cls(**{**given, **paths})

    def __post_init__(self) -> None:
        integer(self.steps, "steps", 0)
        integer(self.checkpoint_every, "checkpoint_every", 1)
        integer(self.seed, "seed", 0)
        if self.batch is not None:
            integer(self.batch, "batch", 1)
        for name in ("gradient_samples", "curvature_samples"):
            choice(getattr(self, name), name, ("nested", "fresh"))
        choice(self.evaluation, "evaluation", ("gradient", "held_out"))
        choice(self.keep, "keep", ("best", "last"))
        for name in ("target_loss", "target_held_out"):
            if getattr(self, name) is not None:
                finite_number(getattr(self, name), name)
        if self.time_limit is not None and not 0 < number(self.time_limit, "time_limit") < math.inf:
            raise ValueError(f"time_limit must be positive and finite, got {self.time_limit!r}")
        for name in ("callback", "metric"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        if self.spectrum is not None and not isinstance(self.spectrum, SpectrumTracker):
            raise TypeError(
                f"spectrum must be a SpectrumTracker, got {type(self.spectrum).__name__}"
            )
        if self.resume and self.checkpoint is None:
            raise ValueError("resume needs checkpoint, the file to go on from")
        for name in ("log", "checkpoint"):
            path = getattr(self, name)
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"{name}: the folder {path.parent} does not exist; make it first")
