"""What makes products wrong or impossible, found before the solve and named with its cure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Randomness", "explained", "refuse_shuffling", "refuse_unfit"]

_DROPOUT = (
    "dropout is active: every evaluation would see another network. Call model.eval(), set p=0, or give "
    "randomness='freeze', which draws the same numbers in every evaluation of a step"
)
_RANDOM = (
    "the loss draws random numbers (active dropout, sampled noise): every evaluation would see another function. Call "
    "model.eval(), fix the noise outside, or give randomness='freeze', which draws the same numbers in every "
    "evaluation of a step"
)
_BATCH_NORM = (
    "BatchNorm is in training mode: its statistics change with every batch and every evaluation. Call .eval() on the "
    "BatchNorm layers, use GroupNorm or LayerNorm, or give allow_batch_norm=True to differentiate through the "
    "statistics of each micro-batch"
)
_ATTENTION = (
    "this attention kernel ({}) has no double backward. Evaluate the model under "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
)
_HALF = (
    "the loss is float16, which a GradScaler would have to scale: curvature products know no scaler. Use "
    "torch.autocast with dtype=torch.bfloat16, which needs none, and compute the loss in float32"
)
_IN_PLACE = (
    "a tensor that the graph needs was overwritten: by a module with inplace=True (set inplace=False), or by a change "
    "of the parameters after this operator was built (build a new operator after each step)"
)
_SECOND = (
    "an operation of the model has no second derivative in torch: {}. Replace it; for attention evaluate the model "
    "under torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
)
_SHUFFLES = (
    "data gives its batches in another order each time it is read (a DataLoader with shuffle=True?): the products of "
    "one operator must all see the same samples. Give list(loader), or a loader with shuffle=False"
)
_FUSED_ATTENTION = ("Flash", "Efficient", "Cudnn", "Fused")


@contextmanager
def explained() -> Iterator[None]:
    """Errors of autograd that have a known cause are raised with it and its cure."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "modified by an inplace operation" in text:
            raise RuntimeError(_IN_PLACE) from error
        if "not implemented" in text or "not differentiable" in text:
            raise RuntimeError(_SECOND.format(text.splitlines()[0])) from error
        raise


def refuse_unfit(loss: Tensor, *, allow_batch_norm: bool = False) -> None:
    """Look through the graph of a loss for what breaks products.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        The loss is no scalar with a graph, or a node of it is known to break products.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss must be a tensor, not {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss must be a scalar, but its shape is {tuple(loss.shape)}: "
            "average or sum it over the batch"
        )
    if loss.dtype == torch.float16:
        raise RuntimeError(_HALF)
    if loss.grad_fn is None:
        raise ValueError(
            "the loss has no graph: evaluate the model without torch.no_grad() and do not detach the loss"
        )
    for node in _nodes(loss):
        name = node.name()
        if "Dropout" in name:
            raise RuntimeError(_DROPOUT)
        if "BatchNorm" in name and getattr(node, "_saved_training", False) and not allow_batch_norm:
            raise RuntimeError(_BATCH_NORM)
        if "Attention" in name and any(kind in name for kind in _FUSED_ATTENTION):
            raise RuntimeError(_ATTENTION.format(name.removesuffix("Backward0")))


def _nodes(loss: Tensor) -> Iterator[Any]:
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(parent for parent, _ in node.next_functions)


def refuse_shuffling(data: Any) -> None:
    """Raise for a DataLoader that is known to shuffle."""
    sampler = getattr(data, "sampler", None)
    if isinstance(sampler, torch.utils.data.RandomSampler | torch.utils.data.WeightedRandomSampler):
        raise ValueError(_SHUFFLES)


def fingerprint(batch: Any) -> tuple[float, ...]:
    """A few numbers that tell one batch from another."""
    if isinstance(batch, Tensor):
        if batch.numel() == 0:
            return (0.0,)
        flat = batch.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // 64)].double()
        weights = torch.arange(1, picked.numel() + 1, device=picked.device, dtype=picked.dtype)
        return (float(batch.numel()), float(weights @ picked))
    if isinstance(batch, dict):
        return tuple(x for value in batch.values() for x in fingerprint(value))
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return tuple(x for value in batch for x in fingerprint(value))
    return ()


def refuse_change(before: Sequence[tuple[float, ...]], now: Sequence[tuple[float, ...]]) -> None:
    """Raise where two readings of the data differ."""
    if list(before) != list(now):
        raise ValueError(_SHUFFLES)


class Randomness:
    """Sees to it that all evaluations of a function draw the same random numbers, or refuses that it draws any.

    Parameters
    ----------
    policy : {"refuse", "freeze"}
        What to do about a function that draws: raise, or let each evaluation begin with the same generator state.
    device : torch.device
        Whose generator counts beside the CPU's.
    """

    def __init__(self, policy: str, device: torch.device) -> None:
        self._policy, self._device = policy, device
        self._first: list[Tensor] | None = None

    def renew(self) -> None:
        """Other numbers from now on."""
        self._first = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within: one evaluation."""
        before = self._states()
        if self._first is None:
            self._first = before
        if self._policy == "freeze":
            self._restore(self._first)
        yield
        after = self._states()
        if all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            return
        if self._policy == "refuse":
            self._restore(before)
            raise RuntimeError(_RANDOM)

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _restore(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
