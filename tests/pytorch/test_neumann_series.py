"""`NeumannSeries`: the series with true products, its spectrum along training, and what it does when it diverges."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from networks import classifier
from torch import nn

import krylov.torch as kt

N = 30
NAN = math.nan


def symmetric(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return torch.from_numpy(q @ np.diag(values) @ q.T)


class Quadratic:
    """``w.A w / 2 - b.w``, with an A that may be exchanged."""

    def __init__(self, A, b=None):
        self.A, self.b = A, torch.ones(len(A), dtype=A.dtype) if b is None else b
        self.w = nn.Parameter(torch.linspace(-1, 1, len(A), dtype=A.dtype))

    def __call__(self):
        return self.w @ self.A @ self.w / 2 - self.b @ self.w

    def step(self):
        """That of the convexified Newton system."""
        low = float(torch.linalg.eigvalsh(self.A)[0])
        shifted = self.A + max(0.0, -low) * torch.eye(len(self.A), dtype=self.A.dtype)
        return torch.linalg.solve(shifted, self.b - self.A @ self.w.detach())


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_series_converges_to_newtons_step():
    problem = Quadratic(symmetric(np.linspace(0.5, 3, N)))
    start = problem.w.detach().clone()
    parts = [nn.Parameter(part.clone()) for part in start.split([4, N - 4])]

    def closure():
        w = torch.cat(parts)
        return w @ problem.A @ w / 2 - problem.b @ w

    groups = [{"params": parts[:1], "lr": 0.5}, {"params": parts[1:]}]
    optimizer = kt.NeumannSeries(groups, iterations=200)
    before = closure()
    assert optimizer.step(closure) == before
    found = torch.cat([p.detach() for p in parts]) - start
    found[:4] /= 0.5
    torch.testing.assert_close(found, problem.step(), rtol=1e-7, atol=1e-9)


def test_a_step_costs_its_terms_and_the_spectrum_now_and_then():
    problem = classifier()
    optimizer = kt.NeumannSeries(problem.parameters, 0.1, iterations=6, k=4, spectrum_every=3)
    costs, measured = [], []
    for _ in range(7):
        optimizer.step(lambda: problem.closure()[0])
        step = optimizer.last_step
        costs.append(step.gradient_equivalents)
        measured.append(step.measurements)
        assert step.products == 6 + 2 * 4 * step.measurements
    assert measured == [1, 0, 0, 1, 0, 0, 1]
    assert costs == [1 + 2 * (6 + 8 * m) for m in measured]


def test_the_spectrum_is_measured_from_the_eigenvectors_of_before():
    """With two steps of Lanczos' method nothing but the start makes the second measurement better."""
    values = np.r_[-1, np.linspace(0, 2, N - 2), 3]
    problem = Quadratic(symmetric(values))
    optimizer = kt.NeumannSeries([problem.w], lr=0.0, iterations=1, k=3, spectrum_every=1)
    errors = []
    for _ in range(6):
        optimizer.step(problem)
        step = optimizer.last_step
        errors.append((3 - step.lambda_max) + (step.lambda_min + 1))
    assert errors[1] < 0.5 * errors[0]
    assert errors[-1] < 1e-2 * errors[0]


@pytest.mark.parametrize("top", [10.0, 1e6])
def test_a_series_that_diverges_begins_anew_with_the_spectrum_of_now(top):
    problem = Quadratic(symmetric(np.linspace(0.5, 2, N)))
    optimizer = kt.NeumannSeries([problem.w], iterations=40, spectrum_every=1000)
    optimizer.step(problem)
    assert optimizer.last_step.measurements == 1
    problem.A = symmetric(np.r_[np.linspace(0.5, 2, N - 1), top])
    start, wanted = problem.w.detach().clone(), float(problem().detach())
    fresh = Quadratic(problem.A)
    fresh.w.data.copy_(start)
    kt.NeumannSeries([fresh.w], iterations=40).step(fresh)
    optimizer.step(problem)
    step = optimizer.last_step
    assert step.measurements == 1
    assert step.lambda_max == pytest.approx(top)
    assert step.products > 40 + 20  # both series and the spectrum
    assert step.gradient_equivalents == 1 + 2 * step.products
    torch.testing.assert_close(problem.w, fresh.w, rtol=1e-4, atol=1e-4)
    assert float(problem().detach()) < wanted


def test_so_does_one_whose_shift_is_too_small():
    problem = Quadratic(symmetric(np.linspace(0.5, 2, N)))
    optimizer = kt.NeumannSeries([problem.w], iterations=20, spectrum_every=1000)
    optimizer.step(problem)
    problem.A = symmetric(np.r_[-1.5, np.linspace(0.5, 2, N - 1)])
    optimizer.step(problem)
    assert optimizer.last_step.lambda_min == pytest.approx(-1.5, rel=1e-3)
    assert optimizer.damping == -optimizer.last_step.lambda_min


def test_a_gradient_along_negative_curvature_is_followed():
    """The residual of such a series hardly changes; what little it grows by rounding is no divergence."""
    A = symmetric(np.r_[-1, np.linspace(0.5, 2, N - 1)])
    lowest = torch.linalg.eigh(A)[1][:, 0]
    problem = Quadratic(A, 1e-3 * lowest)
    problem.w.data.zero_()
    optimizer = kt.NeumannSeries([problem.w], iterations=10, k=N)
    optimizer.step(problem)
    along = float(problem.w.detach() @ lowest)
    assert along == pytest.approx(1e-3 * 10 / 3, rel=1e-3)  # ten terms of scale 1 / (1 + 2)


def test_a_series_that_diverges_again_is_an_error_and_changes_nothing():
    # One step of Lanczos' method from a random start sees 1e5 as a hundredth of it, and the powers overflow.
    A = torch.diag(torch.cat([torch.full((99,), 1.0), torch.tensor([1e7])]))
    problem = Quadratic(A)
    optimizer = kt.NeumannSeries([problem.w], iterations=60, k=1)
    before, state = problem.w.detach().clone(), repr(optimizer.state_dict())
    with pytest.raises(FloatingPointError, match=r"diverges.*Raise k, or lower iterations"):
        optimizer.step(problem)
    assert torch.equal(problem.w, before)
    assert repr(optimizer.state_dict()) == state
    assert optimizer.last_step is None


def test_a_product_that_is_not_finite_is_an_error_and_changes_nothing():
    problem = Quadratic(symmetric(np.linspace(0.5, 2, N)))
    optimizer = kt.NeumannSeries([problem.w], spectrum_every=1000)
    optimizer.step(problem)
    before = problem.w.detach().clone()
    with pytest.raises(FloatingPointError, match="product with the curvature is not finite"):
        # The second derivative of |x|^1.5 at zero is infinite, the first is zero.
        optimizer.step(lambda: problem() + (problem.w - before).abs().pow(1.5).sum())
    assert torch.equal(problem.w, before)
    assert optimizer.last_step.step == 1


def test_a_concave_loss_is_convexified_too():
    problem = Quadratic(-symmetric(np.linspace(0.5, 2, N)))
    before = float(problem().detach())
    optimizer = kt.NeumannSeries([problem.w], iterations=5, k=N)
    optimizer.step(problem)
    step = optimizer.last_step
    assert (step.lambda_min, step.lambda_max) == pytest.approx((-2, -0.5))
    assert optimizer.damping == pytest.approx(2)
    assert float(problem().detach()) < before


def test_a_saved_series_goes_on_bit_for_bit():
    def built():
        problem = classifier()
        return problem, kt.NeumannSeries(problem.parameters, iterations=4, k=5, spectrum_every=3)

    def steps(problem, optimizer, count):
        return [float(optimizer.step(lambda: problem.closure()[0])) for _ in range(count)]

    problem, optimizer = built()
    first = steps(problem, optimizer, 4)
    saved = through_a_file([problem.model.state_dict(), optimizer.state_dict()])
    expected = steps(problem, optimizer, 6)
    other, resumed = built()
    other.model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert steps(other, resumed, 6) == expected
    assert expected[-1] < first[0]
    assert copy.deepcopy(optimizer).last_step == optimizer.last_step


def test_samples_in_micro_batches_are_those_of_one_closure():
    whole, parts = classifier(), classifier()
    first = kt.NeumannSeries(whole.parameters, weight_decay=0.1)
    second = kt.NeumannSeries(parts.parameters, weight_decay=0.1)
    for _ in range(2):
        one = float(first.step(lambda: whole.closure()[0]))
        pieces = parts.batches(7)
        other = float(second.step_batches(parts.closure, gradient=pieces))
        assert other == pytest.approx(one, rel=1e-10)
    torch.testing.assert_close(whole.read(), parts.read(), rtol=1e-7, atol=1e-9)
    assert second.last_step.gradient_samples == len(parts.x)
    judged = parts.batches(11)
    second.step_batches(parts.closure, gradient=pieces, evaluation=judged)
    step = second.last_step
    assert step.loss_after < step.loss_before
    assert 0.5 < step.rho < 2


def test_fit_takes_a_step_for_each_mini_batch(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    def run(steps, resume=False):
        model = kt.mlp(4, 3, (8,), activation="tanh")
        optimizer = kt.NeumannSeries(model.parameters(), 0.5, iterations=5, k=4, spectrum_every=4)
        options = {"batch": 20, "steps": steps, "keep": "last", "progress": False}
        files = {"checkpoint": tmp_path / "c.pt", "resume": resume}
        history = kt.fit(
            model, nn.CrossEntropyLoss(), (x, y), optimizer=optimizer, **options, **files
        )
        return history, nn.utils.parameters_to_vector(model.parameters()).detach()

    run(2)
    resumed, vector = run(4, resume=True)
    history, expected = run(4)
    assert torch.equal(vector, expected)
    assert resumed.column("loss") == history.column("loss")
    losses, last = history.column("loss"), history.records[-1]
    assert losses[-1] < 0.8 * losses[0]
    # 12 steps of 20 samples: a gradient and five terms each, and three times the spectrum.
    assert last["gradient_equivalents"] == pytest.approx((12 * 11 + 3 * 16) * 20 / 60)
    assert last["optimizer"]["step"] == 12
    assert last["optimizer"]["lambda_max"] > 0


@pytest.mark.parametrize(
    ("closure", "kind", "words"),
    [
        (None, TypeError, "needs a closure"),
        (lambda w: (w * NAN).sum(), FloatingPointError, "the loss is nan"),
        (lambda w: w.sum() + 0 * w @ w, ValueError, "no curvature"),
        (lambda w: w.square().sum().backward(), RuntimeError, "must not call backward"),
    ],
)
def test_refusals(closure, kind, words):
    w = nn.Parameter(torch.ones(3))
    optimizer = kt.NeumannSeries([w])
    with pytest.raises(kind, match=words):
        optimizer.step(None if closure is None else lambda: closure(w))
    assert torch.equal(w, torch.ones(3))
    for name in ("lr", "iterations", "k", "spectrum_every", "weight_decay"):
        with pytest.raises(ValueError, match=name):
            kt.NeumannSeries([w], **{name: -1})


def test_damaged_states_are_refused():
    problem = classifier()
    optimizer = kt.NeumannSeries(problem.parameters)
    optimizer.step(lambda: problem.closure()[0])
    state, before = optimizer.state_dict(), repr(optimizer.state_dict())
    for change in ({"largest": NAN}, {"direction": torch.ones(3)}, {"measured": "never"}):
        memory = {**state["neumann_series"]["memory"], **change}
        with pytest.raises((TypeError, ValueError)):
            optimizer.load_state_dict(
                {**state, "neumann_series": {**state["neumann_series"], "memory": memory}}
            )
    assert repr(optimizer.state_dict()) == before
