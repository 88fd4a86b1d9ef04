"""Data by name: splits, and complaints that name file, row and cure."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import gzip
import sys
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from krylov.torch.training.data import _split, load_data
from krylov.torch.training.idx import read_idx
from krylov.torch.training.samples import Samples, as_samples, check_finite, check_targets
from krylov.torch.training.table import read_table

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array):
    shape = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder like MNIST's, half of it gzipped, with 30 and 10 images of 4 x 4."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        count = 30 if name.startswith("train") else 10
        shape = (count, 4, 4) if "images" in name else (count,)
        content = idx(rng.integers(0, 256 if "images" in name else 10, shape))
        if name.startswith("t10k"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@contextmanager
def complaint_about(path):
    """Any ValueError names the file."""
    try:
        yield
    except ValueError as error:
        if str(path) not in str(error):
            raise


def test_digits():
    pytest.importorskip("sklearn")
    data = load_data("digits")
    assert (len(data.train), len(data.held_out), len(data.test)) == (1437, 180, 180)
    assert (data.classes, data.outputs, data.sample_shape) == (10, 10, (1, 8, 8))
    assert float(data.train.inputs.max()) == 1.0
    again = load_data("digits")
    assert torch.equal(again.train.inputs, data.train.inputs)
    assert not torch.equal(load_data("digits", seed=1).train.targets, data.train.targets)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_data("digits")


def test_mnist(mnist):
    data = load_data("mnist", mnist, held_out=0.2, train_size=10)
    assert (len(data.train), len(data.held_out), len(data.test)) == (10, 6, 10)
    assert data.train.inputs.shape == (10, 1, 4, 4)
    assert data.outputs == 10
    whole = load_data("mnist", mnist, held_out=0)
    images = read_idx(mnist / NAMES[0], 3) / 255
    labels = read_idx(mnist / NAMES[1], 1)
    found = {
        (tuple(x.flatten().tolist()), int(y))
        for x, y in zip(whole.train.inputs, whole.train.targets, strict=True)
    }
    wanted = {
        (tuple(np.float32(x).flatten().tolist()), int(y))
        for x, y in zip(images, labels, strict=True)
    }
    assert found == wanted
    assert whole.held_out is None


def test_reconstruction_and_precision(mnist):
    data = load_data("mnist", mnist).reconstruction().to(torch.float64)
    assert data.train.targets is data.train.inputs
    assert data.train.inputs.shape == (27, 16)
    assert data.train.inputs.dtype == torch.float64
    assert (data.classes, data.outputs) == (None, 16)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(mnist, name):
    for path in mnist.glob(f"{name}*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"no {name} or {name}.gz there"):
        load_data("mnist", mnist)


@pytest.mark.parametrize(
    ("name", "spoil", "word"),
    [
        (NAMES[0], lambda content: content[:-1], "truncated.*header announces"),
        (NAMES[0], lambda content: content[:9], "truncated, only 9 bytes"),
        (NAMES[0], lambda content: b"", "truncated, only 0 bytes"),
        (NAMES[0], lambda content: content + b"x", "too long"),
        (NAMES[1], lambda content: b"\x00\x00\x0d" + content[3:], "not an idx file of bytes"),
        (NAMES[0], lambda content: b"hello" * 10, "not an idx file"),
        (NAMES[1], lambda content: idx(np.zeros(29)), "29 labels for the 30 images"),
        (f"{NAMES[2]}.gz", lambda content: content[:-20], "truncated"),
        (f"{NAMES[2]}.gz", lambda content: b"not zipped", "not a gzip file"),
    ],
)
def test_spoilt_file(mnist, name, spoil, word):
    path = mnist / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=word) as complaint:
        load_data("mnist", mnist)
    assert name in str(complaint.value)


@given(content=st.binary(max_size=40))
def test_any_bytes_are_an_array_or_a_complaint(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-idx1-ubyte"
    path.write_bytes(content)
    with complaint_about(path):
        assert read_idx(path, 1).nbytes == len(content) - 8


def test_huge_header_needs_no_memory(tmp_path):
    path = tmp_path / "huge"
    path.write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12)
    with pytest.raises(ValueError, match="truncated"):
        read_idx(path, 3)


def test_classes_from_a_table(table):
    data = load_data("csv", table("a,b,kind\n1,2,cat\n3,4,dog\n5,6,cat\n"), held_out=0, test=0)
    assert data.classes == 2
    assert sorted(data.train.targets.tolist()) == [0, 0, 1]
    torch.testing.assert_close(data.train.inputs.mean(0), torch.zeros(2), atol=1e-6, rtol=0)


def test_regression_from_a_table(table):
    path = table("1,0.5,9\r\n2,1.5,9\r\n3,4.5,9\r\n", "t.csv.gz")
    data = load_data("csv", path, target="2", held_out=0, test=0)
    assert (data.classes, data.outputs) == (None, 1)
    assert data.train.targets.shape == (3, 1)
    assert float(data.train.targets.std(correction=0)) == pytest.approx(1)
    assert float(data.train.inputs[:, 1].abs().max()) == 0  # a constant column stays finite


def test_whole_targets_are_classes_unless_told_otherwise(table):
    path = table("x,y\n1,10\n2,9\n3,10\n")
    assert load_data("csv", path, held_out=0, test=0).classes == 2
    assert load_data("csv", path, held_out=0, test=0, task="regression").classes is None


def test_columns_can_be_left_out(table):
    data = load_data("csv", table("id,x,y\nu,1,0\nv,2,1\n"), drop=["id"], held_out=0, test=0)
    assert data.sample_shape == (1,)


def test_a_folder_with_its_own_test_set(table, tmp_path):
    table("x,y\n1,a\n2,b\n3,b\n", "train.csv")
    table("x,y\n5,b\n", "test.csv")
    data = load_data("csv", tmp_path, held_out=0)
    assert (len(data.train), len(data.test)) == (3, 1)
    assert data.test.targets.tolist() == [1]
    # Scaled as the training samples are: (5 - 2) / sqrt(2 / 3).
    assert float(data.test.inputs) == pytest.approx(3 / (2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "no rows"),
        ("a,b\n", {}, "names of columns but no rows"),
        ("a,b\n1,2\n1\n", {}, "row 3 has 1 columns, the first row has 2"),
        ("a,b\n1,2\n,2\n", {}, "row 3, column 'a': missing"),
        ("a,b\n1,2\nnan,2\n", {}, "row 3, column 'a': nan"),
        ("a,b\n1,2\ninf,2\n", {}, "row 3, column 'a': inf"),
        ("a,b\n1,2\nfoo,2\n", {}, "row 3, column 'a': 'foo' is not a number"),
        ("a,b\n1,2\n1,\n", {}, "row 3, column 'b': the target is missing"),
        ("a,b\n1,2\n", {"target": "c"}, "no column 'c'; there are a, b"),
        ("a,b\n1,2\n", {"drop": ["b"]}, "cannot be the target and be left out"),
        ("a,b\n1,2\n", {"drop": ["a"]}, "no columns beside the target"),
        ("a,b\n1,x\n2,3\n", {"task": "regression"}, "row 2, column 'b': 'x' is no target"),
        ('a,b\n"1,2\n', {}, "not a CSV file"),
        ("a,b\n1,2\n3,4\n", {"train_size": 9}, "train_size asks for 9"),
    ],
)
def test_spoilt_table(table, text, options, words):
    path = table(text)
    with pytest.raises(ValueError, match=words) as complaint:
        load_data("csv", path, **({"held_out": 0, "test": 0} | options))
    assert "train_size" in options or str(path) in str(complaint.value)


def test_unknown_class_in_the_test_file(table, tmp_path):
    table("x,y\n1,a\n2,b\n", "train.csv")
    table("x,y\n5,b\n6,c\n", "test.csv")
    with pytest.raises(ValueError, match=r"test\.csv: row 3, column 'y': 'c' is none of the 2"):
        load_data("csv", tmp_path)
    table("z,y\n5,b\n", "test.csv")
    with pytest.raises(ValueError, match="other columns"):
        load_data("csv", tmp_path)


@given(text=st.text(alphabet='1a.,\n\r"; \0', max_size=40))
def test_any_text_is_a_table_or_a_complaint(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(text, newline="")
    with complaint_about(path):
        assert np.isfinite(read_table(path).features).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cifar",), "digits, mnist, csv"),
        (("mnist",), "needs a path"),
        (("mnist", "/none"), "no such folder"),
        (("csv", "/none.csv"), "no such file"),
    ],
)
def test_bad_names(arguments, words):
    with pytest.raises(ValueError, match=words):
        load_data(*arguments)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_bad_shares(share):
    with pytest.raises(ValueError, match="held_out"):
        load_data("digits", held_out=share)


@given(count=st.integers(1, 50), held_out=st.floats(0, 0.9), test=st.floats(0, 0.9))
def test_splits_are_a_partition(count, held_out, test):
    rows = torch.arange(count)
    try:
        parts = _split(Samples(rows, rows), held_out, test, None, 0)
    except ValueError:
        assert round(held_out * count) + round(test * count) >= count
        return
    found = torch.cat([part.inputs for part in parts if part is not None])
    assert sorted(found.tolist()) == rows.tolist()


def test_nan_is_named_with_its_place():
    inputs = torch.zeros(5, 2)
    inputs[3, 1] = torch.nan
    samples = as_samples((inputs, torch.zeros(5)), "data")
    with pytest.raises(ValueError, match=r"1 of the 5 rows of the training inputs.*\(3, 1\)"):
        check_finite(samples, "training")


@pytest.mark.parametrize(
    ("loss", "targets", "words"),
    [
        (
            torch.nn.CrossEntropyLoss(),
            torch.tensor([0, 1, 2, 1]),
            r"outside 0 \.\.\. 1.*first is 2 at index \(2,\)",
        ),
        (torch.nn.CrossEntropyLoss(), torch.tensor([0, -1, 1, 1]), "first is -1"),
        (torch.nn.MSELoss(), torch.zeros(4), "reshape the targets"),
        (torch.nn.BCEWithLogitsLoss(), torch.full((4, 2), 2.0), "between 0 and 1"),
    ],
)
def test_targets_that_do_not_fit(loss, targets, words):
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=words):
        check_targets(model, loss, Samples(torch.zeros(4, 3), targets), "training")


def test_ignored_labels_are_fine():
    targets = torch.tensor([0, -100, 1, 1])
    check_targets(
        torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), Samples(torch.zeros(4, 3), targets), "x"
    )


@pytest.mark.parametrize(
    "data", [None, torch.zeros(3), (torch.zeros(3),), (np.zeros(3), np.zeros(3))]
)
def test_what_is_no_data(data):
    with pytest.raises(TypeError, match="pair of tensors"):
        as_samples(data, "data")


def test_pairs_of_unequal_length():
    with pytest.raises(ValueError, match="as many rows"):
        as_samples((torch.zeros(3), torch.zeros(4)), "data")
    with pytest.raises(ValueError, match="no samples"):
        as_samples((torch.zeros(0), torch.zeros(0)), "data")
