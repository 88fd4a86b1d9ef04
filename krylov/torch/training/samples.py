"""Inputs and targets that belong together, and what must hold for them before training begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from krylov.torch.training.collate import collate
from krylov.torch.training.modes import evaluation_mode

__all__ = ["Batch", "Samples", "as_samples", "check_finite", "check_targets"]

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Samples:
    """As many inputs as targets, one a row."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim == 0 or self.targets.ndim == 0 or len(self.inputs) != len(self.targets):
            raise ValueError(
                "inputs and targets must have as many rows, got shapes "
                f"{tuple(self.inputs.shape)} and {tuple(self.targets.shape)}"
            )
        if len(self.inputs) == 0:
            raise ValueError("there are no samples: inputs and targets have no rows")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: Tensor | slice) -> Samples:
        return Samples(self.inputs[indices], self.targets[indices])

    def take(self, indices: Tensor, device: torch.device | None = None) -> Batch:
        """Copy the rows with these indices, to the device."""
        at = indices.to(self.inputs.device)
        return self.inputs[at].to(device), self.targets[at].to(device)

    def in_order(self, most: int, device: torch.device | None = None) -> Iterator[Batch]:
        """Go through all rows in batches, without copies where they are on the device."""
        for begin in range(0, len(self), most):
            here = slice(begin, begin + most)
            yield self.inputs[here].to(device), self.targets[here].to(device)


def as_samples(data: Any, name: str) -> Samples:
    """Samples from a pair of tensors, or from a map-style dataset of pairs, whose items are read once."""
    if isinstance(data, Samples):
        return data
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        data = collate(data, name)
    if not (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(isinstance(part, Tensor) for part in data)
    ):
        cure = ": give its dataset" if isinstance(data, DataLoader) else ""
        raise TypeError(
            f"{name} must be a pair of tensors (inputs, targets), a map-style Dataset of such pairs, or a result of "
            f"load_data, got {type(data).__name__}{cure}"
        )
    return Samples(*data)


def check_finite(samples: Samples, name: str) -> None:
    """Refuse NaN and infinities, by their place."""
    for part, tensor in (("inputs", samples.inputs), ("targets", samples.targets)):
        if not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            first = bad.nonzero()[0].tolist()
            rows = int(bad.reshape(len(bad), -1).any(1).sum())
            raise ValueError(
                f"{rows} of the {len(tensor)} rows of the {name} {part} hold NaN or infinity, the first at "
                f"index {tuple(first)}: leave these rows out or fill the gaps before training"
            )


def check_targets(model: nn.Module, loss: Any, samples: Samples, name: str) -> None:
    """Try the model on two samples, and refuse targets that do not fit its outputs."""
    device = next((parameter.device for parameter in model.parameters()), None)
    outputs = _tried(model, samples[:2].inputs.to(device))
    targets = samples.targets
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and not targets.is_floating_point():
        _check_labels(targets, outputs.shape[1], loss.ignore_index, name)
    elif isinstance(loss, nn.BCEWithLogitsLoss | nn.BCELoss | nn.MSELoss | nn.L1Loss):
        if outputs.shape[1:] != targets.shape[1:]:
            # Torch would broadcast (n, 1) against (n,) to n x n, and train on nonsense.
            raise ValueError(
                f"the model's outputs have shape {tuple(outputs.shape[1:])} a sample, the {name} targets "
                f"{tuple(targets.shape[1:])}: reshape the targets or change the model's last layer"
            )
        if isinstance(loss, nn.BCEWithLogitsLoss | nn.BCELoss):
            low, high = float(targets.min()), float(targets.max())
            if low < 0 or high > 1:
                raise ValueError(
                    f"{type(loss).__name__} needs targets between 0 and 1, the {name} targets lie between "
                    f"{low:g} and {high:g}: scale them"
                )


def _check_labels(targets: Tensor, classes: int, ignored: int, name: str) -> None:
    bad = ((targets < 0) | (targets >= classes)) & (targets != ignored)
    if bool(bad.any()):
        first = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the {name} targets hold labels outside 0 ... {classes - 1}, the {classes} outputs of the model; the "
            f"first is {int(targets[tuple(first)])} at index {tuple(first)}: give the model more outputs, or "
            "number the classes from 0"
        )


def _tried(model: nn.Module, inputs: Tensor) -> Tensor:
    # In evaluation mode, so that neither BatchNorm nor a random generator notices.
    with torch.no_grad(), evaluation_mode(model):
        outputs = model(inputs)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the model must return a tensor, got {type(outputs).__name__}")
    return outputs
