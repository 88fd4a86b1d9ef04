"""Products with Hessian and Gauss-Newton matrices against dense truth, and what they cost."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
import scipy.sparse.linalg

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import (
    CASES,
    LABELS,
    TARGETS,
    Case,
    Checkpointed,
    Heads,
    X,
    cross_entropy,
    draw,
    mlp,
    squared,
    two_heads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import krylov
import krylov.torch as kt
from krylov.torch import curvature, microbatches

torch.set_num_threads(1)
KINDS = ["hessian", "gauss_newton"]
FIRST = CASES[0]


def operator(case, kind, **options):
    return getattr(case, f"{kind}_operator")(**options)


def dense(case, kind):
    return getattr(case, f"dense_{kind}")()


def close(actual, expected, tolerance=1e-12):
    scale = float(torch.linalg.vector_norm(expected))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_of_the_dense_matrix(case, kind):
    A, truth = operator(case, kind), dense(case, kind)
    n = truth.shape[0]
    assert A.shape == (n, n)
    assert (A.dtype, A.device) == (torch.float64, torch.device("cpu"))
    v, V = draw(n, seed=3), draw(n, 5, seed=4)
    close(A @ v, truth @ v)
    close(A @ V, truth @ V)
    close(A.matmat(torch.eye(n, dtype=torch.float64)), truth)
    assert A.count == 6 + n
    close(A.gradient, case.dense_gradient())
    assert A.loss == pytest.approx(float(case.evaluate().detach()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_shift_is_added_and_may_change(kind):
    A, truth = operator(FIRST, kind, shift=2.0), dense(FIRST, kind)
    v, V = draw(36), draw(36, 3)
    close(A @ v, truth @ v + 2 * v)
    A.shift = -0.5
    close(A @ V, truth @ V - V / 2)
    A.shift = 0
    close(A(v), truth @ v)


@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind):
    case = Case("float32", mlp, X, cross_entropy)
    truth = dense(case, kind)
    case.model, case.x = case.model.float(), X.float()
    A = operator(case, kind)
    v = draw(36)
    assert A.dtype == torch.float32
    close((A @ v.float()).double(), truth @ v, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_two_precisions(kind):
    case = Case("two precisions", mlp, X, cross_entropy)
    truth = dense(case, kind)

    class Model(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.first, self.last = inner[0].float(), inner[2]

        def forward(self, x):
            return self.last(torch.tanh(self.first(x.float())).double())

    case.model = Model(case.model)
    A = operator(case, kind)
    assert A.dtype == torch.float64
    v = draw(36)
    close(A @ v, truth @ v, 1e-5)
    close(A @ torch.eye(36, dtype=torch.float64), truth, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["graph", "none"])
@pytest.mark.parametrize("where", ["within", "around"])
def test_autocast_in_bfloat16(kind, cache, where):
    """The same in a loss function as around the operator; products do not depend on where they are made."""
    case = Case(
        "autocast", lambda: nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 4)), X, None
    )
    case.model, case.x = case.model.float(), X.float()
    case.loss = lambda z: cross_entropy(z.float())
    exact = operator(case, kind)
    n = exact.shape[0]
    v = draw(n).float()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    if where == "within":
        model = case.model

        def outputs():
            with autocast:
                return model(case.x)

        case.outputs = outputs
        A = operator(case, kind, cache=cache)
    else:
        with autocast:
            with torch.no_grad():
                case.model(case.x)  # leaves casts without a graph in autocast's cache
            A = operator(case, kind, cache=cache)
    product = A @ v
    assert product.dtype == torch.float32
    assert 1e-5 < (product - exact @ v).norm() / (exact @ v).norm() < 0.03
    reference = exact @ v
    with autocast:
        assert torch.equal(A @ v, product)
        assert torch.equal(exact @ v, reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_products_need_no_gradient_mode(kind, context):
    with torch.no_grad():
        A = operator(FIRST, kind)
    truth = dense(FIRST, kind)
    with context():
        v = draw(36)
        close(A @ v, truth @ v)
        close(A @ draw(36, 2), truth @ draw(36, 2))
    product = A @ v.clone().requires_grad_()
    assert not product.requires_grad


# Functional models, groups, outputs.


@pytest.mark.parametrize("kind", KINDS)
def test_functional_model(kind):
    model = mlp().double()
    values = {name: draw(*p.shape, seed=i) for i, (name, p) in enumerate(model.named_parameters())}
    values = {name: value.requires_grad_() for name, value in values.items()}

    def outputs():
        return torch.func.functional_call(model, values, (X,))

    if kind == "hessian":
        A = kt.HessianOperator(lambda: cross_entropy(outputs()), values)
    else:
        A = kt.GaussNewtonOperator(outputs, cross_entropy, values)
    case = Case("same", mlp, X, cross_entropy)
    case.model.load_state_dict(values)
    close(A @ draw(36), dense(case, kind) @ draw(36))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_give_the_order_of_coordinates(kind):
    parameters = FIRST.parameters
    groups = [{"params": parameters[2:]}, {"params": parameters[:1]}, {"params": parameters[1]}]
    places = [0, 12, 16, 32, 36]
    order = torch.cat([torch.arange(36)[a:b] for a, b in [(16, 32), (32, 36), (0, 12), (12, 16)]])
    assert places[-1] == 36
    if kind == "hessian":
        A = kt.HessianOperator(FIRST.evaluate, groups)
    else:
        A = kt.GaussNewtonOperator(FIRST.outputs, cross_entropy, groups)
    truth = dense(FIRST, kind)
    v = draw(36)
    close(A @ v, truth[order][:, order] @ v)


def test_outputs_that_the_loss_does_not_use_are_passed_over():
    model = Heads().double()

    def outputs():
        z = model(X)
        h = z["label"]
        return {
            **z,
            "probabilities": h.softmax(1),
            "best": h.argmax(1),
            "note": "text",
            "none": None,
        }

    A = kt.GaussNewtonOperator(outputs, two_heads, model.parameters())
    B = kt.GaussNewtonOperator(lambda: model(X), two_heads, model.parameters())
    v = draw(A.shape[0])
    assert torch.equal(A @ v, B @ v)
    assert torch.equal(A.gradient, B.gradient)


def test_the_same_output_twice_counts_once():
    A = FIRST.gauss_newton_operator()
    model = FIRST.model

    def outputs():
        z = model(X)
        return z, [z]

    B = kt.GaussNewtonOperator(outputs, lambda z: cross_entropy(z[0]), model.parameters())
    close(B @ draw(36), A @ draw(36))
    close(B.gradient, A.gradient)


def test_an_output_computed_from_another_one():
    model = FIRST.model

    def outputs():
        z = model(X)
        return z, z.softmax(1)

    with pytest.raises(ValueError, match="computed from another one"):
        kt.GaussNewtonOperator(
            outputs, lambda z: cross_entropy(z[0]) + z[1].square().sum(), model.parameters()
        )
    # Only the inner one is used: then it is the output.
    A = kt.GaussNewtonOperator(outputs, lambda z: F.mse_loss(z[1], TARGETS), model.parameters())
    case = Case("softmax", lambda: nn.Sequential(mlp(), nn.Softmax(1)), X, squared)
    case.model[0].load_state_dict(model.state_dict())
    close(A @ draw(36), case.dense_gauss_newton() @ draw(36))


def test_part_of_the_outputs_of_one_operation():
    """The other half reaches the loss too, but is not given: it counts in the gradient only."""
    model = FIRST.model
    kept = []

    def outputs():
        a, b = model(X).chunk(2, 1)
        kept[:] = [b]
        return a

    def loss(a):
        return F.mse_loss(a, TARGETS[:, :2]) + F.mse_loss(kept[0], TARGETS[:, :2])

    A = kt.GaussNewtonOperator(outputs, loss, model.parameters())
    whole = kt.HessianOperator(lambda: loss(outputs()), model.parameters())
    close(A.gradient, whole.gradient)
    B = kt.GaussNewtonOperator(outputs, lambda a: F.mse_loss(a, TARGETS[:, :2]), model.parameters())
    close(A @ draw(36), B @ draw(36))


def test_a_penalty_within_the_loss_counts_in_the_gradient():
    def penalised(z):
        return cross_entropy(z) + 0.1 * sum(p.square().sum() for p in FIRST.parameters)

    A = kt.GaussNewtonOperator(FIRST.outputs, penalised, FIRST.parameters)
    H = kt.HessianOperator(lambda: penalised(FIRST.outputs()), FIRST.parameters)
    close(A.gradient, H.gradient)
    assert pytest.approx(H.loss) == A.loss
    close(A @ draw(36), FIRST.gauss_newton_operator() @ draw(36))
    close(H @ draw(36), FIRST.dense_hessian() @ draw(36) + 0.2 * draw(36))


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    case = CASES[-1]
    v = draw(16)
    close(case.gauss_newton_operator() @ v, case.hessian_operator() @ v)


def test_a_linear_loss_has_no_curvature():
    model = nn.Linear(3, 4).double()
    H = kt.HessianOperator(lambda: model(X).sum(), model.parameters())
    G = kt.GaussNewtonOperator(lambda: model(X), lambda z: z.sum(), model.parameters())
    for A in (H, G):
        assert torch.equal(A @ draw(16), torch.zeros(16).double())
        assert torch.equal(A @ draw(16, 3), torch.zeros(16, 3).double())
        assert A.gradient.any()


def test_parameters_as_outputs():
    w = draw(4).requires_grad_()
    A = kt.GaussNewtonOperator(lambda: w, lambda z: (z**4).sum(), [w])
    close(A @ draw(4), 12 * w.detach() ** 2 * draw(4))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_modules(kind):
    case, plain = (Case("", make, X, cross_entropy) for make in (Checkpointed, mlp))
    plain.model.load_state_dict(
        dict(zip(plain.model.state_dict(), case.model.state_dict().values(), strict=True))
    )
    A = operator(case, kind)
    for _ in range(2):
        close(A @ draw(36), dense(plain, kind) @ draw(36))


# Micro-batches.


def batched(kind, data, model=FIRST.model, **options):
    if kind == "hessian":
        return kt.HessianOperator(
            lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
            model.parameters(),
            data=data,
            **options,
        )
    return kt.GaussNewtonOperator(
        lambda batch: model(batch[0]),
        lambda z, batch: F.cross_entropy(z, batch[1]),
        model.parameters(),
        data=data,
        **options,
    )


BATCHES = [(X[:3], LABELS[:3]), (X[3:4], LABELS[3:4]), (X[4:], LABELS[4:])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["auto", "graph", "none"])
def test_micro_batches_are_the_mean_over_all_samples(kind, cache):
    whole, A = operator(FIRST, kind), batched(kind, BATCHES, cache=cache)
    close(A @ draw(36), whole @ draw(36))
    close(A @ draw(36, 20), whole @ draw(36, 20))
    close(A.gradient, whole.gradient)
    assert pytest.approx(whole.loss) == A.loss
    assert A.count == 21
    assert A._batches.kept == (0 if cache == "none" else 3)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_micro_batches(kind):
    weights = [0.5, -2.0, 3.0]
    A = batched(kind, BATCHES, weights=weights)
    parts = [batched(kind, [batch]) for batch in BATCHES]
    expected = sum(w * (part @ draw(36)) for w, part in zip(weights, parts, strict=True))
    close(A @ draw(36), expected)
    close(A.gradient, sum(w * part.gradient for w, part in zip(weights, parts, strict=True)))
    assert pytest.approx(sum(w * p.loss for w, p in zip(weights, parts, strict=True))) == A.loss


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_into_memory_is_kept(kind, monkeypatch):
    whole = operator(FIRST, kind)
    room = iter([1 << 40, 0, 1 << 40])
    monkeypatch.setattr(microbatches, "available_bytes", lambda device: next(room))
    A = batched(kind, BATCHES)
    assert A._batches.kept == 2
    close(A @ draw(36), whole @ draw(36))
    monkeypatch.setattr(microbatches, "available_bytes", lambda device: 0)
    B = batched(kind, BATCHES)
    assert B._batches.kept == 0
    close(B @ draw(36), whole @ draw(36))


@pytest.mark.parametrize("kind", KINDS)
def test_without_cache_nothing_is_kept(kind):
    A = operator(FIRST, kind, cache="none")
    assert A._batches.kept == 0
    close(A @ draw(36), dense(FIRST, kind) @ draw(36))


@pytest.mark.parametrize("kind", KINDS)
def test_few_columns_at_once_where_memory_is_short(kind, monkeypatch):
    monkeypatch.setattr(curvature, "available_bytes", lambda device: 0)
    A = operator(FIRST, kind)
    close(A @ draw(36, 4), dense(FIRST, kind) @ draw(36, 4))
    assert A._columns == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 1, 2, 16, 17])
def test_matrices_of_any_width(kind, k):
    A, V = operator(FIRST, kind), draw(36, k)
    product = A @ V
    assert product.shape == (36, k)
    assert A.count == k
    close(product, torch.stack([A @ v for v in V.T], 1) if k else V)


# In solvers.


@pytest.mark.parametrize("kind", KINDS)
def test_krylov_solves_with_the_operator_itself(kind):
    A = operator(FIRST, kind, shift=3.0)
    result = krylov.cg(A, -A.gradient, rtol=1e-10)
    assert result.outcome is krylov.Outcome.CONVERGED
    truth = dense(FIRST, kind) + 3 * torch.eye(36, dtype=torch.float64)
    close(result.x, torch.linalg.solve(truth, -A.gradient), 1e-8)
    assert A.count == result.nmatvec
    x = kt.solve(A, -A.gradient, rtol=1e-10)
    close(x, result.x, 1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_scipy_solves_with_it(kind, precision):
    case = Case("", mlp, X, cross_entropy)
    truth = dense(case, kind).numpy()
    case.model, case.x = case.model.to(precision), X.to(precision)
    A = operator(case, kind)
    L = A.to_scipy()
    assert L.shape == (36, 36)
    assert L.dtype == np.dtype(str(precision).removeprefix("torch."))
    tolerance = 1e-5 if precision == torch.float32 else 1e-10
    b = np.ones(36, L.dtype)
    b.flags.writeable = False
    np.testing.assert_allclose(L @ b, truth @ b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(L @ np.eye(36, dtype=L.dtype), truth, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(L.T @ b[:, None], truth @ b[:, None], rtol=tolerance, atol=tolerance)
    A.shift = 2.0
    x, info = scipy.sparse.linalg.cg(L, b, rtol=tolerance)
    assert info == 0
    expected = np.linalg.solve(truth + 2 * np.eye(36), b)
    np.testing.assert_allclose(x, expected, rtol=20 * tolerance, atol=20 * tolerance)


# Bad vectors.


@pytest.mark.parametrize(
    ("v", "error", "words"),
    [
        (np.ones(36), TypeError, "to_scipy"),
        ([1.0] * 36, TypeError, "torch tensor, not list"),
        (torch.ones(35).double(), ValueError, r"\(36,\) or \(36, k\)"),
        (torch.ones(36, 2, 2).double(), ValueError, r"\(36,\) or \(36, k\)"),
        (torch.ones(36), TypeError, "float32"),
        (torch.ones(36, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(36, dtype=torch.complex128), TypeError, "complex128"),
        (torch.ones(36, dtype=torch.float64, device="meta"), TypeError, "meta"),
        (torch.ones(()).double(), ValueError, r"\(36,\)"),
    ],
)
def test_wrong_vectors(v, error, words):
    for A in (FIRST.hessian_operator(), FIRST.gauss_newton_operator()):
        with pytest.raises(error, match=words):
            A @ v
        assert A.count == 0


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0, 1, 2, 35, 36]), max_size=3),
    st.sampled_from(DTYPES),
    st.sampled_from(["tensor", "array", "list"]),
    st.sampled_from(["@", "matvec", "matmat"]),
)
def test_whatever_is_given_is_multiplied_or_refused_by_name(shape, dtype, kind, way):
    value = torch.ones(shape, dtype=dtype)
    if kind == "array":
        value = value.real.float().numpy()
    elif kind == "list":
        value = value.tolist()
    A = FIRST.gauss_newton_operator()
    multiply = A.__matmul__ if way == "@" else getattr(A, way)
    wanted = {"@": (1, 2), "matvec": (1,), "matmat": (2,)}[way]
    if kind == "tensor" and dtype == torch.float64 and len(shape) in wanted and shape[0] == 36:
        assert list(multiply(value).shape) == shape
    else:
        with pytest.raises((TypeError, ValueError), match=r"^[vV] (must|is)"):
            multiply(value)


def test_vectors_where_matrices_belong():
    A = FIRST.hessian_operator()
    with pytest.raises(ValueError, match=r"v must have shape \(36,\)"):
        A.matvec(draw(36, 1))
    with pytest.raises(ValueError, match=r"V must have shape \(36, k\)"):
        A.matmat(draw(36))


def test_vectors_in_any_memory():
    A = FIRST.hessian_operator()
    V = draw(36, 4)
    close(A @ V[:, 1], A @ V[:, 1].clone())
    close(A @ V.T.contiguous().T, A @ V)
    before = V.clone()
    A.shift = 1.0
    A @ V
    assert torch.equal(V, before)


# What it costs.


class Costs:
    """In gradients of the network of the papers' size."""

    def __init__(self):
        widths = itertools.pairwise([784, 512, 512, 512, 10])
        parts = [part for a, b in widths for part in (nn.Linear(a, b), nn.Sigmoid())]
        self.model = nn.Sequential(*parts[:-1])
        self.x, self.y = torch.randn(32, 784), torch.randint(10, (32,))
        self.parameters = list(self.model.parameters())
        self.gradient = self.count(
            lambda: torch.autograd.grad(self.loss(self.model(self.x)), self.parameters)
        )

    def loss(self, z):
        return F.cross_entropy(z, self.y)

    def hessian(self):
        return kt.HessianOperator(lambda: self.loss(self.model(self.x)), self.parameters)

    def gauss_newton(self):
        return kt.GaussNewtonOperator(lambda: self.model(self.x), self.loss, self.parameters)

    def count(self, work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    def __call__(self, work):
        return self.count(work) / self.gradient


@pytest.mark.parametrize(("kind", "limit"), [("hessian", 1.75), ("gauss_newton", 1.30)])
def test_floating_point_operations(kind, limit):
    costs = Costs()
    make = getattr(costs, kind)
    assert costs(make) <= 1.1
    A = make()
    v = torch.ones(A.shape[0])
    assert costs(lambda: A @ v) <= limit
    assert costs(lambda: A @ torch.stack([v, v, v], 1)) <= 3 * limit
    assert costs(lambda: A.gradient) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["graph", "none"])
def test_nothing_stays_alive(kind, cache):
    """Without the collector of cycles: memory of graphs must go at once."""
    model = mlp().double()
    seen = []

    def outputs(batch):
        z = model(batch)
        seen.append(weakref.ref(z))
        return z

    gc.disable()
    try:
        if kind == "hessian":
            A = kt.HessianOperator(
                lambda batch: squared(outputs(batch)), model.parameters(), data=[X], cache=cache
            )
        else:
            A = kt.GaussNewtonOperator(
                outputs, lambda z, _: squared(z), model.parameters(), data=[X], cache=cache
            )
        A @ draw(36)
        A @ draw(36, 3)
        refs = [*seen, weakref.ref(A), weakref.ref(A._batches)]
        del A
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
