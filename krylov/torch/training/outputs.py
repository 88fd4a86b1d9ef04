"""All that a run writes. What cannot be written does not stop it, as long as it may still be written later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from krylov.torch.training.checkpoint import CheckpointError, save_checkpoint
from krylov.torch.training.log import JsonLog, TensorBoard
from krylov.torch.training.options import FitOptions

__all__ = ["Outputs"]


class Outputs:
    """Log, TensorBoard and checkpoint of a run, whichever are wanted.

    Parameters
    ----------
    options : FitOptions
        Where they go.
    records : sequence
        Those of a resumed run.
    say : callable
        Is told of what could not be written.
    """

    def __init__(
        self, options: FitOptions, records: Sequence[Mapping[str, Any]], say: Callable[[str], None]
    ) -> None:
        self._checkpoint = options.checkpoint
        self._log = None if options.log is None else JsonLog(options.log, records)
        self._board = (
            None if options.tensorboard is None else TensorBoard(options.tensorboard, records)
        )
        self._say = say
        self._failed: dict[str, CheckpointError] = {}

    def begin(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint of the beginning; what is wrong with its place shows before the work.

        Raises
        ------
        CheckpointError
            It cannot be written.
        """
        if self._checkpoint is not None:
            save_checkpoint(self._checkpoint, state())

    def record(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the last of the records."""
        if self._log is not None:
            self._try("log", lambda log: log.write(records), self._log)
        if self._board is not None:
            self._board.write(records)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint."""
        if self._checkpoint is not None:
            self._try("checkpoint", lambda path: save_checkpoint(path, state()), self._checkpoint)

    def close(self) -> None:
        """Nothing more will come.

        Raises
        ------
        CheckpointError
            The last record or the last state is not on disk.
        """
        if self._board is not None:
            self._board.close()
        for error in self._failed.values():
            raise error

    def _try(self, what: str, write: Callable[[Any], None], target: Any) -> None:
        try:
            write(target)
        except CheckpointError as error:
            if what not in self._failed:
                self._say(f"{error}. Training goes on and tries again; make room.")
            self._failed[what] = error
        else:
            self._failed.pop(what, None)
