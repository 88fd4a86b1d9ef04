"""Data by name: digits (embedded), MNIST's idx files, tables; split into training, held-out and test samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from krylov.checks import choice, finite_number, integer
from krylov.torch.training.idx import find_idx, read_idx
from krylov.torch.training.samples import Samples
from krylov.torch.training.table import Table, read_table

__all__ = ["DATA", "Data", "load_data"]

DATA = ("digits", "mnist", "csv")


@dataclass(frozen=True)
class Data:
    """What to train on, what to choose the best parameters by, and what to judge them by at the end."""

    name: str
    train: Samples
    held_out: Samples | None
    test: Samples | None
    classes: int | None  #: None for regression and for reconstruction
    groups: Tensor | None = None  #: of each training sample; see `Sampler`

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """Outputs that a model needs."""
        if self.classes is not None:
            return self.classes
        return int(self.train.targets[0].numel())

    def reconstruction(self) -> Data:
        """The same inputs, flat, each its own target: for autoencoders."""

        def own(samples: Samples | None) -> Samples | None:
            return None if samples is None else Samples(*2 * (samples.inputs.flatten(1),))

        train = self.train.inputs.flatten(1)
        return replace(
            self,
            train=Samples(train, train),
            held_out=own(self.held_out),
            test=own(self.test),
            classes=None,
        )

    def to(self, dtype: torch.dtype) -> Data:
        """Numbers in another precision; labels stay what they are."""

        def converted(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        def both(samples: Samples | None) -> Samples | None:
            if samples is None:
                return None
            inputs = converted(samples.inputs)
            same = samples.targets is samples.inputs
            return Samples(inputs, inputs if same else converted(samples.targets))

        train = both(self.train)
        assert train is not None
        return replace(self, train=train, held_out=both(self.held_out), test=both(self.test))


def load_data(
    name: str,
    path: str | Path | None = None,
    *,
    held_out: float = 0.1,
    test: float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    target: str | None = None,
    drop: Sequence[str] = (),
    task: str = "auto",
) -> Data:
    """Load a data set by its name.

    Parameters
    ----------
    name : str
        ``"digits"``: 1797 images of 8 x 8 that come with scikit-learn; ``"mnist"``: four idx files, gzipped or not,
        in a folder; ``"csv"``: a .csv or .csv.gz file, or a folder with ``train.csv`` and, if there is one,
        ``test.csv``.
    path : str or Path, optional
        The folder or file; not for digits.
    held_out, test : float
        Shares of the samples that are not trained on. A test set of its own (MNIST's, test.csv) takes the place of
        the second one. Zero: none.
    train_size : int, optional
        Train on so many samples only.
    seed : int
        Decides which sample is for what.
    target, drop, task : optional
        For tables: the column to predict (default: the last), columns to leave out, and ``"classification"``,
        ``"regression"`` or ``"auto"`` (regression if all targets are numbers and one of them is not whole).
        Features and a regression target are shifted and scaled to mean 0 and variance 1 of the training samples.

    Raises
    ------
    ValueError
        A file is missing or damaged, or holds something else; the message names file, row and cure.
    ImportError
        Digits without scikit-learn.
    """
    choice(name, "name", DATA)
    choice(task, "task", ("auto", "classification", "regression"))
    for share, word in ((held_out, "held_out"), (test, "test")):
        if not 0 <= finite_number(share, word) < 1:
            raise ValueError(
                f"{word} must be a share of the samples, at least 0 and below 1, got {share!r}"
            )
    if train_size is not None:
        integer(train_size, "train_size", 1)
    samples: Samples
    separate: Samples | None
    classes: int | None
    if name == "digits":
        samples, separate, classes = _digits(), None, 10
    elif path is None:
        raise ValueError(f"data {name!r} needs a path, the folder or file that holds it")
    elif name == "mnist":
        samples, separate, classes = _mnist(Path(path), "train"), _mnist(Path(path), "t10k"), 10
    else:
        samples, separate, classes = _csv(Path(path), target, drop, task)
    train, kept, judged = _split(samples, held_out, 0 if separate else test, train_size, seed)
    parts = [train, kept, separate or judged]
    if name == "csv":
        parts = _standardised(parts, targets=classes is None)
    return Data(name, parts[0], parts[1], parts[2], classes)  # type: ignore[arg-type]


def _digits() -> Samples:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("digits come with scikit-learn: pip install scikit-learn") from None
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16).to(torch.float32).reshape(-1, 1, 8, 8)
    return Samples(pixels, torch.from_numpy(labels).to(torch.int64))


def _mnist(folder: Path, part: str) -> Samples:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the one that holds MNIST's four idx files"
        )
    images_path = find_idx(folder, f"{part}-images-idx3-ubyte")
    labels_path = find_idx(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}; "
            "fetch both again"
        )
    pixels = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return Samples(pixels, torch.from_numpy(labels.astype(np.int64)))


def _csv(
    path: Path, target: str | None, drop: Sequence[str], task: str
) -> tuple[Samples, Samples | None, int | None]:
    paths = [path]
    if path.is_dir():
        paths = [found for part in ("train", "test") if (found := _in_folder(path, part))]
        if not paths or not paths[0].name.startswith("train"):
            raise ValueError(f"{path}: no train.csv or train.csv.gz there; or give the file itself")
    tables = [read_table(each, target, drop) for each in paths]
    if any(table.names != tables[0].names for table in tables):
        raise ValueError(f"{tables[1].path}: other columns than {tables[0].path.name}")
    classes = _classes(tables[0], task)
    both = [
        Samples(torch.from_numpy(table.features).to(torch.float32), _targets(table, classes))
        for table in tables
    ]
    count = None if classes is None else len(classes)
    return both[0], both[1] if len(both) > 1 else None, count


def _in_folder(folder: Path, part: str) -> Path | None:
    candidates = (folder / f"{part}.csv", folder / f"{part}.csv.gz")
    return next((path for path in candidates if path.is_file()), None)


def _classes(table: Table, task: str) -> list[str] | None:
    """The names of the classes in order, or None where the target is a number to predict."""
    try:
        values = [float(label) for label in table.target]
    except ValueError:
        values = []
    if task == "regression" or (
        task == "auto" and values and not all(value.is_integer() for value in values)
    ):
        return None
    return sorted(set(table.target), key=float if values else None)


def _targets(table: Table, classes: list[str] | None) -> Tensor:
    name = table.target_name
    if classes is None:
        values = np.empty(len(table.target))
        for i, (row, label) in enumerate(zip(table.rows, table.target, strict=True)):
            try:
                values[i] = float(label)
            except ValueError:
                values[i] = np.nan
            if not np.isfinite(values[i]):
                raise ValueError(
                    f"{table.path}: row {row}, column {name!r}: {label!r} is no target for a regression; "
                    "leave this row out or choose classification"
                )
        return torch.from_numpy(values).to(torch.float32)[:, None]
    numbers = {label: k for k, label in enumerate(classes)}
    for row, label in zip(table.rows, table.target, strict=True):
        if label not in numbers:
            raise ValueError(
                f"{table.path}: row {row}, column {name!r}: {label!r} is none of the {len(classes)} classes of the "
                "training file"
            )
    return torch.tensor([numbers[label] for label in table.target])


def _split(
    samples: Samples, held_out: float, test: float, train_size: int | None, seed: int
) -> tuple[Samples, Samples | None, Samples | None]:
    count = len(samples)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    first, second = round(test * count), round(held_out * count)
    left = count - first - second
    if left < 1 or (train_size or 0) > left:
        raise ValueError(
            f"{count} samples leave {max(left, 0)} to train on, with {second} held out and {first} for the test"
            + (f"; train_size asks for {train_size}" if train_size else "")
        )
    judged = samples[order[:first]] if first else None
    kept = samples[order[first : first + second]] if second else None
    rest = order[first + second :][:train_size]
    return samples[rest], kept, judged


def _standardised(parts: Sequence[Samples | None], *, targets: bool) -> list[Samples | None]:
    train = parts[0]
    assert train is not None

    def scaled(tensor: Tensor, like: Tensor) -> Tensor:
        spread = like.std(0, correction=0)
        return (tensor - like.mean(0)) / torch.where(spread > 0, spread, 1)

    return [
        part
        if part is None
        else Samples(
            scaled(part.inputs, train.inputs),
            scaled(part.targets, train.targets) if targets else part.targets,
        )
        for part in parts
    ]
