"""Products with Hessian and Gauss-Newton matrices against dense truth."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from curvature_cases import (
    CASES,
    FIRST,
    KINDS,
    TARGETS,
    Case,
    Checkpointed,
    Heads,
    X,
    close,
    cross_entropy,
    dense,
    draw,
    mlp,
    operator,
    squared,
    two_heads,
)
from torch import nn

import krylov.torch as kt

torch.set_num_threads(1)


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
