"""The training driver: data and models by name, one loop for every optimizer, log and checkpoints."""

from __future__ import annotations

from krylov.torch.training.checkpoint import CheckpointError
from krylov.torch.training.data import Data, load_data
from krylov.torch.training.fit import fit
from krylov.torch.training.history import Ending, History
from krylov.torch.training.iteration import NonFiniteLoss
from krylov.torch.training.models import autoencoder, cnn, mlp

__all__ = [
    "CheckpointError",
    "Data",
    "Ending",
    "History",
    "NonFiniteLoss",
    "autoencoder",
    "cnn",
    "fit",
    "load_data",
    "mlp",
]
