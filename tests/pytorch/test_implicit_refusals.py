"""What a differentiable solve refuses."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

torch = pytest.importorskip("torch")
from implicit_cases import (  # noqa: E402
    B2,
    EYE,
    MATRIX,
    THETA,
    TIGHT,
    VALUES,
    B,
    Counting,
    Duck,
    N,
    by_product,
    definite,
    sparse,
    square,
)
from torch.autograd import forward_ad, gradcheck  # noqa: E402

from krylov.torch.implicit import solve  # noqa: E402

# Products that autograd cannot follow


def opaque(v):
    return torch.from_numpy(MATRIX @ v.detach().numpy())


def constant_in_v(v):
    return (square(THETA) @ v.detach()).clone()


@pytest.mark.parametrize("A", [opaque, constant_in_v])
def test_no_adjoint_of_a_callable(A):
    x = solve(A, B, "bicgstab")
    with pytest.raises(RuntimeError, match=r"adjoint of A.*give adjoint="):
        x.sum().backward()


def test_no_adjoint_of_a_scipy_operator():
    A = LinearOperator((N, N), matvec=lambda x: MATRIX @ x, dtype=np.float64)
    x = solve(A, B, "bicgstab")
    with pytest.raises(RuntimeError, match=r"adjoint of A.*its rmatvec fails.*give adjoint="):
        x.sum().backward()


def test_products_that_numpy_makes():
    """They are constant; with a Hermitian A nothing else is needed."""
    matrix = definite(THETA).detach().numpy()
    A = {
        "numpy": lambda v: matrix @ v.numpy(),
        "torch": lambda v: torch.from_numpy(matrix @ v.numpy()),
    }
    for product in A.values():
        assert gradcheck(lambda b, product=product: solve(product, b, **TIGHT), (B,))


def test_second_derivatives_need_products_that_follow_v():
    x = solve(lambda v: definite(THETA) @ v.detach(), B, **TIGHT)
    truth = torch.linalg.solve(definite(THETA), B)
    torch.testing.assert_close(
        torch.autograd.grad(x.sum(), THETA, retain_graph=True),
        torch.autograd.grad(truth.sum(), THETA),
    )
    with pytest.raises(RuntimeError, match="do not detach v"):
        torch.autograd.grad(x.sum(), THETA, create_graph=True)


def test_second_derivatives_need_an_adjoint_that_depends_too():
    matrix = square(THETA)
    x = solve(by_product(matrix), B, "bicgstab", adjoint=by_product(matrix.detach().mT), **TIGHT)
    torch.autograd.grad(x.sum(), THETA, retain_graph=True)
    with pytest.raises(RuntimeError, match="depends on the same tensors as A"):
        torch.autograd.grad(x.sum(), THETA, create_graph=True)


# -------------------------------------------------------------------------------------------------# Bad input


def with_beta_layout(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


BF16 = Duck(EYE.to(torch.bfloat16))
BAD = {
    "b no tensor": (EYE, np.ones(N), {}, TypeError, "b must be a torch tensor, not ndarray"),
    "b a number": (EYE, torch.tensor(1.0), {}, ValueError, r"shape is \(\)"),
    "b of three": (EYE, torch.ones(N, 1, 1), {}, ValueError, r"\(6, 1, 1\)"),
    "b sparse": (EYE, torch.ones(N).to_sparse(), {}, TypeError, "to_dense"),
    "b integer": (EYE, torch.ones(N, dtype=torch.int64), {}, TypeError, "b is torch.int64"),
    "b half": (EYE, torch.ones(N, dtype=torch.bfloat16), {}, TypeError, "b is torch.bfloat16"),
    "b meta": (EYE.to("meta"), B.detach().to("meta"), {}, TypeError, "device 'meta'"),
    "b nan": (EYE, torch.full_like(B, torch.nan), {}, ValueError, "b contains nan at index 0"),
    "A size": (EYE[:5, :5], B, {}, ValueError, r"A has shape \(5, 5\), but b has 6 rows"),
    "A not square": (EYE[:5], B, {}, ValueError, r"square matrix, but its shape is \(5, 6\)"),
    "A vector": (B, B, {}, ValueError, r"square matrix, but its shape is \(6,\)"),
    "A batch": (EYE[None], B, {}, ValueError, r"\(1, 6, 6\)"),
    "A dtype": (EYE.float(), B, {}, TypeError, "A is torch.float32 and b is torch.float64"),
    "A device": (EYE.to("meta"), B, {}, TypeError, "A is on device 'meta' and b on 'cpu'"),
    "A wider": (MATRIX, B.detach().float(), {}, TypeError, "A is float64.*float32 of b"),
    "A complex": (MATRIX * 1j, B, {}, TypeError, "A is complex128.*float64 of b"),
    "A half": (BF16, B, {}, TypeError, "A is torch.bfloat16.*float64 of b"),
    "A hybrid": (
        torch.sparse_coo_tensor([[0]], EYE[:1], (N, N), check_invariants=True),
        B,
        {},
        TypeError,
        "hybrid",
    ),
    "A csc that requires grad": (
        sparse(VALUES.detach(), "to_sparse_csc").requires_grad_(),
        B,
        {},
        TypeError,
        "sparse_csc and requires grad.*to_sparse",
    ),
    "A in blocks": (
        with_beta_layout(lambda: EYE.to_sparse_bsr((2, 2))),
        B,
        {},
        TypeError,
        "sparse_bsr: convert it with",
    ),
    "A of a strange layout": (
        EYE.float().to_mkldnn(),
        B,
        {},
        TypeError,
        "A is torch._mkldnn: convert it with",
    ),
    "A nothing": (None, B, {}, TypeError, "A must be an array.*not NoneType"),
    "A returns nothing": (lambda v: None, B, {}, TypeError, "A returned None"),
    "A returns a part": (lambda v: v[:2], B, {}, ValueError, r"A returned shape \(2,\)"),
    "A writes": (lambda v: v.mul_(2), B, {}, ValueError, "A has written into the vector"),
    "method": (EYE, B, {"method": "gmres"}, ValueError, "method must be one of cg,.*'gmres'"),
    "option": (EYE, B, {"tol": 1}, TypeError, "method='cg' has no option 'tol'; there are atol,"),
    "radius": (EYE, B, {"radius": 1.0}, TypeError, "no option 'radius'"),
    "out": (EYE, B, {"out": B}, TypeError, "no option 'out'"),
    "boundary": (EYE, B, {"curvature": "boundary"}, ValueError, "does not solve A x = b"),
    "rtol": (EYE, B, {"rtol": -1}, ValueError, "rtol must be a number"),
    "maxiter": (EYE, B, {"maxiter": 1.5}, TypeError, "maxiter must be an integer"),
    "x0 shape": (EYE, B, {"x0": B[:2]}, ValueError, "x0 has shape"),
    "x0 dtype": (EYE, B, {"x0": B.float()}, ValueError, "x0 has dtype torch.float32"),
    "x0 array": (EYE, B, {"x0": np.ones(N)}, TypeError, "x0 must be a torch tensor"),
    "x0 word": (EYE, B, {"x0": "b"}, TypeError, "x0 must be a torch tensor or 'Mb'"),
    "M size": (EYE, B, {"M": EYE[:5, :5]}, ValueError, "M"),
    "adjoint of cg": (EYE, B, {"adjoint": EYE}, ValueError, "adjoint is for bicgstab and neumann"),
    "adjoint size": (
        EYE,
        B,
        {"method": "bicgstab", "adjoint": EYE[:5, :5]},
        ValueError,
        r"adjoint has shape \(5, 5\)",
    ),
}


@pytest.mark.parametrize(("A", "b", "options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(A, b, options, error, message):
    with pytest.raises(error, match=message):
        solve(A, b, **options)


@pytest.mark.parametrize(
    "options", [{"tol": 1}, {"x0": B[:2]}, {"method": "no"}, {"rtol": "a"}, {"M": B}]
)
def test_nothing_is_done_before_the_error(options):
    A = Counting(EYE)
    with pytest.raises((TypeError, ValueError)):
        solve(A, B, **options)
    assert A.count == 0


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.complex64, torch.int32, torch.float16]
)
layouts = st.sampled_from([torch.strided, torch.sparse_coo])
tensors = st.builds(torch.eye, st.integers(0, 4)) | st.builds(
    lambda shape, dtype, layout: (
        torch.ones(shape, dtype=dtype).to_sparse()
        if shape and layout is torch.sparse_coo
        else torch.ones(shape, dtype=dtype)
    ),
    shapes,
    dtypes,
    layouts,
)


@settings(max_examples=200, deadline=None)
@given(A=tensors, b=tensors, x0=st.none() | tensors, M=st.none() | tensors)
def test_whatever_fits_is_solved_and_whatever_does_not_is_named(A, b, x0, M):
    try:
        x = solve(A, b, x0=x0, M=M, check=False)
    except (TypeError, ValueError) as error:
        assert re.search(r"\b(A|b|x0|M)\b", str(error))  # noqa: PT017
    else:
        assert (x.shape, x.dtype) == (b.shape, b.dtype)


# torch compiles decompositions for forward mode with its own deprecated tool.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@forward_mode
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.vmap(f)(B2.detach().T),
        lambda f: torch.func.grad(lambda b: f(b).sum())(B.detach()),
        lambda f: torch.func.jvp(f, (B.detach(),), (B.detach(),)),
        lambda f: torch.func.jacrev(f)(B.detach()),
    ],
    ids=["vmap", "grad", "jvp", "jacrev"],
)
def test_function_transforms_are_refused(transform):
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        transform(lambda b: solve(3 * EYE, b))


@forward_mode
@pytest.mark.parametrize("where", ["A", "b", "captured"])
def test_forward_mode_is_refused(where):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(3 * EYE, EYE)
        A, b = (
            (3 * EYE, forward_ad.make_dual(B.detach(), B.detach())) if where == "b" else (dual, B)
        )
        A = by_product(dual) if where == "captured" else A
        with pytest.raises(RuntimeError, match="forward-mode tangent"):
            solve(A, b)
