"""Many parameter tensors as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Parameters"]

_DTYPES = (torch.float32, torch.float64)


class Parameters:
    """The trainable tensors among `params`, each once, in order: coordinates of one vector.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor) or of parameter groups, or a mapping of names to Tensor
        As `torch.optim.Optimizer` takes them. Tensors that do not require gradients are left out; a tensor that
        appears twice (tied weights) counts once.

    Attributes
    ----------
    tensors : list of Tensor
        In order.
    n : int
        Length of the vector.
    dtype : torch.dtype
        float64 if any tensor is, else float32.
    device : torch.device
        Of all tensors.

    Raises
    ------
    TypeError
        Something is no tensor, or has a dtype that no solver takes.
    ValueError
        No tensor is trainable, or they live on different devices.
    """

    def __init__(
        self, params: Iterable[Any] | Mapping[str, Tensor], *, frozen: Sequence[Tensor] = ()
    ) -> None:
        self.tensors: list[Tensor] = []
        seen = {id(tensor) for tensor in frozen}
        for tensor in _tensors(params):
            if tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                self.tensors.append(tensor)
        if not self.tensors:
            raise ValueError("params has no tensor that requires gradients: nothing to train")
        _check(self.tensors)
        self.dtype = (
            torch.float64 if any(t.dtype == torch.float64 for t in self.tensors) else torch.float32
        )
        self.device = self.tensors[0].device
        self._sizes = [tensor.numel() for tensor in self.tensors]
        self._shapes = [tensor.shape for tensor in self.tensors]
        self._mixed = any(tensor.dtype != self.dtype for tensor in self.tensors)
        self.n = sum(self._sizes)

    def __len__(self) -> int:
        return len(self.tensors)

    def split(self, vector: Tensor) -> list[Tensor]:
        """The vector's parts in the shapes and dtypes of the tensors; a view where the dtype allows it.

        A matrix of shape (k, n) gives parts with a leading dimension k.
        """
        batch = vector.shape[:-1]
        pieces = torch.split(vector, self._sizes, dim=-1)
        parts = [
            piece.reshape(batch + shape) for piece, shape in zip(pieces, self._shapes, strict=True)
        ]
        if self._mixed:
            parts = [part.to(t.dtype) for part, t in zip(parts, self.tensors, strict=True)]
        return parts

    def join(self, parts: Sequence[Tensor | None], batch: int | None = None) -> Tensor:
        """One new vector from parts shaped like the tensors, or from k of each a matrix; None stands for zeros."""
        rows = () if batch is None else (batch,)
        flat = [
            torch.zeros((*rows, size), dtype=self.dtype, device=self.device)
            if part is None
            else part.detach().reshape((*rows, size))
            for part, size in zip(parts, self._sizes, strict=True)
        ]
        if self._mixed:
            flat = [part.to(self.dtype) for part in flat]
        return torch.cat(flat, dim=-1)

    def read(self) -> Tensor:
        """A copy of the parameters as one vector."""
        return self.join(self.tensors)

    def write(self, vector: Tensor) -> None:
        """Set the parameters, in place."""
        with torch.no_grad():
            torch._foreach_copy_(self.tensors, self.split(vector))

    @contextmanager
    def at(self, vector: Tensor) -> Iterator[None]:
        """Within, the tensors have these values, in this memory.

        Their own memory stays as it is, and so do kept graphs that refer to it: writing in place would invalidate them.
        """
        own = [tensor.data for tensor in self.tensors]
        try:
            for tensor, part in zip(self.tensors, self.split(vector), strict=True):
                tensor.data = part
            yield
        finally:
            for tensor, data in zip(self.tensors, own, strict=True):
                tensor.data = data

    def mark(self) -> tuple[float, ...]:
        """A few numbers that tell whether the tensors have been changed since.

        What is written into ``tensor.data`` autograd does not see; on the CPU one entry is looked at for that.
        """
        last, probe = self.tensors[-1].detach(), 0.0
        if self.device.type == "cpu" and last.numel():
            probe = last.reshape(-1)[-1].item()
        return (
            probe if probe == probe else 0.0,  # NaN equals nothing
            *(tensor._version for tensor in self.tensors),
            *(tensor.data_ptr() for tensor in self.tensors),
        )

    def spread(self, values: Mapping[int, float]) -> Tensor:
        """A vector that has the given number for all entries of a tensor, by the tensor's ``id``."""
        return torch.cat(
            [
                torch.full((size,), values[id(tensor)], dtype=self.dtype, device=self.device)
                for tensor, size in zip(self.tensors, self._sizes, strict=True)
            ]
        )

    def checked(self, vector: Any, name: str) -> Tensor:
        """The vector, if it is one of this space.

        Raises
        ------
        TypeError, ValueError
            It is no tensor of this length, dtype and device.
        """
        if not isinstance(vector, Tensor):
            raise TypeError(
                f"{name} must be a torch tensor, not {type(vector).__name__}; "
                "for NumPy vectors take the operator's .to_scipy()"
            )
        if vector.ndim not in (1, 2) or vector.shape[0] != self.n:
            raise ValueError(
                f"{name} must have shape ({self.n},) or ({self.n}, k), but its shape is {tuple(vector.shape)}"
            )
        if vector.dtype != self.dtype or vector.device != self.device:
            raise TypeError(
                f"{name} is {vector.dtype} on {vector.device}, but the parameters are {self.dtype} on {self.device}"
            )
        return vector.detach()


def _tensors(params: Iterable[Any] | Mapping[str, Tensor]) -> Iterable[Tensor]:
    if isinstance(params, Tensor):
        raise TypeError("params must be an iterable of tensors: give [tensor]")
    if isinstance(params, torch.nn.Module):
        raise TypeError("params must be an iterable of tensors: give model.parameters()")
    for entry in params.values() if isinstance(params, Mapping) else params:
        if isinstance(entry, Mapping):
            group = entry["params"]
            yield from _tensors([group] if isinstance(group, Tensor) else group)
        elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            yield entry[1]
        elif isinstance(entry, Tensor):
            yield entry
        else:
            raise TypeError(f"params must contain tensors, not {type(entry).__name__}")


def _check(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.is_inference():
            raise ValueError(
                f"a parameter of shape {tuple(tensor.shape)} was made under torch.inference_mode(): make it outside"
            )
        if tensor.layout is not torch.strided:
            raise TypeError(
                f"a parameter of shape {tuple(tensor.shape)} has layout {tensor.layout}: parameters must be dense, "
                "tensor.to_dense()"
            )
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"a parameter of shape {tuple(tensor.shape)} is {tensor.dtype}; parameters must be float32 or "
                "float64: keep them so, and compute in less under torch.autocast"
            )
        if tensor.device != tensors[0].device:
            raise ValueError(
                f"parameters are on {tensors[0].device} and on {tensor.device}; one device is needed"
            )
