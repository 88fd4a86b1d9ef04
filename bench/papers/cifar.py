"""CIFAR-10 from the records of its binary version, packed with xz or not."""

from __future__ import annotations

import lzma
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

#: Bytes of a record: the label, then 32 x 32 red, green and blue pixels.
_RECORD = 1 + 3 * 32 * 32
#: Of all training images, each channel.
_MEAN, _DEVIATION = (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)


def cifar10(data: Path, pattern: str = "data_batch_*") -> tuple[Tensor, Tensor]:
    """Images of shape (count, 3, 32, 32), each channel with mean 0 and variance 1, and labels."""
    folder = data / "cifar10"
    files = sorted(folder.glob(pattern))
    if not files:
        raise click.ClickException(f"{folder}: no file {pattern} there (--data)")
    parts = []
    for file in files:
        try:
            content = file.read_bytes()
            if file.suffix == ".xz":
                content = lzma.decompress(content)
        except lzma.LZMAError as error:
            raise click.ClickException(f"{file}: not an xz file, or a damaged one") from error
        if not content or len(content) % _RECORD:
            raise click.ClickException(f"{file}: not a whole number of records of {_RECORD} bytes")
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, _RECORD))
    records = torch.from_numpy(np.concatenate(parts))
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).float().div_(255)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return (pixels - mean) / deviation, records[:, 0].long()
