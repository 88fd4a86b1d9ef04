"""Map-style datasets as samples: put together once, or refused with what to do."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import krylov.torch as kt
from krylov.torch.training.samples import as_samples


class Items(torch.utils.data.Dataset):
    """What a list holds; counts what is read."""

    def __init__(self, items):
        self.items, self.read = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read += 1
        return self.items[index]


def test_items_of_a_dataset_are_put_together_as_a_loader_does():
    items = [(torch.randn(2, 3, requires_grad=True), label) for label in range(5)]
    dataset = Items([*items, (torch.zeros(2, 3), np.int64(7))])
    samples = as_samples(dataset, "data")
    assert dataset.read == 6
    inputs, targets = next(iter(torch.utils.data.DataLoader(dataset, batch_size=6)))
    assert torch.equal(samples.inputs, inputs)
    assert torch.equal(samples.targets, targets)
    assert samples.targets.dtype == torch.int64
    assert not samples.inputs.requires_grad
    part = as_samples(torch.utils.data.Subset(dataset, [4, 1]), "held_out")
    assert torch.equal(part.inputs, inputs[[4, 1]])
    arrays = as_samples(Items([(np.ones(3, np.float32), np.zeros(2))] * 2), "data")
    assert (arrays.inputs.dtype, arrays.targets.shape) == (torch.float32, (2, 2))


class NoLength(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return torch.zeros(3), 0


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 0


X = torch.zeros(3)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (NoLength(), TypeError, "data: NoLength has no length"),
        (Stream(), TypeError, "map-style Dataset.*got Stream"),
        (torch.utils.data.DataLoader(Items([(X, 0)])), TypeError, "DataLoader: give its dataset"),
        (Items([]), ValueError, "data: there are no samples"),
        (Items([X]), TypeError, "item 0 must be a pair.*got a Tensor"),
        (Items([(X, 0), (X, 0, 1)]), TypeError, "item 1 must be a pair.*got a tuple of 3"),
        (torch.utils.data.TensorDataset(X, X, X), TypeError, "got a tuple of 3"),
        (Items([(X, "cat")]), TypeError, "item 0 must be a pair"),
        (Items([(X, object())]), TypeError, "item 0 must be a pair"),
        (
            Items([(X, 0), (torch.zeros(4), 0)]),
            ValueError,
            r"inputs of item 1 are \(4,\) of float32, those of item 0 \(3,\)",
        ),
        (Items([(X, 0), (X, 0.5)]), ValueError, r"targets of item 1 are \(\) of float64"),
    ],
)
def test_datasets_that_are_refused(data, error, words):
    with pytest.raises(error, match=words):
        as_samples(data, "data")


def test_a_dataset_that_does_not_fit_is_refused_by_its_first_item(monkeypatch):
    monkeypatch.setattr("krylov.torch.training.collate.available_bytes", lambda device: 100)
    dataset = Items([(torch.zeros(8), 0)] * 3)
    with pytest.raises(RuntimeError, match=r"3 items would need .*\.Subset"):
        as_samples(dataset, "data")
    assert dataset.read == 1


def test_fit_trains_on_a_dataset_as_on_its_tensors():
    inputs, targets = torch.randn(30, 4), torch.randn(30, 1)
    dataset = Items(list(zip(inputs, targets, strict=True)))

    def losses(data, held_out):
        model, options = kt.mlp(4, 1, (3,)), {"steps": 2, "progress": False}
        history = kt.fit(model, torch.nn.MSELoss(), data, held_out=held_out, **options)
        return history.column("held_out_loss")

    parts = [torch.utils.data.Subset(dataset, part) for part in (range(20), range(20, 30))]
    assert losses(*parts) == losses((inputs[:20], targets[:20]), (inputs[20:], targets[20:]))
