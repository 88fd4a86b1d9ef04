"""What Kronecker factors keep from step to step and in checkpoints, and their options."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from kronecker_cases import F64, dense, made, make, measured, network, operator
from networks import classifier, digits
from torch import nn

import krylov.torch as kt
from krylov.torch.optim.preconditioning.affine_layers import Layer
from krylov.torch.optim.preconditioning.kronecker import KroneckerFactors

# The memory


def counted(monkeypatch):
    """How often factors are inverted."""
    calls = []
    own = KroneckerFactors._invert
    monkeypatch.setattr(
        KroneckerFactors, "_invert", lambda self, *a: (calls.append(a[1]), own(self, *a))[1]
    )
    return calls


def test_inverses_are_made_anew_after_a_while_or_for_another_damping(monkeypatch):
    calls, problem = counted(monkeypatch), classifier()
    policy = make("kronecker", {"every": 3})
    spent = []
    for damping in (1.0, 1.0, 1.5, 1.5, 4.0):
        A = operator(problem)
        for _ in range(2):  # a step that tries again
            policy.prepare(A, damping)
            spent.append(policy.probes)
    assert calls == [1.0, 1.5, 4.0]
    assert spent == [1, 0] * 5


def test_factors_follow():
    first, second = operator(classifier(0)), operator(classifier(1))
    factors = KroneckerFactors(31, F64, decay=0.75)
    factors.update(first)
    factors.update(second)
    layer = Layer(0, 1, False)
    a, b = measured(first)[layer].A, measured(second, seed=1)[layer].A
    torch.testing.assert_close(factors._factors[layer].A, (a + b) / 2)  # a young mean
    for _ in range(5):
        factors.update(operator(classifier(0)))
    before = factors._factors[layer].A
    factors.update(second)
    torch.testing.assert_close(factors._factors[layer].A, 0.75 * before + 0.25 * b)


def test_a_sample_that_overflows_leaves_no_trace():
    problem = classifier()
    factors = KroneckerFactors(31, F64)
    A = operator(problem)
    factors.update(A)
    before = dense(factors.preconditioner(A, 0.1))
    broken = copy.deepcopy(problem)
    broken.x *= float("nan")
    A = operator(broken)
    factors.update(A)
    assert torch.equal(dense(factors.preconditioner(A, 0.1)), before)
    assert made(operator(broken), 0.1) is None


def test_another_network_starts_anew():
    factors = KroneckerFactors(31, F64)
    factors.update(operator(classifier()))
    problem = network(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(), outputs=1)
    A = operator(problem)
    factors.update(A)
    assert factors.preconditioner(A, 0.1).shape == (26, 26)


def states():
    factors = KroneckerFactors(31, F64)
    A = operator(classifier())
    factors.update(A)
    factors.preconditioner(A, 0.1)
    return factors


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n", 30, "n = 30"),
        ("storage", "bfloat16", "storage="),
        ("operators", "x", "operators must be"),
        ("inverted", None, "inverted must be"),
        ("damping", float("nan"), "damping must be"),
        ("layers", [["x", 1, False]], "layers must be"),
        ("factors", [], "argument"),
    ],
)
def test_states_that_do_not_fit_are_refused_and_change_nothing(key, value, message):
    factors = states()
    before = repr(factors.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        factors.load_state_dict({**factors.state_dict(), key: value})
    assert repr(factors.state_dict()) == before


@pytest.mark.parametrize("storage", [None, "float32", "bfloat16"])
def test_a_loaded_state_goes_on_bit_for_bit(storage):
    def run(optimizer, problem, count):
        for _ in range(count):
            optimizer.step_batches(problem.closure, gradient=problem.batches(30))
        return problem.read()

    def built():
        problem = digits(samples=60, hidden=4)
        options = {"storage": storage, "every": 2}
        return problem, kt.HessianFree(
            problem.parameters, preconditioner="kronecker", preconditioner_options=options
        )

    problem, optimizer = built()
    run(optimizer, problem, 3)
    other, resumed = built()
    other.model.load_state_dict(problem.model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(run(resumed, other, 4), run(optimizer, problem, 4))


# Options

BAD = [
    ("every", 0),
    ("every", 1.5),
    ("every", "x"),
    ("probes", 0),
    ("probes", None),
    ("decay", -0.1),
    ("decay", 1.0),
    ("decay", float("nan")),
    ("decay", "x"),
    ("storage", "float16"),
    ("storage", 3),
]


@pytest.mark.parametrize(("option", "value"), BAD, ids=str)
def test_bad_options_are_named(option, value):
    with pytest.raises((TypeError, ValueError), match=f"{option} must be"):
        make("kronecker", {option: value})


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match=r"unknown preconditioner_options: damping; .*storage"):
        make("kronecker", {"damping": 1.0})


@pytest.mark.parametrize("curvature", ["hessian", "hybrid"])
def test_it_needs_the_gauss_newton_matrix(curvature):
    with pytest.raises(ValueError, match=r"take curvature='ggn'"):
        kt.HessianFree(classifier().parameters, preconditioner="kronecker", curvature=curvature)
