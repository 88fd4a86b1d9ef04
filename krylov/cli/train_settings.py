"""What ``krylov train`` is told: kept in the folder of the run, so that resuming needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from krylov.cli.errors import InputError
from krylov.cli.runs import CONFIG

__all__ = ["CHANGEABLE", "Settings", "read_settings", "write_settings"]

#: What may be another when a run is resumed: only when it ends.
CHANGEABLE = frozenset({"steps", "time_limit", "target_loss", "target_held_out"})


@dataclass(frozen=True)
class Settings:
    """One field an option of the command."""

    data: str
    path: str | None
    target: str | None
    drop: tuple[str, ...]
    task: str
    train_size: int | None
    held_out: float
    test: float
    model: str
    sizes: tuple[int, ...]
    activation: str
    init: str
    loss: str
    dtype: str
    optimizer: str
    lr: float | None
    momentum: float
    weight_decay: float
    warmup: int
    reset: int
    curvature: str
    solver: str
    precond: str
    precond_size: int | None
    damping: float | None
    damping_rule: str
    line_search: str
    tol: float
    inner: int | None
    batch: int | None
    gradient_samples: str
    curvature_samples: str
    sampling: str
    evaluation: str
    seed: int
    steps: int
    time_limit: float | None
    target_loss: float | None
    target_held_out: float | None
    spectrum: int | None
    tensorboard: bool


def write_settings(folder: Path, settings: Settings) -> None:
    """Write them down."""
    text = json.dumps(asdict(settings), indent=2) + "\n"
    try:
        (folder / CONFIG).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder / CONFIG}: cannot be written ({error.strerror})") from None


def read_settings(folder: Path, given: Mapping[str, Any]) -> Settings:
    """Settings of a run that is to be resumed, with those of the given ones that may change.

    Raises
    ------
    InputError
        There is no run, or an option that was given would make another run of it.
    """
    path = folder / CONFIG
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no run there to resume; leave out --resume to begin one"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        kept = None
    names = [field.name for field in fields(Settings)]
    if not isinstance(kept, dict) or sorted(kept) != sorted(names):
        raise InputError(f"{path}: not the settings of a run of this version; begin a new run")
    kept = {
        name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
    }
    for name, value in given.items():
        if name not in CHANGEABLE and value != kept[name]:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{folder}: was begun with another {option}, {_words(kept[name])} instead of {_words(value)}; leave it "
                "out to resume, or begin a new run"
            )
    return Settings(**{**kept, **given})


def _words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
