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
