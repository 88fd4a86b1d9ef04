"""What makes products wrong or impossible, found before the solve and named with its cure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from krylov.torch.nodes import edge_of, walk

__all__ = [
    "Randomness",
    "explained",
    "refuse_no_second",
    "refuse_other_loss",
    "refuse_unfit",
    "refuse_wrong_second",
]

_RANDOM = (
    "the loss draws random numbers (active dropout, sampled noise): every evaluation would see another function. Call "
    "model.eval(), fix the noise outside, or give randomness='freeze', which draws the same numbers in every "
    "evaluation of a micro-batch within a step"
)
_BATCH_NORM = (
    "BatchNorm is in training mode: its statistics change with every batch and every evaluation. Call .eval() on the "
    "BatchNorm layers, use GroupNorm or LayerNorm, or give allow_batch_norm=True to differentiate through the "
    "statistics of each micro-batch"
)
_MATH = "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
_ATTENTION = (
    "this attention kernel ({}) has no double backward. Within the function that evaluates the loss, call the model "
    f"under {_MATH}"
)
_HALF = (
    "the loss is computed in float16, which needs a GradScaler, and curvature products know no scaler: gradients would "
    "underflow. Use torch.autocast with dtype=torch.bfloat16, which needs none, and compute the loss in float32"
)
_COMPILED = (
    "the model was compiled by torch.compile, whose graphs have no double backward. Give the model that was compiled "
    "(model._orig_mod holds it), or compile it with backend='eager'"
)
_CHECKPOINT = (
    "torch.utils.checkpoint with use_reentrant=True hides the parameters from torch.autograd.grad: give "
    "use_reentrant=False"
)
_SPARSE = "an embedding has sparse=True, and its gradient no second derivative: give sparse=False"
_ONCE = (
    "a torch.autograd.Function of the model ({}) is marked with @once_differentiable: write its backward in "
    "differentiable operations, without the mark"
)
_WEIGHT_NORM = (
    "torch's second derivative of its fused weight_norm is wrong. Take the Gauss-Newton matrix, call "
    "torch.nn.utils.parametrize.remove_parametrizations, or write g * v / v.norm() in a parametrization of your own"
)
_IN_PLACE = (
    "a tensor that the graph needs was overwritten: by a module with inplace=True (set inplace=False), or by a change "
    "of the parameters after this operator was built (build a new operator after each step)"
)
_SECOND = (
    "an operation of the model has no second derivative in torch: {}. Replace it by one that has; call attention under "
    f"{_MATH}, RNNs on the GPU under torch.backends.cudnn.flags(enabled=False)"
)
_CHANGES = (
    "the loss of a micro-batch was {} when the operator was built and is {} now: the model or its data changed in "
    "between, or the evaluation is not deterministic. Give cache='graph', which evaluates once, or build a new operator"
)
_FUSED_ATTENTION = ("Flash", "Efficient", "Cudnn", "Fused")
# Operations whose second derivative raises only when it is asked for.
_LATE = ("EmbeddingBag", "CudnnRnn", "MiopenRnn")
# Nodes that stand for a derivative that torch does not have.
_MISSING = ("torch::autograd::NotImplemented", "torch::autograd::Error")
_NO_DERIVATIVE = ("not implemented", "not differentiable", "Double backward", "differentiate twice")
# Evaluations of one function may differ by so much: the order of sums depends on threads.
_SAME = 1e-4
# Functions under this decorator share its code.
_ONCE_CODE = torch.autograd.function.once_differentiable(lambda *_: None).__code__


@contextmanager
def explained(device: torch.device | None = None) -> Iterator[None]:
    """Within: calls of autograd. Errors that have a known cause are raised with it and its cure.

    Autocast on `device` is off within: derivatives have the dtypes of what they are derivatives of.
    """
    casts = device is not None and torch.is_autocast_enabled(device.type)
    try:
        with torch.autocast(device.type, enabled=False) if device and casts else nullcontext():
            yield
    except RuntimeError as error:
        text = str(error)
        if "modified by an inplace operation" in text:
            raise RuntimeError(_IN_PLACE) from error
        if "torch.compile" in text and "double backward" in text:
            raise RuntimeError(_COMPILED) from error
        if "use_reentrant" in text:
            raise RuntimeError(_CHECKPOINT) from error
        if any(words in text for words in _NO_DERIVATIVE):
            raise RuntimeError(_SECOND.format(text.splitlines()[0].rstrip("."))) from error
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
    if loss.is_complex():
        raise TypeError("the loss is complex: it must be a real number")
    if not loss.requires_grad:
        raise ValueError(
            "the loss has no graph: evaluate the model without torch.no_grad() and torch.inference_mode(), and do not "
            "detach the loss"
        )
    for node in dict.fromkeys(node for node, _ in walk([edge_of(loss)])):
        _refuse_node(node, node.name(), allow_batch_norm)


def _refuse_node(node: Any, name: str, allow_batch_norm: bool) -> None:
    if any(meta.dtype == torch.float16 for meta in getattr(node, "_input_metadata", ())):
        raise RuntimeError(_HALF)
    if "BatchNorm" in name and not allow_batch_norm and _collects_statistics(node):
        raise RuntimeError(_BATCH_NORM)
    if "Attention" in name and any(kind in name for kind in _FUSED_ATTENTION):
        raise RuntimeError(_ATTENTION.format(name.removesuffix("Backward0")))
    if name.startswith("CompiledFunction"):
        raise RuntimeError(_COMPILED)
    if name.startswith("CheckpointFunction"):
        raise RuntimeError(_CHECKPOINT)
    if name.startswith("Embedding") and getattr(node, "_saved_sparse", False):
        raise RuntimeError(_SPARSE)
    if name.startswith(_LATE):
        raise RuntimeError(_SECOND.format(name.removesuffix("Backward0")))
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    if getattr(backward, "__code__", None) is _ONCE_CODE:
        raise RuntimeError(_ONCE.format(name.removesuffix("Backward")))


def _collects_statistics(node: Any) -> bool:
    """Whether a normalisation is in training mode; InstanceNorm uses the same node, without running statistics."""
    training = getattr(node, "_saved_training", False)
    return bool(training) and getattr(node, "_saved_running_mean", True) is not None


def refuse_no_second(gradient: Sequence[Tensor]) -> None:
    """Raise where the graph of a gradient has a node that torch cannot differentiate."""
    for node, _ in walk(edge_of(g) for g in gradient):
        if node.name() in _MISSING:
            try:
                with explained():
                    node(*[torch.zeros(()) for _ in node._input_metadata])  # says which it is
            except TypeError:
                pass
            raise RuntimeError(_SECOND.format(node.name()))


def refuse_wrong_second(loss: Tensor) -> None:
    """Raise where torch has a second derivative with respect to parameters, but a wrong one."""
    for node, _ in walk([edge_of(loss)]):
        if node.name().startswith("WeightNormInterface"):
            raise RuntimeError(_WEIGHT_NORM)


def refuse_other_loss(before: Tensor, now: Tensor) -> None:
    """Raise where two evaluations of a micro-batch have given different losses."""
    first, second = float(before), float(now)
    if abs(first - second) > _SAME * max(abs(first), abs(second)):
        raise RuntimeError(_CHANGES.format(first, second))


class Randomness:
    """Sees to it that all evaluations of a function draw the same random numbers, or refuses that it draws any.

    Parameters
    ----------
    policy : {"refuse", "freeze"}
        What to do about a function that draws: raise, or let each evaluation begin with the same generator state.
    device : torch.device
        Whose generator counts beside the CPU's.

    Notes
    -----
    ``with randomness(key):`` has numbers of its own for each key, those of a micro-batch: noise that all micro-batches
    shared would not average out over the sample, and a step could fit it.
    """

    def __init__(self, policy: str, device: torch.device) -> None:
        self._policy, self._device = policy, device
        # torch.cuda, torch.xpu: whose generator it is.
        found = None if device.type == "cpu" else getattr(torch, device.type, None)
        self._module: Any = found if hasattr(found, "get_rng_state") else None
        self._first: dict[Hashable, list[Tensor]] = {}

    def renew(self) -> None:
        """Other numbers from now on."""
        self._first.clear()

    @contextmanager
    def __call__(self, key: Hashable = None) -> Iterator[None]:
        """Within: one evaluation."""
        before = self._states()
        if self._policy == "freeze":
            if key not in self._first:  # these numbers are drawn for good
                self._first[key] = before
                yield
                return
            self._restore(self._first[key])
            try:
                yield
            finally:
                self._restore(before)
            return
        yield
        if not all(torch.equal(a, b) for a, b in zip(before, self._states(), strict=True)):
            self._restore(before)
            raise RuntimeError(_RANDOM)

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._module is not None:
            states.append(self._module.get_rng_state(self._device))
        return states

    def _restore(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._module is not None:
            self._module.set_rng_state(states[1], self._device)
