"""Keyword values that make no sense are refused before any work is done, by name and with what is allowed."""

from __future__ import annotations

import numpy as np
import pytest
from inputs.common import METHODS, Counted, random, spd

import krylov
from krylov import stopping

N = 6

# keyword: (values, words besides the keyword itself)
EVERYWHERE = {
    "rtol": ([-1, -1e-30, float("nan"), "x", None, [1.0], 1j, np.ones(2)], ["number"]),
    "atol": ([-1, float("nan"), "legacy", None, (0.0,), 1j], ["number"]),
    "maxiter": ([-1, 2.5, "3", [3], float("inf")], ["maxiter"]),
    "check_every": ([0, -2, 1.5, "2", None], ["check_every"]),
    "callback": ([5, "print", [print]], ["callable"]),
    "stop": ([5, "residual", stopping], ["callable"]),
    "candidates": (["foo", 5, [1.5], [-1], [0], ["1"], 2.5], ["candidates", "iteration"]),
    "workspace": ([5, "cg", np.zeros(10)], ["workspace", "Workspace"]),
    "M": ([5, "ilu", [[1.0]], (1, 2)], ["M", "callable"]),
}
ONLY = {
    ("cg", "curvature"): (["foo", None, 1, "track", "Stop"], ["'ignore'", "'stop'", "'boundary'"]),
    ("flexible_cg", "curvature"): (["foo", None, "track"], ["'ignore'", "'stop'", "'boundary'"]),
    ("bicgstab", "curvature"): (["foo", None, "stop", "boundary"], ["'ignore'", "'track'"]),
    ("cg", "radius"): (
        [-1, 0, 1e-200, 1e200, float("nan"), float("inf"), "a", [1.0], 1j],
        ["radius"],
    ),
    ("flexible_cg", "radius"): ([-1, 0, float("nan"), "a"], ["radius"]),
    ("bicgstab", "max_restarts"): ([-1, 2.5, "3"], ["max_restarts"]),
    ("neumann", "scale"): ([0, float("nan"), float("inf"), "largest", [1.0], None, 1j], ["scale"]),
}
CASES = [
    (method, keyword, value, words)
    for method in METHODS
    for keyword, (values, words) in EVERYWHERE.items()
    for value in values
] + [
    (method, keyword, value, words)
    for (method, keyword), (values, words) in ONLY.items()
    for value in values
]


def refusal(method, A, b, error=(TypeError, ValueError), **options):
    counted = Counted(A)
    with pytest.raises(error) as caught:
        METHODS[method](counted, b, **options)
    assert counted.count == 0, "multiplied before the arguments were checked"
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "keyword", "value", "words"),
    CASES,
    ids=lambda v: None if isinstance(v, list) else str(v)[:20],
)
def test_value_is_refused(method, keyword, value, words):
    message = refusal(method, spd(N), np.ones(N), **{keyword: value})
    assert all(word in message for word in [keyword, *words]), message


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {
            "rtol": np.float32(1e-5),
            "atol": np.int64(0),
            "maxiter": np.int32(50),
            "check_every": np.int8(1),
        },
        {"rtol": 0, "atol": 1e-4},
        {"rtol": True, "maxiter": True},
        {"candidates": []},
        {"candidates": range(1, 4)},
        {"candidates": np.array([1, 3])},
        {"candidates": iter([1, 2])},
        {"candidates": [10**9]},
    ],
    ids=str,
)
def test_value_of_another_type_is_taken(method, values):
    assert METHODS[method](spd(N), np.ones(N), **values).outcome.name in (
        "CONVERGED",
        "ITERATION_LIMIT",
    )


@pytest.mark.parametrize("method", METHODS)
def test_unknown_keyword(method):
    for keyword in ("tol", "max_iter", "precond", "x_0"):
        message = refusal(method, spd(N), np.ones(N), TypeError, **{keyword: 1})
        assert keyword in message


@pytest.mark.parametrize("method", METHODS)
def test_workspace_of_another_solve(method):
    A, b = spd(N), np.ones(N)
    other = next(name for name in METHODS if name != method)
    for workspace, word in (
        (krylov.Workspace(method, N - 1), "n = 5"),
        (krylov.Workspace(method, N, np.float32), "float32"),
        (krylov.Workspace(other, N), other),
    ):
        message = refusal(method, A, b, ValueError, workspace=workspace)
        assert "workspace" in message
        assert word in message
        # It was not reserved by the refusal.
        METHODS[workspace.method](
            spd(workspace.n, workspace.dtype),
            np.ones(workspace.n, workspace.dtype),
            workspace=workspace,
            maxiter=1,
        )


@pytest.mark.parametrize("method", METHODS)
def test_workspace_in_use(method):
    A, b, workspace = spd(N), random(N), krylov.Workspace(method, N)
    options = {"scale": 0.5} if method == "neumann" else {}

    def multiply(v):
        METHODS[method](A, v, workspace=workspace, **options)
        return A @ v

    with pytest.raises(RuntimeError, match="workspace is in use"):
        METHODS[method](multiply, b, workspace=workspace, **options)
    assert METHODS[method](A, b, workspace=workspace, maxiter=500).outcome.ok


WORKSPACES = [
    (lambda: krylov.Workspace("gmres", 5), ["method", "gmres", "cg"]),
    (lambda: krylov.Workspace(5, 5), ["method"]),
    (lambda: krylov.Workspace("cg", -1), ["n", "-1"]),
    (lambda: krylov.Workspace("cg", 2.5), ["n", "2.5"]),
    (lambda: krylov.Workspace("cg", "5"), ["n", "'5'"]),
    (lambda: krylov.Workspace("cg", 5, "f2"), ["float16", "float32"]),
    (lambda: krylov.Workspace("cg", 5, object), ["object", "float32"]),
    (lambda: krylov.Workspace("cg", 5, "f8", "cuda"), ["cuda", "cpu"]),
]


@pytest.mark.parametrize("method", ["cg", "flexible_cg"])
def test_radius(method):
    A, b = spd(N), random(N)
    assert "radius" in refusal(method, A, b, ValueError, curvature="boundary")
    message = refusal(method, A, b, ValueError, x0=np.full(N, 10.0), radius=1.0)
    assert "x0" in message
    assert "radius" in message
    for x0 in (np.full(N, 1e200), np.full(N, 1e300)):
        assert "radius" in refusal(method, A, b, ValueError, x0=x0, radius=1.0)


RULES = [
    (lambda: stopping.FixedIterations(0), ["iterations"]),
    (lambda: stopping.FixedIterations(2.5), ["iterations"]),
    (lambda: stopping.FixedIterations("3"), ["iterations"]),
    (lambda: stopping.TimeLimit(0), ["seconds"]),
    (lambda: stopping.TimeLimit(float("nan")), ["seconds"]),
    (lambda: stopping.TimeLimit("1"), ["seconds"]),
    (lambda: stopping.Residual(-1.0), ["rtol"]),
    (lambda: stopping.Residual(float("nan")), ["rtol"]),
    (lambda: stopping.Residual(1e-5, -1.0), ["atol"]),
    (lambda: stopping.QuadraticProgress(epsilon=0), ["epsilon"]),
    (lambda: stopping.QuadraticProgress(minimum=0), ["minimum"]),
    (lambda: stopping.QuadraticProgress(fraction=-1), ["fraction"]),
    (lambda: stopping.FixedIterations(3) | 5, ["callable"]),
    (lambda: 5 | stopping.FixedIterations(3), ["callable"]),
]


JACOBI = [
    (lambda: krylov.JacobiPreconditioner(np.array([1.0, 0.0])), ["diagonal", "index 1", "shift"]),
    (lambda: krylov.JacobiPreconditioner(np.array([1.0, np.nan])), ["diagonal", "nan", "index 1"]),
    (lambda: krylov.JacobiPreconditioner(np.array([np.inf, 1.0])), ["diagonal", "inf", "index 0"]),
    (
        lambda: krylov.JacobiPreconditioner(np.array([1.0, -1.0]), 0.5),
        ["diagonal", "index 1", "positive"],
    ),
    (lambda: krylov.JacobiPreconditioner(np.eye(2)), ["diagonal", "(2, 2)"]),
    (lambda: krylov.JacobiPreconditioner(3.0), ["diagonal", "()"]),
    (lambda: krylov.JacobiPreconditioner(np.array(["a"])), ["diagonal", "numbers"]),
    (lambda: krylov.JacobiPreconditioner(np.ones(2), "x"), ["power"]),
    (lambda: krylov.JacobiPreconditioner(np.ones(2), float("nan")), ["power"]),
    (lambda: krylov.JacobiPreconditioner(np.ones(2), 1.0, None), ["shift"]),
    (lambda: krylov.JacobiPreconditioner(np.array([5e-324, 1.0])), ["diagonal", "index 0"]),
]


A = spd(N)
SPECTRUM = [
    (lambda: krylov.lanczos(A, 0), ["k", "at least 1", "0"]),
    (lambda: krylov.lanczos(A, 2.5), ["k", "2.5"]),
    (lambda: krylov.lanczos(A, "3"), ["k", "'3'"]),
    (lambda: krylov.lanczos(A, 3, np.zeros(N)), ["v0", "zero"]),
    (lambda: krylov.lanczos(A, 3, np.full(N, np.nan)), ["v0", "finite"]),
    (lambda: krylov.lanczos(A, 3, np.ones(N - 1)), ["v0", "(5,)", "(6,)"]),
    (lambda: krylov.lanczos(A, 3, np.ones((1, N))), ["v0", "(1, 6)"]),
    (lambda: krylov.lanczos(A, 3, np.array(["a"] * N)), ["v0", "numbers"]),
    (lambda: krylov.lanczos(A, 3, seed=1.5), ["seed", "1.5"]),
    (lambda: krylov.lanczos(A, 3, seed="x"), ["seed", "'x'"]),
    (lambda: krylov.lanczos(A, 3, reorthogonalize="half"), ["reorthogonalize", "'full'", "'none'"]),
    (lambda: krylov.lanczos(lambda v: v, 3), ["v0", "callable"]),
    (lambda: krylov.lanczos(np.zeros((0, 0)), 3), ["A", "empty"]),
    (lambda: krylov.lanczos(np.ones((2, 3)), 3), ["A", "square", "(2, 3)"]),
    (lambda: krylov.lanczos(A * np.nan, 3), ["A", "NaN"]),
    (lambda: krylov.extremal_eigenvalues(A, 0), ["k", "at least 1"]),
    (lambda: krylov.extremal_eigenvalues(lambda v: v), ["callable", "shape"]),
    (lambda: krylov.extremal_eigenvalues(A * np.inf), ["A", "infinity"]),
]


@pytest.mark.parametrize(("make", "words"), [*RULES, *JACOBI, *SPECTRUM, *WORKSPACES])
def test_arguments_of_other_names(make, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
