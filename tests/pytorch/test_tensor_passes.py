"""Passes of the kernel table on torch tensors."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from krylov.torch import passes


class Other(torch.Tensor):
    """A class that may not have memory of its own."""


def in_inference_mode():
    with torch.inference_mode():
        return torch.ones(2)


FITS = {
    "a vector": lambda: [torch.ones(2)],
    "a parameter": lambda: [nn.Parameter(torch.ones(2, dtype=torch.float64))],
    "a part": lambda: [torch.ones(4)[1:3], torch.ones(2)],
    "nothing": lambda: [torch.ones(0)],
}
MISFITS = {
    "strides": lambda: [torch.ones(2), torch.ones(4)[::2]],
    "an expanded number": lambda: [torch.ones(()).expand(2)],
    "half precision": lambda: [torch.ones(2, dtype=torch.float16)],
    "integers": lambda: [torch.ones(2, dtype=torch.int32)],
    "two dtypes": lambda: [torch.ones(2), torch.ones(2, dtype=torch.float64)],
    "two sizes": lambda: [torch.ones(2), torch.ones(3)],
    "no memory": lambda: [torch.ones(2, device="meta")],
    "another class": lambda: [torch.ones(2), torch.ones(2).as_subclass(Other)],
    "the negative of its memory": lambda: [torch.ones(1, dtype=torch.complex64).conj().imag],
    "inference mode": lambda: [torch.ones(2), in_inference_mode()],
}


@pytest.mark.parametrize("name", [*FITS, *MISFITS])
def test_what_a_pass_may_take(name):
    assert passes.runs_on((FITS | MISFITS)[name]()) == (name in FITS)


def test_a_pass_changes_what_it_stores_and_nothing_else():
    x, y = torch.arange(3.0), torch.ones(3)
    versions = x._version, y._version
    assert passes.run("axpy", [(x, y)], [2.0]) == []
    assert x.tolist() == [2, 3, 4]
    assert (x._version, y._version) == (versions[0] + 1, versions[1])


def test_a_pass_takes_group_after_group():
    x, y = torch.arange(6.0).view(2, 3), torch.ones(0)
    assert passes.run("dot", [(x, x), (y, y), (x[0], x[1])], []) == [55.0, 0.0, 14.0]
    assert passes.run("dot", [], []) == []
