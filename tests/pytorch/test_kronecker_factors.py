"""Kronecker factors against dense truth and against module hooks: what they are, and of which layers."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from kronecker_cases import (
    F64,
    check_positive,
    check_scaled,
    measured,
    network,
    operator,
    vector_order,
)
from networks import classifier, regression
from torch import nn

import krylov.torch as kt
from krylov.torch.optim.preconditioning.affine_layers import Layer


class Matrix(nn.Module):
    """x @ W, in some way of writing it."""

    def __init__(self, inputs, outputs, way):
        super().__init__()
        self.way = way
        self.W = nn.Parameter(torch.ones(inputs, outputs))
        self.b = nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return self.way(x, self.W, self.b)


# The factors


def test_a_single_sample_and_output_are_exact():
    problem = regression(samples=1)
    problem.model = nn.Linear(4, 1).to(F64)
    problem.y = problem.y[:, :1]
    ((layer, (A, G)),) = measured(operator(problem)).items()
    assert layer == Layer(0, 1, False)
    found = vector_order(torch.kron(G, A), 1, 4)
    torch.testing.assert_close(found, problem.ggn(problem.read()), rtol=1e-12, atol=1e-14)


def test_a_linear_model_is_exact_but_for_the_noise_of_the_signs():
    problem = regression()
    ((A, G),) = measured(operator(problem)).values()
    truth = problem.ggn(problem.read())
    found = vector_order(torch.kron(G.diag().diag(), A), 2, 4)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-14)
    ((A, G),) = measured(operator(problem), probes=500).values()
    torch.testing.assert_close(
        vector_order(torch.kron(G, A), 2, 4), truth, rtol=0, atol=0.05 * float(truth.max())
    )


def test_the_mean_of_G_is_the_curvature_of_a_bias():
    """Whose input is always 1."""
    problem = classifier()
    found = measured(operator(problem), probes=2000)
    truth = problem.ggn(problem.read())
    at = {Layer(0, 1, False): slice(12, 16), Layer(2, 3, False): slice(28, 31)}
    assert found.keys() == at.keys()
    for layer, place in at.items():
        block = truth[place, place]
        torch.testing.assert_close(
            found[layer].G, block, rtol=0, atol=0.05 * float(block.max()), msg=str(layer)
        )


@pytest.mark.parametrize("probes", [1, 3])
def test_factors_are_those_of_module_hooks(probes):
    problem = network(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2))
    found = measured(operator(problem), probes, seed=5)
    seen = []
    for module in problem.model:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, a, s: seen.append((a[0].detach(), s)))
    z = problem.model(problem.x)
    inputs, outputs = zip(*seen, strict=True)
    generator = torch.Generator().manual_seed(5)
    G = [0.0] * len(outputs)
    for _ in range(probes):
        signs = torch.randint(2, z.shape, generator=generator).to(F64) * 2 - 1
        root = math.sqrt(2 / z.numel()) * signs
        for i, g in enumerate(torch.autograd.grad(z, outputs, root, retain_graph=True)):
            G[i] = G[i] + sum(torch.outer(row, row) for row in g) / probes
    assert sorted(found) == [Layer(2 * i, 2 * i + 1, False) for i in range(3)]
    for i in range(3):
        a = torch.cat([inputs[i], torch.ones(len(inputs[i]), 1, dtype=F64)], 1)
        pair = found[Layer(2 * i, 2 * i + 1, False)]
        torch.testing.assert_close(pair.A, sum(torch.outer(row, row) for row in a) / len(a))
        torch.testing.assert_close(pair.G, G[i])


def test_micro_batches_count_by_their_weights():
    problem = regression(samples=10)
    parts = problem.batches(4)

    def of(data, weights=None):
        A = kt.GaussNewtonOperator(
            lambda batch: problem.model(batch[0]),
            lambda outputs, batch: problem.loss_of(outputs, batch[1]),
            problem.parameters,
            data=data,
            weights=weights,
        )
        return next(iter(measured(A).values()))

    whole, split = of([(problem.x, problem.y)]), of(parts)
    torch.testing.assert_close(split.A, whole.A)
    torch.testing.assert_close(split.G.diagonal(), whole.G.diagonal())
    each = [of([part]) for part in parts]
    weighted = of(parts, [1.0, 2.0, 3.0])
    mean = sum(w * pair.A for w, pair in zip((1, 2, 3), each, strict=True)) / 6
    torch.testing.assert_close(weighted.A, mean)
    torch.testing.assert_close(weighted.G.diagonal(), 6 * whole.G.diagonal())


# Which layers there are

WRITTEN = {
    "x @ W": (lambda x, W, b: x @ W, False, (3, 2)),
    "x @ W + b": (lambda x, W, b: x @ W + b, False, (3, 2)),
    "addmm": (lambda x, W, b: torch.addmm(b, x, W), True, (3, 2)),
    "x @ W.T": (lambda x, W, b: x @ W.T, False, (2, 3)),
    "x @ W.mT": (lambda x, W, b: x @ W.mT, False, (2, 3)),
    "scaled": (lambda x, W, b: torch.addmm(b, x, W, beta=2), False, (3, 2)),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_matrices_in_every_way_of_writing(way):
    function, with_bias, shape = WRITTEN[way]
    matrix = Matrix(*shape, function)
    matrix.b = nn.Parameter(torch.ones(2))
    problem = network(matrix)
    used = [p for p in problem.parameters if p is matrix.W or "W." not in way]
    A = operator(problem, used)
    ((layer, (inputs, G)),) = measured(A).items()
    assert layer == Layer(0, 1 if with_bias else -1, shape == (3, 2))
    assert (len(inputs), len(G)) == (4 if with_bias else 3, 2)
    check_positive(A, 0.1)


def test_rows_of_sequences_and_of_all_uses_count():
    layer = nn.Linear(3, 3)
    problem = network(layer, nn.Tanh(), layer, x=(5, 4, 3), outputs=3)
    found = measured(operator(problem))
    ((A, _),) = found.values()
    with torch.no_grad():
        first = problem.x.reshape(-1, 3)
        rows = torch.cat([first, torch.tanh(layer(first))])
    rows = torch.cat([rows, torch.ones(40, 1, dtype=F64)], 1)
    torch.testing.assert_close(A, rows.T @ rows / 40)
    check_positive(operator(problem), 0.1)


def test_weights_that_layers_share_in_different_ways_are_left_out():
    first, tied = nn.Linear(3, 4), nn.Linear(4, 3)
    tied.weight = None

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.bias, self.last = first, nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            return self.last(torch.tanh(torch.addmm(self.bias, hidden, self.first.weight)))

    problem = network(Tied())
    A = operator(problem)
    names = [name for name, _ in problem.model.named_parameters()]
    (layer,) = measured(A)
    assert [names[i] for i in layer[:2]] == ["0.last.weight", "0.last.bias"]
    M = check_positive(A, 0.1)
    covered = {"0.last.weight", "0.last.bias"}
    check_scaled(M, [p for n, p in problem.model.named_parameters() if n not in covered], A)


def test_parameters_of_other_kinds_are_scaled():
    problem = network(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    A = operator(problem)
    assert set(measured(A)) == {Layer(0, 1, False), Layer(4, 5, False)}
    check_scaled(check_positive(A, 0.1), problem.parameters[2:4], A)


def test_convolutions_before_layers():
    problem = network(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2), x=(5, 1, 6))
    problem.y = problem.y[:, 0]
    A = operator(problem)
    assert set(measured(A)) == {Layer(2, 3, False)}
    check_positive(A, 0.1)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_frozen_parameters(frozen):
    problem = classifier()
    free = [(n, p) for n, p in problem.model.named_parameters() if n != frozen]
    dict(problem.model.named_parameters())[frozen].requires_grad_(False)
    A = operator(problem)
    names = [name for name, _ in free]
    layers = {(names[i], names[j] if j >= 0 else None) for i, j, _ in measured(A)}
    number, part = frozen.split(".")
    other = "2" if number == "0" else "0"
    wanted = {(f"{other}.weight", f"{other}.bias")}
    if part == "bias":
        wanted.add((f"{number}.weight", None))
    assert layers == wanted
    check_positive(A, 0.1)


def test_what_is_not_covered_at_all_is_an_error_with_a_cure():
    problem = network(nn.Conv1d(1, 2, 3), nn.Flatten(), x=(5, 1, 3))
    problem.y = problem.y[:, 0]
    with pytest.raises(ValueError, match=r"covers no layer.*preconditioner='lbfgs'"):
        measured(operator(problem))
    problem = classifier()
    A = kt.GaussNewtonOperator(
        lambda: problem.model(problem.x), lambda z: z.cosh().sum(), problem.parameters
    )
    with pytest.raises(ValueError, match=r"closed form.*preconditioner='lbfgs'"):
        measured(A)
    H = kt.HessianOperator(lambda: problem.closure()[0], problem.parameters)
    with pytest.raises(TypeError, match="Hessian"):
        measured(H)


def test_an_error_leaves_parameters_and_damping():
    problem = network(nn.Conv1d(1, 2, 3), nn.Flatten(), x=(5, 1, 3))
    problem.y = problem.y[:, 0]
    before = problem.read()
    optimizer = kt.HessianFree(problem.parameters, preconditioner="kronecker", damping=0.25)
    with pytest.raises(ValueError, match="covers no layer"):
        optimizer.step(problem)
    assert torch.equal(problem.read(), before)
    assert optimizer.damping == 0.25
