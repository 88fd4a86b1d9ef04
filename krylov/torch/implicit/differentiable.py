"""A linear solve that autograd can differentiate."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

import krylov
from krylov.checks import choice
from krylov.torch.implicit.adjoint import attach
from krylov.torch.implicit.linear_map import refuse_tangent
from krylov.torch.implicit.linear_system import HERMITIAN, System
from krylov.torch.implicit.operands import as_linear_map, refuse_unfit_matrix

__all__ = ["solve"]

_METHODS = ("cg", "flexible_cg", "bicgstab", "neumann")
_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
# What would make x another function of A and b than the solution, or what this function gives itself.
_NOT_OPTIONS = frozenset({"A", "b", "x0", "M", "rtol", "maxiter", "radius", "candidates", "out"})


def solve(
    A: Any,
    b: Tensor,
    method: Literal["cg", "flexible_cg", "bicgstab", "neumann"] = "cg",
    *,
    x0: Tensor | Literal["Mb"] | None = None,
    M: Any = None,
    rtol: float = 1e-5,
    maxiter: int | None = None,
    adjoint: Any = None,
    check: bool = True,
    **options: Any,
) -> Tensor:
    """Solve ``A x = b``; the backward pass solves ``A^H u = grad`` with the same settings.

    Gradients reach b, and every tensor that A depends on: a tensor A itself, or what a callable has captured.

    Parameters
    ----------
    A : tensor, sparse tensor, callable, object with shape and matvec, SciPy or NumPy matrix, or LinearOperator
        The operator, n by n. A callable maps a vector of shape (n,) to the product; it may use tensors that require
        grad, and must not detach what gradients shall reach: in a Hessian product by `torch.autograd.grad` that is
        ``create_graph=True``. Operators of SciPy and NumPy are constant.
    b : Tensor of shape (n,) or (n, k)
        Right-hand side; k columns are k solves. float32, float64, complex64 or complex128.
    method : {"cg", "flexible_cg", "bicgstab", "neumann"}
        Solver. The first two need a Hermitian positive definite A; gradients are then those of the solve, as a function
        of all entries of A.
    x0 : Tensor of the shape of b, or "Mb", optional
        Start of the forward solve; x does not depend on it.
    M : like A, or a preconditioner of `krylov`, optional
        Approximate inverse of A, constant. `bicgstab` and `neumann` take its adjoint in the backward pass, or where it
        has none M itself.
    rtol, maxiter
        As in `krylov.cg`. The relative error of gradients is that of both solves: about the condition number times
        rtol.
    adjoint : like A, optional
        The conjugate transpose of A, for `bicgstab` and `neumann`. By default it comes from the entries, from the
        `rmatvec` of A, or for a callable from autograd: a vector-Jacobian product.
    check : bool
        Whether a solve that does not converge, forward or backward, raises. Otherwise what there is goes on.
    **options
        Further keywords of the solver, for both solves: `atol`, `stop`, `callback`, `check_every`, `workspace`,
        `curvature`, `scale`, `max_restarts` (5 by default, as gradients with few entries make `bicgstab` break down).

    Returns
    -------
    Tensor of the shape of b
        x.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or devices do not fit, or an option makes no sense.
    RuntimeError
        A solve did not converge; its advice is in the message. A product has no adjoint. A third derivative is wanted,
        or a second one in a sparse tensor, or a transform of `torch.func`.

    Notes
    -----
    A backward pass costs one solve and one vector-Jacobian product of ``A x``; the forward pass two products more than
    the solve if A depends on tensors that require grad, and none otherwise. With ``create_graph=True`` second
    derivatives are right, too.

    Examples
    --------
    >>> import torch
    >>> points = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> width = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    >>> def covariance(v):
    ...     return torch.exp(-(((points[:, None] - points) / width) ** 2)) @ v + 0.01 * v
    >>> weights = solve(covariance, torch.sin(6 * points))
    >>> weights.square().sum().backward()
    >>> width.grad.shape
    torch.Size([])
    """
    choice(method, "method", _METHODS)
    _refuse_options(method, options)
    _refuse_transforms()
    _refuse_vectors(b, x0)
    like = b.detach() if b.ndim == 1 else b.detach().new_empty(b.shape[0])
    a = as_linear_map(A, like, "A")
    reverse = None if adjoint is None else as_linear_map(adjoint, like, "adjoint")
    if reverse is not None and method in HERMITIAN:
        raise ValueError(
            f"adjoint is for bicgstab and neumann: {method} needs an A that is its own"
        )
    if isinstance(M, Tensor):
        refuse_unfit_matrix(M, like, "M")
    for name, value in (("A", A), ("b", b), ("M", M)):
        refuse_tangent(value, name)
    settings = {"rtol": rtol, "maxiter": maxiter, **options}
    if method == "bicgstab":  # a gradient is often a unit vector, and those break it down
        settings.setdefault("max_restarts", 5)
    system = System(a, reverse, like, method, M, None, settings, check)
    x = system.run(b, x0.detach() if isinstance(x0, Tensor) else x0)
    return attach(system, b, x) if torch.is_grad_enabled() else x


def _refuse_options(method: str, options: dict[str, Any]) -> None:
    known = inspect.signature(getattr(krylov, method)).parameters.keys() - _NOT_OPTIONS
    for name in options:
        if name not in known:
            raise TypeError(
                f"kt.solve with method={method!r} has no option {name!r}; there are {', '.join(sorted(known))}"
            )
    if options.get("curvature") == "boundary":
        raise ValueError(
            "curvature='boundary' does not solve A x = b, and has no gradient: use 'ignore' or 'stop'"
        )


def _refuse_transforms() -> None:
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    if active is not None and active():
        raise RuntimeError(
            "kt.solve does not work under torch.func transforms (vmap, grad, jvp, jacrev): give columns as b of shape "
            "(n, k), and differentiate with torch.autograd"
        )


def _refuse_vectors(b: Any, x0: Any) -> None:
    if not isinstance(b, Tensor):
        raise TypeError(
            f"b must be a torch tensor, not {type(b).__name__}; krylov.cg takes other arrays"
        )
    if b.layout is not torch.strided:
        raise TypeError(f"b is {b.layout}, but a dense tensor is needed: use .to_dense()")
    if b.dtype not in _DTYPES:
        raise TypeError(f"b is {b.dtype}, but must be float32, float64, complex64 or complex128")
    if b.ndim not in (1, 2):
        raise ValueError(f"b must have shape (n,) or (n, k), but its shape is {tuple(b.shape)}")
    if x0 is None or (isinstance(x0, str) and x0 == "Mb"):
        return
    if not isinstance(x0, Tensor):
        raise TypeError(f"x0 must be a torch tensor or 'Mb', not {x0!r}")
    for what in ("shape", "dtype", "device"):
        given, wanted = getattr(x0, what), getattr(b, what)
        if given != wanted:
            raise ValueError(f"x0 has {what} {given}, but b has {what} {wanted}")
