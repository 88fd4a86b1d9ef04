"""Vectors and matrices of another library, on this device and on another."""

from __future__ import annotations

import numpy as np
import pytest
from inputs.common import METHODS, random, spd

N = 6
methods = pytest.mark.parametrize("method", METHODS)


@methods
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_tensor_of_another_device(method):
    """A meta tensor stands in for a GPU that this machine may lack."""
    torch = pytest.importorskip("torch")
    here, there = (
        torch.ones(N, dtype=torch.float64),
        torch.ones(N, device="meta", dtype=torch.float64),
    )
    A = torch.eye(N, dtype=torch.float64)
    calls = [
        ("A", A.to("meta"), here, {}),
        ("b", A, there, {}),
        ("x0", A, here, {"x0": there}),
        ("out", A, here, {"out": there}),
        ("M", A, here, {"M": A.to("meta")}),
        ("A", A.to_sparse_csr().to("meta"), here, {}),
    ]
    for name, matrix, b, options in calls:
        with pytest.raises(TypeError, match=rf"{name} is on device 'meta'.*CPU"):
            METHODS[method](matrix, b, **options)
    with pytest.raises(TypeError, match=r"A returned.* device 'meta'"):
        METHODS[method](lambda v: v.to("meta"), here)


@methods
def test_tensors_of_unusual_make(method):
    torch = pytest.importorskip("torch")
    A, b = torch.from_numpy(spd(N)), torch.from_numpy(random(N))
    expected = METHODS[method](A.numpy(), b.numpy()).x
    forms = {
        "strided": torch.repeat_interleave(b, 2)[::2],
        "needs grad": b.clone().requires_grad_(),
        "negated view": torch.complex(torch.zeros_like(b), -b).conj().imag,
        "column": b.reshape(N, 1),
    }
    for name, form in forms.items():
        result = METHODS[method](A, form)
        assert isinstance(result.x, torch.Tensor), name
        assert not result.x.requires_grad
        np.testing.assert_array_equal(result.x.numpy(), expected, err_msg=name)
    repeated = torch.ones(1, dtype=torch.float64).expand(N)
    x = METHODS[method](A, repeated).x
    np.testing.assert_array_equal(x.numpy(), METHODS[method](A.numpy(), np.ones(N)).x)
    half = METHODS[method](A, b.to(torch.float16), maxiter=500)
    assert half.x.dtype == torch.float64
    assert half.outcome.ok


@methods
def test_tensors_that_are_refused(method):
    torch = pytest.importorskip("torch")
    A, b = torch.from_numpy(spd(N)), torch.ones(N, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"\bb\b.*sparse"):
        METHODS[method](A, b.to_sparse())
    with pytest.raises(TypeError, match=r"\bb\b.*bfloat16"):
        METHODS[method](A, b.to(torch.bfloat16))
    with pytest.raises(TypeError, match=r"\bA\b.*bfloat16"):
        METHODS[method](A.to(torch.bfloat16), b)


LAYOUTS = {
    "coo": lambda A: A.to_sparse_coo(),
    "csr": lambda A: A.to_sparse_csr(),
    "csc": lambda A: A.to_sparse_csc(),
    "bsr": lambda A: A.to_sparse_bsr((2, 3)),
    "bsc": lambda A: A.to_sparse_bsc((3, 2)),
}


@methods
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["f4", "f8", "c16"])
@pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse BS[RC] tensor support:UserWarning")
def test_every_sparse_layout(method, layout, kind):
    torch = pytest.importorskip("torch")
    A, b = torch.from_numpy(spd(N, kind)), torch.from_numpy(random(N, dtype=kind))
    A[0, 3:] = A[3:, 0] = 0  # something to leave out
    expected = METHODS[method](A, b)
    assert expected.niter > 0
    result = METHODS[method](LAYOUTS[layout](A), b)
    assert isinstance(result.x, torch.Tensor)
    tolerance = 1e-4 if kind == "f4" else 1e-9
    torch.testing.assert_close(result.x, expected.x, rtol=tolerance, atol=tolerance)


def test_entries_that_stand_twice():
    torch = pytest.importorskip("torch")
    A = torch.sparse_coo_tensor(
        [[0, 0, 1], [0, 0, 1]], [1.0, 1.0, 4.0], (2, 2), check_invariants=True
    )
    assert not A.is_coalesced()
    torch.testing.assert_close(METHODS["cg"](A, torch.ones(2)).x, torch.tensor([0.5, 0.25]))


def corrupt(torch, layout):
    parts = torch.tensor([0, 1, 2]), torch.tensor([0, 9]), torch.ones(2)
    if layout.startswith("bs"):
        parts = (*parts[:2], torch.ones(2, 2, 2))
    size = (4, 4) if layout.startswith("bs") else (2, 2)
    kind = getattr(torch, f"sparse_{layout}")
    return torch.sparse_compressed_tensor(*parts, size, layout=kind, check_invariants=False)


@methods
@pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse BS[RC] tensor support:UserWarning")
def test_matrices_that_are_refused(method):
    torch = pytest.importorskip("torch")
    A = torch.eye(4)
    for matrix, error, words in (
        (A.to_mkldnn(), TypeError, r"A has the layout torch._mkldnn.*to_dense"),
        (A.to_sparse(1), TypeError, "A is a hybrid sparse tensor"),
        (torch.stack([A, A]).to_sparse_csr(), ValueError, r"A must be.* square.*\(2, 4, 4\)"),
        (A[0].to_sparse(), ValueError, r"A must be.* square.*\(4,\)"),
        (torch.ones(4, 6).to_sparse_bsr((2, 2)), ValueError, r"A must be square.*\(4, 6\)"),
    ):
        with pytest.raises(error, match=words):
            METHODS[method](matrix, torch.ones(4))
    for layout in ("csc", "bsr", "bsc"):
        matrix = corrupt(torch, layout)
        with pytest.raises(ValueError, match=f"A is no valid torch.sparse_{layout} tensor"):
            METHODS[method](matrix, torch.ones(matrix.shape[0]))
