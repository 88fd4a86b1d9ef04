"""Micro-batches: their weights, their order, and what memory they take."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import random
from collections import UserDict, namedtuple

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import krylov.torch as kt
from krylov.torch.memory import available_bytes, held_bytes
from krylov.torch.microbatches import Mean, MicroBatches, sample_count

torch.set_num_threads(1)
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4
MODEL = nn.Linear(3, 4)
PARAMETERS = kt.Parameters(MODEL.parameters())


def loss(batch):
    return F.cross_entropy(MODEL(batch[0]), batch[1])


def hessian(data, **options):
    return kt.HessianOperator(loss, MODEL.parameters(), data=data, **options)


WHOLE = hessian([(X, Y)])
V = torch.ones(16)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 11), max_size=5, unique=True), st.sampled_from(["graph", "none"]))
def test_any_split_of_a_sample_is_the_sample(cuts, cache):
    places = [0, *sorted(cuts), 12]
    data = [(X[a:b], Y[a:b]) for a, b in zip(places, places[1:], strict=False)]  # noqa: RUF007
    A = hessian(data, cache=cache)
    torch.testing.assert_close(A @ V, WHOLE @ V, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(A.gradient, WHOLE.gradient, rtol=1e-5, atol=1e-6)
    assert pytest.approx(WHOLE.loss, rel=1e-5) == A.loss


class Loader:
    """Any object that can be read again and again."""

    def __init__(self, order):
        self.order, self.reads = order, 0

    def __iter__(self):
        order = self.order(self.reads)
        self.reads += 1
        return ((X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]) for i in order)


@pytest.mark.parametrize(
    ("data", "cache"),
    [
        (DataLoader(TensorDataset(X, Y), batch_size=5), "none"),
        (DataLoader(TensorDataset(X, Y), batch_size=5), "graph"),
        (((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)), "none"),
        (iter([(X, Y)]), "graph"),
        (Loader(lambda reads: (0, 1, 2)), "none"),
        (Loader(lambda reads: (0, 1, 2)), "auto"),
    ],
)
def test_kinds_of_data(data, cache):
    A = hessian(data, cache=cache)
    for _ in range(2):
        torch.testing.assert_close(A @ V, WHOLE @ V, rtol=1e-5, atol=1e-6)


def test_data_are_read_once_where_graphs_are_kept():
    loader = Loader(lambda reads: (0, 1, 2))
    A = hessian(loader, cache="graph")
    A @ V
    A @ V
    assert loader.reads == 1


ORDERS = {
    "turned": lambda reads: (0, 1, 2) if reads == 0 else (2, 1, 0),
    "one less": lambda reads: (0, 1, 2)[: 3 - reads],
    "one more": lambda reads: (0, 1, 2, 0)[: 3 + reads],
    "another": lambda reads: (0, 1, 2) if reads == 0 else (0, 1, 1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_data_that_change_are_noticed(order):
    A = hessian(Loader(ORDERS[order]), cache="none")
    with pytest.raises(ValueError, match=r"give list\(loader\)|Give list\(loader\)"):
        A @ V


def test_samples_that_move_between_batches_are_noticed():
    numbers = random.Random(0)

    class Shuffled:
        def __iter__(self):
            rows = list(range(12))
            numbers.shuffle(rows)
            return iter([(X[rows[:6]], Y[rows[:6]]), (X[rows[6:]], Y[rows[6:]])])

    A = hessian(Shuffled(), cache="none")
    with pytest.raises(ValueError, match="another order"):
        A @ V


def test_loaders_that_shuffle_are_refused_at_once():
    calls = []

    def counted(batch):
        calls.append(batch)
        return loss(batch)

    for options in (
        {"shuffle": True},
        {"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 12, 12)},
    ):
        loader = DataLoader(TensorDataset(X, Y), batch_size=4, **options)
        with pytest.raises(ValueError, match="shuffle=False"):
            kt.HessianOperator(counted, MODEL.parameters(), data=loader)
    assert not calls


def test_functions_that_change_are_noticed():
    scale = [1.0]
    A = kt.HessianOperator(
        lambda batch: scale[0] * loss(batch), MODEL.parameters(), data=[(X, Y)], cache="none"
    )
    A @ V
    scale[0] = 1.1
    with pytest.raises(RuntimeError, match="not deterministic"):
        A @ V


def test_batches_with_nan_are_equal_to_themselves():
    x = X.clone()
    x[0, 0] = float("nan")
    A = hessian([(x, Y)], cache="none")
    assert (A @ V).isnan().any()
    A = hessian([(X, Y, torch.full((12,), float("nan")), torch.ones(12, 2) * 1j)], cache="none")
    torch.testing.assert_close(A @ V, WHOLE @ V)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ([], {}, ValueError, "it gave no micro-batch"),
        (iter(()), {}, ValueError, "it gave no micro-batch"),
        ([], {"weights": []}, ValueError, "it gave no micro-batch"),
        ([(X[:0], Y[:0])], {}, ValueError, "have no samples"),
        (X, {}, TypeError, r"not Tensor: give \[batch\]"),
        (5, {}, TypeError, "must be an iterable of batches, not int"),
        ([(X, Y)], {"weights": []}, ValueError, "1 micro-batches, but there are 0 weights"),
        (
            Loader(lambda reads: (0, 1)),
            {"weights": [1.0]},
            ValueError,
            "2 micro-batches, but there are 1",
        ),
        (
            Loader(lambda reads: (0,)),
            {"weights": [1.0, 2]},
            ValueError,
            "1 micro-batches, but there are 2",
        ),
        ([(X, Y)], {"weights": ["1"]}, ValueError, "weights must be a number"),
    ],
)
def test_data_that_do_not_fit(data, options, error, words):
    with pytest.raises(error, match=words):
        hessian(data, **options)


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (X, 12),
        ((X[:5], Y[:5]), 5),
        ([[], [Y[:3]]], 3),
        ({"a": "text", "x": X[:7]}, 7),
        (UserDict(x=X[:2]), 2),
        (Pair(X[:4], None), 4),
        (torch.tensor(1.0), 1),
        ((1, (2, X[:6])), 6),
    ],
)
def test_samples_of_a_batch(batch, count):
    assert sample_count(batch) == count


@pytest.mark.parametrize("batch", [None, 3, "text", [], {}, b"bytes", [1, "two"]])
def test_batches_without_a_tensor(batch):
    with pytest.raises(TypeError, match="holds no tensor; give weights"):
        sample_count(batch)
    A = kt.HessianOperator(
        lambda _: loss((X, Y)), MODEL.parameters(), data=[batch, batch], weights=[0.5, 0.5]
    )
    torch.testing.assert_close(A @ V, WHOLE @ V)


def test_mean():
    mean = Mean(PARAMETERS)
    for weight, value in ((3, 1.0), (1, 5.0)):
        mean.add(torch.tensor(value), [torch.full((4, 3), value), None], weight)
    value, gradient, weights = mean.finish(normalise=True)
    assert (value, weights) == (2.0, [0.75, 0.25])
    assert torch.equal(gradient, torch.cat([torch.full((12,), 2.0), torch.zeros(4)]))


def test_graphs_come_with_their_weights():
    data = [(X[:3], Y[:3]), (X[3:], Y[3:])]
    A = hessian(data)
    found = list(A.graphs())
    assert [weight for weight, _ in found] == [0.25, 0.75]
    assert pytest.approx(A.loss) == sum(w * float(graph.loss) for w, graph in found)


def test_cache_must_be_known():
    with pytest.raises(ValueError, match="auto, graph, none"):
        MicroBatches(PARAMETERS, lambda batch: None, [X], cache="all")


# Memory.


def test_bytes_of_a_graph():
    width, samples = 50, 200
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    x = torch.randn(samples, width)
    value = model(x).square().mean()
    layer, weights = 4 * samples * width, 4 * width * width
    held = held_bytes([value])
    assert 3 * layer <= held <= 4 * layer + 2 * weights
    assert held_bytes([torch.ones(3)]) == 0
    # Views share their memory, lists of tensors count.
    z = torch.randn(100, requires_grad=True)
    assert held_bytes([(z * z).sum()]) == 400
    assert held_bytes([nn.LSTM(width, width)(x[None])[0].sum()]) > layer


def test_free_memory_is_known_here():
    free = available_bytes(torch.device("cpu"))
    assert 1 << 20 < free < 1 << 50
