"""Kronecker factors against dense truth and against module hooks; what M does in training."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import Problem, classifier, digits, regression
from torch import nn

import krylov.torch as kt
from krylov import cg, flexible_cg
from krylov.torch.curvature import CurvatureOperator
from krylov.torch.optim.affine_layers import Layer, measured_factors
from krylov.torch.optim.kronecker import KroneckerFactors
from krylov.torch.optim.preconditioning import make_preconditioning
from krylov.torch.optim.record import GRADIENTS

F64 = torch.float64


def operator(problem, parameters=None, **keywords):
    return kt.GaussNewtonOperator(
        lambda: problem.model(problem.x),
        lambda outputs: problem.loss_of(outputs, problem.y),
        problem.parameters if parameters is None else parameters,
        **keywords,
    )


def measured(A, probes=1, seed=0):
    return measured_factors(A, probes, torch.Generator().manual_seed(seed))


def made(A, damping, **options):
    """M for a first system."""
    factors = KroneckerFactors(A.shape[0], A.dtype, **options)
    factors.update(A)
    return factors.preconditioner(A, damping)


def dense(M):
    columns = [M.matvec(row) for row in torch.eye(M.shape[0], dtype=M.dtype)]
    return torch.stack(columns, 1)


def vector_order(layer_matrix, outputs, inputs):
    """A matrix over the entries of (W, b), row by row, as one over those of W and then those of b."""
    at = torch.arange(outputs * (inputs + 1)).view(outputs, inputs + 1)
    order = torch.cat([at[:, :-1].reshape(-1), at[:, -1]])
    return layer_matrix[order][:, order]


def network(*layers, x=(7, 3), outputs=2, seed=0):
    """Layers with data for squared error."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*layers).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    inputs = torch.randn(x, generator=generator, dtype=F64)
    targets = torch.randn((*x[:-1], outputs), generator=generator, dtype=F64)
    return Problem(model, inputs, targets)


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


# M


def check_positive(A, damping, **options):
    """M, found symmetric and positive definite."""
    M = made(A, damping, **options)
    matrix = dense(M)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12 * float(matrix.max()))
    assert torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0] > 0
    return M


def check_scaled(M, parameters, A):
    """These parameters have one factor."""
    mask = A.parameters.join([torch.ones_like(p) for p in A.parameters.tensors])
    chosen = A.parameters.join(
        [
            torch.ones_like(p) if any(p is q for q in parameters) else None
            for p in A.parameters.tensors
        ]
    )
    product = M.matvec(mask)[chosen.bool()]
    assert product[0] > 0
    torch.testing.assert_close(product, product[0].expand_as(product))


@pytest.mark.parametrize("damping", [1e-4, 0.3, 20.0])
def test_M_is_the_inverse_of_the_damped_products(damping):
    problem = classifier()
    A = operator(problem)
    M = dense(made(A, damping, seed=3))
    wanted = torch.zeros(31, 31, dtype=F64)
    for layer, place, (outputs, inputs) in (
        (Layer(0, 1, False), slice(0, 16), (4, 3)),
        (Layer(2, 3, False), slice(16, 31), (3, 4)),
    ):
        a, g = measured(A, seed=3)[layer]
        pi = math.sqrt(float(a.diagonal().mean() / g.diagonal().mean()))
        a = a + pi * math.sqrt(damping) * torch.eye(len(a), dtype=F64)
        g = g + math.sqrt(damping) / pi * torch.eye(len(g), dtype=F64)
        wanted[place, place] = vector_order(torch.kron(g, a), outputs, inputs)
    torch.testing.assert_close(M, torch.linalg.inv(wanted), rtol=1e-8, atol=1e-10 * float(M.max()))


@given(
    damping=st.floats(0, 1e6),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    storage=st.sampled_from([None, "float32"]),
)
def test_M_is_positive_definite(damping, seed, scale, storage):
    """Without damping too, where the factors are singular."""
    A = operator(classifier(seed, scale=scale, samples=2))
    M = made(A, damping, storage=storage)
    for A_inverse, G_inverse in M._inverses.values():
        for K in (A_inverse, G_inverse):
            assert torch.equal(K, K.T)
            assert torch.isfinite(K).all()
            assert not int(torch.linalg.cholesky_ex(K.double()).info)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("damping", [0.0, 1e-6, 1.0])
def test_inverses_in_bfloat16_are_positive_definite(dtype, damping):
    A = operator(digits(samples=40, dtype=dtype))
    exact, rounded = made(A, damping), made(A, damping, storage="bfloat16")
    for pair in rounded._inverses.values():
        for K in pair:
            assert K.dtype == torch.bfloat16
            assert torch.linalg.eigvalsh(K.double())[0] > 0
    r = A.gradient
    assert rounded.matvec(r).dtype == dtype
    assert float(rounded.matvec(r) @ r) > 0
    if damping == 1.0:  # rounding takes what is small beside the largest entries of an inverse
        torch.testing.assert_close(rounded.matvec(r), exact.matvec(r), rtol=0.03, atol=1e-3)


def test_weight_decay_is_damping_too():
    problem = classifier()
    A = operator(problem)
    penalty = torch.full((31,), 0.5, dtype=F64)
    penalised = CurvatureOperator(A.parameters, A._batches, diagonal=penalty)
    torch.testing.assert_close(dense(made(penalised, 0.25)), dense(made(A, 0.75)))


@pytest.mark.parametrize("solve", [cg, flexible_cg])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_solvers_take_it(solve, kind):
    problem = digits(samples=200, hidden=8, dtype=F64)
    A = operator(problem, shift=1e-3)
    M = made(A, 1e-3, probes=4)
    b, left = -A.gradient, A
    if kind == "numpy":
        b, left = b.numpy(), A.to_scipy()
    x, info = solve(left, b, M=M, rtol=1e-8)
    assert info == 0
    residual = torch.as_tensor(b) - A @ torch.as_tensor(x)
    assert torch.linalg.vector_norm(residual) < 1e-7 * np.linalg.norm(np.asarray(b))


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


def make(name, options=None, **keywords):
    settings = {"n": 31, "dtype": F64, "curvature": "ggn", "solver": "flexible_cg", "seed": 0}
    return make_preconditioning(name, options, **{**settings, **keywords})


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


# Training


def deep(dtype=torch.float32):
    """An autoencoder of digits with six layers."""
    sizes = (64, 32, 16, 8, 16, 32, 64)
    x = digits(samples=300).x
    layers = []
    for i, (m, n) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(m, n)] + ([nn.Sigmoid()] if i < len(sizes) - 2 else [])
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * (p.shape[-1] ** -0.5) * (p.ndim - 1)
            )
    return model.to(dtype), x.to(dtype)


def trained(options, steps=15, autocast=False, **settings):
    model, x = deep()

    def closure():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = model(x)
        loss = F.binary_cross_entropy_with_logits(outputs.float(), x, reduction="sum") / len(x)
        return loss, outputs

    optimizer = kt.HessianFree(model.parameters(), stop=5, warm_start=0.0, **options, **settings)
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer.last_step


def test_training_a_deep_network_gets_further():
    plain = trained({}).loss_after
    for options in ({}, {"storage": "bfloat16"}):
        found = trained({"preconditioner": "kronecker", "preconditioner_options": options})
        assert found.loss_after < plain - 1
    assert trained({"preconditioner": "kronecker"}, solver="cg").loss_after < plain - 1
    half = trained({"preconditioner": "kronecker"}, autocast=True)
    assert half.loss_after < plain - 1


def test_the_record_counts_its_backward_passes():
    plain = trained({}, steps=1)
    found = trained(
        {"preconditioner": "kronecker", "preconditioner_options": {"probes": 3}}, steps=1
    )
    spent = GRADIENTS["ggn"] * found.products + GRADIENTS["loss"] * found.evaluations
    without = GRADIENTS["ggn"] * plain.products + GRADIENTS["loss"] * plain.evaluations
    more = (found.gradient_equivalents - spent) - (plain.gradient_equivalents - without)
    assert more == pytest.approx(3 * GRADIENTS["probe"])
    assert found.seconds["precondition"] > 0
