"""Parameter tensors as one vector, and back."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from krylov.torch import Parameters

torch.set_num_threads(1)
SHAPES = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=5)


def trained(*shape, **options):
    return torch.randn(shape, **options).requires_grad_()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SHAPES, st.integers(1, 3), st.booleans())
def test_split_and_join_are_inverse(shapes, k, mixed):
    tensors = [trained(*shape) for shape in shapes]
    if mixed:
        tensors[0] = trained(*shapes[0], dtype=torch.float64)
    space = Parameters(tensors)
    assert space.n == sum(t.numel() for t in tensors)
    assert len(space) == len(shapes)
    assert space.dtype == (torch.float64 if mixed else torch.float32)
    v = torch.randn(space.n).to(space.dtype)
    parts = space.split(v)
    assert [(p.shape, p.dtype) for p in parts] == [(t.shape, t.dtype) for t in tensors]
    torch.testing.assert_close(space.join(parts), v)
    V = torch.randn(k, space.n).to(space.dtype)
    rows = space.split(V)
    assert [p.shape for p in rows] == [(k, *t.shape) for t in tensors]
    torch.testing.assert_close(space.join(rows, k), V)
    zeros = space.join([None] * len(shapes), k)
    assert torch.equal(zeros, torch.zeros(k, space.n, dtype=space.dtype))
    space.write(v)
    torch.testing.assert_close(space.read(), v)
    assert not space.read().requires_grad


def test_parts_are_views_where_they_can_be():
    space = Parameters([trained(2, 3), trained(4)])
    v = torch.zeros(10)
    space.split(v)[1][2] = 5
    assert v[8] == 5


def test_only_trainable_tensors_each_once_in_order():
    a, b, c = trained(2), torch.zeros(3), trained(1)
    assert [id(t) for t in Parameters([c, a, b, c]).tensors] == [id(c), id(a)]
    assert [id(t) for t in Parameters([c, a], frozen=[c]).tensors] == [id(a)]


def test_all_that_an_optimizer_takes():
    model = nn.Linear(2, 3)
    expected = [id(p) for p in model.parameters()]
    w, b = model.parameters()
    for given_parameters in (
        model.parameters(),
        [w, b],
        (w, b),
        model.named_parameters(),
        dict(model.named_parameters()),
        [{"params": [w], "lr": 1.0}, {"params": iter([b])}],
        [{"params": w}, {"params": [("bias", b)]}],
    ):
        assert [id(t) for t in Parameters(given_parameters).tensors] == expected


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (torch.ones(2), TypeError, r"give \[tensor\]"),
        (nn.Linear(1, 1), TypeError, r"model.parameters\(\)"),
        ([1.0], TypeError, "must contain tensors, not float"),
        (["w"], TypeError, "must contain tensors, not str"),
        ([[trained(1)]], TypeError, "must contain tensors, not list"),
        ([], ValueError, "nothing to train"),
        ([torch.ones(2)], ValueError, "nothing to train"),
        ([trained(2, dtype=torch.bfloat16)], TypeError, "torch.autocast"),
        ([trained(2, dtype=torch.float16)], TypeError, "float32 or float64"),
        ([trained(2, dtype=torch.complex64)], TypeError, "complex64"),
        ([trained(2), trained(2, device="meta")], ValueError, "one device is needed"),
    ],
)
def test_what_is_no_parameter(params, error, words):
    with pytest.raises(error, match=words):
        Parameters(params)


def test_memory_of_any_layout():
    w = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    t = torch.randn(4, 3).t().detach().requires_grad_()
    space = Parameters([w, t])
    v = torch.arange(132.0)
    space.write(v)
    assert torch.equal(w.flatten(), v[:120])
    assert torch.equal(t.flatten(), v[120:])
    assert w.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(space.read(), v)


def test_at_another_point():
    space = Parameters([trained(2, 2), trained(3)])
    before, memory = space.read(), [t.data_ptr() for t in space.tensors]
    with space.at(before + 1):
        torch.testing.assert_close(space.read(), before + 1)
    with pytest.raises(ZeroDivisionError), space.at(before + 1):
        torch.zeros(1 // 0)
    assert torch.equal(space.read(), before)
    assert [t.data_ptr() for t in space.tensors] == memory


def test_marks_tell_changes():
    space = Parameters([trained(2, 2), trained(3), trained(0)])
    mark = space.mark()
    space.read()
    with space.at(space.read() + 1):
        assert space.mark() != mark
    assert space.mark() == mark
    space.write(space.read())
    assert space.mark() != mark
    space = Parameters([torch.full((2,), float("nan")).requires_grad_()])
    assert space.mark() == space.mark()


def test_one_number_for_each_tensor():
    a, b = trained(2), trained(2, 2, dtype=torch.float64)
    space = Parameters([a, b])
    v = space.spread({id(a): 1.0, id(b): 2.0})
    assert torch.equal(v, torch.tensor([1, 1, 2, 2, 2, 2], dtype=torch.float64))
