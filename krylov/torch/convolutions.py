"""Convolutions whose J v costs what it must.

J v is the derivative of ``u -> J^T u``. For one convolution ``y = x * w + b`` that is ``dx * w + x * dw + db``: two
convolutions. torch's double backward takes four, as it always computes the derivatives with respect to x and w too,
which nobody asks for here. A Gauss-Newton product through convolutions then takes six of them in place of four; a
gradient takes three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["LeanConvolutions"]

_aten = torch.ops.aten
# Dimensions, and whether transposed.
_KINDS: dict[Any, tuple[int, bool]] = {
    torch.conv1d: (1, False),
    torch.conv2d: (2, False),
    torch.conv3d: (3, False),
    torch.conv_transpose1d: (1, True),
    torch.conv_transpose2d: (2, True),
    torch.conv_transpose3d: (3, True),
}
_NAMES = ("input", "weight", "bias", "stride", "padding")
_FORWARD = (*_NAMES, "dilation", "groups")
_TRANSPOSED = (*_NAMES, "output_padding", "groups", "dilation")
Gradients = tuple[Tensor | None, ...]


class LeanConvolutions(TorchFunctionMode):
    """Within, convolutions are made so that their double backward can be lean.

    While `pushing` only derivatives with respect to what a backward pass was begun with are computed; at all other
    times the graph is as any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lean = False

    @contextmanager
    def pushing(self) -> Iterator[None]:
        """Within: backward passes through the graph of ``u -> J^T u``, for J v."""
        self.lean = True
        try:
            yield
        finally:
            self.lean = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KINDS:
            call = _understood(*_KINDS[func], args, kwargs)
            if call is not None:
                return _Convolution.apply(*call, self)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


def _understood(
    dims: int, transposed: bool, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """Arguments for `_Convolution`; None for a call that is better left to torch."""
    given = dict(zip(_TRANSPOSED if transposed else _FORWARD, args, strict=False)) | dict(kwargs)
    x, w, b = (given.get(name) for name in _NAMES[:3])
    if not isinstance(x, Tensor) or not isinstance(w, Tensor) or not isinstance(b, Tensor | None):
        return None
    tensors = [x, w, b]
    plain = (
        x.ndim == w.ndim == dims + 2  # not a single sample without a batch
        and torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in tensors)
        and all(t is None or t.is_floating_point() for t in tensors)
        and not torch._C._are_functorch_transforms_active()
        and not isinstance(given.get("padding"), str)
    )
    if not plain:
        return None
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        half = torch.get_autocast_dtype(kind)
        tensors = [t.to(half) if t is not None and t.dtype == torch.float32 else t for t in tensors]
    sizes = [
        _sizes(given.get(name, default), dims)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
    ]
    stride, padding, dilation, output_padding = sizes
    geometry = (stride, padding, dilation, transposed, output_padding, given.get("groups", 1))
    return (*tensors, geometry)


def _sizes(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Any, mode: LeanConvolutions
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.mode = geometry, mode
        ctx.bias_sizes = None if b is None else list(b.shape)
        y: Tensor = _aten.convolution(x, w, b, *geometry)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, w = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        found: Gradients
        if torch.is_grad_enabled():
            call = (ctx.mode, g, x, w, ctx.bias_sizes, ctx.geometry, mask)
            found = _Backward.apply(*call)  # type: ignore[no-untyped-call]
        else:
            found = _aten.convolution_backward(g, x, w, ctx.bias_sizes, *ctx.geometry, mask)
        return (*found, None, None)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mode: LeanConvolutions,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        bias_sizes: list[int] | None,
        geometry: Any,
        mask: list[bool],
    ) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.mode, ctx.geometry = mode, geometry
        found: Gradients = _aten.convolution_backward(g, x, w, bias_sizes, *geometry, mask)
        return found

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> Gradients:
        g, x, w = ctx.saved_tensors
        found: Gradients
        if ctx.mode.lean:
            found = (_tangent(g, x, w, directions, ctx.geometry), None, None)
        else:
            mask = list(ctx.needs_input_grad[1:4])
            found = _aten._convolution_double_backward(*directions, g, w, x, *ctx.geometry, mask)
        return (None, *found, None, None, None)


def _tangent(
    g: Tensor, x: Tensor, w: Tensor, directions: Sequence[Tensor | None], geometry: Sequence[Any]
) -> Tensor | None:
    """``dx * w + x * dw + db``."""
    dx, dw, db = directions
    total: Tensor | None = None
    if dw is not None:
        total = _aten.convolution(x, dw, db, *geometry)
    if dx is not None:
        part = _aten.convolution(dx, w, db if total is None else None, *geometry)
        if total is None:
            total = part
        else:
            total = total + part if torch.is_grad_enabled() else total.add_(part)
    if total is None and db is not None:
        total = db.view(-1, *(1 for _ in geometry[0])).expand_as(g)
    return total
