"""Saved preconditioners: a flat dictionary of arrays, numbers and words, every entry checked when it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from krylov.arrays import view
from krylov.checks import choice, integer
from krylov.workspace import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Restorable", "Saved"]

_Self = TypeVar("_Self", bound="Restorable")


class Saved:
    """The entries of a state as they are read back. Whatever does not fit is a ValueError or TypeError with its name.

    Parameters
    ----------
    state : mapping
        What `Restorable.state_dict` has given; tensors may stand where it has arrays.
    kind : str
        Of the preconditioner that it is for.
    """

    def __init__(self, state: Any, kind: str) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"a state is what state_dict() gives, not {type(state).__name__}")
        self._entries, self._kind, self._read = state, kind, {"kind"}
        if state.get("kind") != kind:
            raise ValueError(f"this state is of kind {state.get('kind')!r}, not {kind!r}")

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        value = self._entries.get(name)
        if value is None:
            raise ValueError(f"this state of a preconditioner {self._kind!r} has no {name}")
        return value

    def array(
        self,
        name: str,
        shape: tuple[int | None, ...],
        *dtypes: np.dtype[Any],
        most: int | None = None,
        copy: bool = True,
    ) -> NDArray[Any]:
        """An array of this shape, None for any length up to `most`, and of one of these dtypes."""
        values = view(self[name], name)
        fits = len(shape) == values.ndim and all(
            wanted in (None, found) for wanted, found in zip(shape, values.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(f"{name} of a state must have shape ({wanted}), got {values.shape}")
        if most is not None and len(values) > most:
            raise ValueError(f"{name} of a state must be at most {most}, got {len(values)}")
        if values.dtype not in dtypes:
            names = " or ".join(dtype.name for dtype in dtypes)
            raise TypeError(f"{name} of a state must be {names}, got {values.dtype}")
        # By rows as in the original: another order may give products of small matrices other bits.
        return np.array(values, order="C") if copy else values

    def integer(self, name: str, least: int) -> int:
        """An integer, not below `least`."""
        return integer(self[name], name, least)

    def dtype(self) -> np.dtype[Any]:
        """Of the vectors."""
        dtypes = {dtype.name: dtype for dtype in DTYPES}
        choice(self["dtype"], "dtype", dtypes)
        return dtypes[self["dtype"]]

    def refuse_unread(self) -> None:
        """Raise where there is more than has been read: what it meant would be lost."""
        unknown = sorted(map(str, set(self._entries) - self._read))
        if unknown:
            raise ValueError(f"a preconditioner {self._kind!r} knows no {', '.join(unknown)}")


class Restorable:
    """Gives a preconditioner a state that can be saved, and restores it bit for bit."""

    _kind: ClassVar[str]

    # What a kind of preconditioner must say.

    def _fixed(self) -> dict[str, Any]:
        """Entries that stay as they were made: those of a state to be loaded must be the same."""
        raise NotImplementedError

    def _changing(self) -> dict[str, Any]:
        """All other entries."""
        raise NotImplementedError

    def _restore(self, saved: Saved) -> None:
        """Become what was saved. Takes the place of `__init__`."""
        raise NotImplementedError

    def _outside_runs(self, to: str) -> None:
        """Raise where it is learning from a run and one may not do this."""

    # Use.

    def state_dict(self) -> dict[str, Any]:
        """Everything that M and what it will learn depend on, for a checkpoint.

        Returns
        -------
        dict
            Arrays, numbers and strings, one level deep. The arrays are copies; columns are as they are stored, bfloat16
            numbers as their bits in uint16.

        Raises
        ------
        RuntimeError
            It is learning from a run.
        """
        self._outside_runs("save it")
        entries = {"kind": self._kind, **self._fixed(), **self._changing()}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in entries.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the preconditioner that this state was taken from: M r and all that follows have the same bits.

        Parameters
        ----------
        state : mapping
            From `state_dict`; torch CPU tensors may stand in the place of arrays.

        Raises
        ------
        ValueError, TypeError
            The state is of another kind or size, or damaged; the preconditioner is then as it was before.
        RuntimeError
            It is learning from a run.
        """
        self._outside_runs("load a state")
        saved = Saved(state, self._kind)
        different = [
            f"{name} = {saved[name]} (here {mine})"
            for name, mine in self._fixed().items()
            if saved[name] != mine
        ]
        if different:
            raise ValueError(
                f"this state does not fit, it has {', '.join(different)}: load it into a preconditioner "
                "made with the same arguments, or use from_state_dict"
            )
        vars(self).update(vars(self.from_state_dict(state)))

    @classmethod
    def from_state_dict(cls: type[_Self], state: Mapping[str, Any]) -> _Self:
        """The preconditioner that this state was taken from, as `load_state_dict` makes it."""
        saved = Saved(state, cls._kind)
        made = cls.__new__(cls)
        made._restore(saved)
        saved.refuse_unread()
        return made
