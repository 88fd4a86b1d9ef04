"""The Hessian of a loss at the outputs: recognised losses against autograd, and nothing recognised wrongly."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.6")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from krylov.torch.losses import loss_hessian

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(5)
B, C = 6, 4


def rand(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=GENERATOR)


Z = rand(B, C) * 4 - 2
LABELS = torch.tensor([0, 3, 1, 2, 1, 0])
HOLES = torch.tensor([0, -100, 1, 2, -100, 0])
ALL_HOLES = torch.full((B,), -100)
T, Q, W = rand(B, C), torch.softmax(4 * rand(B, C), 1), rand(C) + 0.1
ROWS = rand(B)
FREE = rand(3).requires_grad_()  # something else that is trained
ce, bce = F.cross_entropy, F.binary_cross_entropy_with_logits


def penalty():
    return FREE.exp().sum()


KNOWN = {
    "cross-entropy": lambda z: ce(z, LABELS),
    "sum, class weights, holes, smoothing": lambda z: ce(
        z, HOLES, weight=W, label_smoothing=0.1, reduction="sum"
    ),
    "mean, class weights, holes, smoothing": lambda z: ce(z, HOLES, weight=W, label_smoothing=0.1),
    "no reduction": lambda z: (ce(z, HOLES, reduction="none") * ROWS).sum(),
    "all ignored": lambda z: ce(z, ALL_HOLES, reduction="sum"),
    "soft targets": lambda z: ce(z, Q, weight=W),
    "targets from the outputs, detached": lambda z: ce(z, torch.softmax(z, 1).detach().flip(0)),
    "log-softmax and nll": lambda z: F.nll_loss(F.log_softmax(z, 1), LABELS),
    "Kullback-Leibler": lambda z: F.kl_div(F.log_softmax(z / 3, 1), Q, reduction="batchmean") * 9,
    "distillation": lambda z: F.kl_div(F.log_softmax(z, 1), Q, reduction="sum") + ce(z, LABELS),
    "log-softmax over rows": lambda z: F.log_softmax(z, 0)[0].sum(),
    "pixels": lambda z: ce(z.view(2, 3, C).transpose(1, 2), LABELS.view(2, 3)),
    "images": lambda z: ce(z.view(2, 3, 1, C).permute(0, 3, 1, 2), HOLES.view(2, 3, 1), weight=W),
    "in fewer digits": lambda z: ce(z.float(), LABELS).double(),
    "temperature": lambda z: ce(z / 2.5, LABELS),
    "scaled and shifted": lambda z: ce(z * W + T, LABELS),
    "masked": lambda z: ce(z.masked_fill(T > 0.7, -1e9), LABELS * 0 + T.argmin(1)),
    "next token": lambda z: ce(z[:-1], LABELS[1:]),
    "one more class": lambda z: ce(torch.cat([z, T[:, :1]], 1), LABELS),
    "squared error": lambda z: F.mse_loss(z, T),
    "squared error, sum": lambda z: F.mse_loss(z, T, reduction="sum"),
    "squared error, weighted": lambda z: (F.mse_loss(z, T, reduction="none") * W).mean(),
    "squared error, the other way round": lambda z: F.mse_loss(T, z),
    "squared error by hand": lambda z: ((z - T) ** 2).mean(),
    "square": lambda z: (z - T).square().sum() / 7,
    "square of a sum": lambda z: (z.sum() - 1) ** 2,
    "one column for all": lambda z: F.mse_loss(z[:, :1].expand(B, C), T),
    "some entries": lambda z: F.mse_loss(z[T > 0.5], T[T > 0.5]),
    "picked entries": lambda z: (z.gather(1, LABELS[:, None]) - 1).square().mean(),
    "indexed entries": lambda z: F.mse_loss(z[torch.arange(B), LABELS], ROWS),
    "steps": lambda z: F.mse_loss(z[::2, 1:], T[::2, 1:]),
    "argument is a sum": lambda z: F.mse_loss(z + z.flip(1), T),
    "where": lambda z: F.mse_loss(torch.where(z > 0.5, z, -2 * z), T),
    "in place": lambda z: F.mse_loss(z.clone().mul_(2).add_(1), T),
    "logistic": lambda z: bce(z, T, weight=W, pos_weight=W),
    "logistic, weighted": lambda z: (bce(z, T, pos_weight=W, reduction="none") * T).sum(),
    "logistic, sum": lambda z: bce(z, T, reduction="sum"),
    "logarithmic barrier": lambda z: -(z + 3).log().sum() / 7,
    "logarithm, weighted": lambda z: (z.square() / 2 - T * (3 * z[:, :3] + 9).log().sum()).mean(),
    "poisson": lambda z: F.poisson_nll_loss(z, T),
    "exponential of a part": lambda z: (2 * z[:, 1:]).exp().sum() + z.square().sum(),
    "divergence between Gaussians": lambda z: (z[:, 0] ** 2 + z[:, 1].exp() - z[:, 1]).mean(),
    "two terms": lambda z: ce(z, LABELS) + 0.3 * F.mse_loss(z, T),
    "each half its own": lambda z: ce(z[:, :2], LABELS % 2) + bce(z[:, 2:], T[:, 2:]),
    "negative weight": lambda z: -ce(z, LABELS),
    "divided by a number": lambda z: F.mse_loss(z, T) / torch.tensor(3.0),
    "divided by itself, detached": lambda z: F.mse_loss(z, T) / F.mse_loss(z, T).detach(),
    "linear": lambda z: (z * T).sum(),
    "linear part": lambda z: (z * T).sum() + F.mse_loss(z, T),
    "penalty elsewhere": lambda z: ce(z, LABELS) + penalty(),
    "factor elsewhere": lambda z: ce(z, LABELS) * penalty(),
    "target that is trained": lambda z: F.mse_loss(z, T * penalty()),
    "weight that is trained": lambda z: (ce(z, LABELS, reduction="none") * penalty()).mean(),
    "nothing": lambda z: F.mse_loss(z[:0], T[:0], reduction="sum") + F.mse_loss(z, T),
}
OTHER = {
    "target from the outputs": lambda z: ce(z, torch.softmax(z.flip(0), 1)),
    "logistic, target from the outputs": lambda z: bce(z, torch.sigmoid(z)),
    "squared error between outputs": lambda z: F.mse_loss(z, z.flip(0)),
    "squared error to itself": lambda z: F.mse_loss(z, z * 1),
    "product of terms": lambda z: ce(z, LABELS) * F.mse_loss(z, T),
    "square of a term": lambda z: ce(z, LABELS) * ce(z, LABELS),
    "term to the power": lambda z: ce(z, LABELS) ** 2,
    "constant over a term": lambda z: torch.tensor(3.0) / F.mse_loss(z, T),
    "reciprocal": lambda z: 1 / F.mse_loss(z, T),
    "quotient": lambda z: F.mse_loss(z, T) / (1 + z.square().sum()),
    "exponential": lambda z: ce(z, LABELS).exp(),
    "root": lambda z: F.mse_loss(z, T).sqrt(),
    "bounded outputs": lambda z: ce(torch.tanh(z), LABELS),
    "softmax twice": lambda z: ce(F.log_softmax(z, 1), LABELS),
    "softmax, squared error": lambda z: F.mse_loss(F.log_softmax(z, 1), T),
    "squares twice": lambda z: (z.square() - T).square().mean(),
    "entropy": lambda z: (F.softmax(z, 1) * F.log_softmax(z, 1)).sum(),
    "entropy of the logarithm": lambda z: (F.log_softmax(z, 1).exp() * F.log_softmax(z, 1)).sum(),
    "cross-entropy and entropy": lambda z: ce(z, LABELS) + (F.softmax(z, 1) ** 3).sum(),
    "focal": lambda z: (1 - (-ce(z, LABELS, reduction="none")).exp()).pow(2).mean(),
    "worst sample": lambda z: ce(z, LABELS, reduction="none").max(),
    "logarithm of probabilities": lambda z: -(F.softmax(z, 1).log() * T).sum(),
    "squared logarithm": lambda z: (z + 3).log().square().sum(),
    "logistic of probabilities": lambda z: F.binary_cross_entropy(torch.sigmoid(z), T),
    "cube": lambda z: ((z - T) ** 3).mean(),
    "power with a tensor": lambda z: torch.pow(z - T, torch.tensor(2.0)).mean(),
    "exponent": lambda z: (2**z).sum(),
    "broadcast within": lambda z: torch.ops.aten.mse_loss(z, T[:, :1]),
    "huber": lambda z: F.huber_loss(z, T, delta=0.3),
    "gaussian": lambda z: F.gaussian_nll_loss(z[:, 0], T[:, 0], z[:, 1].exp()),
    "norm": lambda z: (z - T).norm(),
    "products of outputs": lambda z: (z @ z.T).sum(),
    "clamped": lambda z: F.mse_loss(z.clamp(-1, 1), T),
    "in place, not linear": lambda z: ce(z.clone().exp_(), LABELS),
    "its own gradient": lambda z: (
        torch.autograd.grad(ce(z, LABELS), z, create_graph=True)[0].square().sum()
    ),
}


def outputs():
    """Outputs that are no leaf, as a model's."""
    return Z.clone().requires_grad_() * 1.0


def dense(loss):
    return torch.autograd.functional.hessian(loss, Z).reshape(B * C, B * C)


def products(H):
    eye = torch.eye(B * C, dtype=torch.float64).view(-1, B, C)
    found = [H.multiply([u])[0] for u in eye]
    rows = torch.stack([torch.zeros(B, C) if row is None else row for row in found])
    batched = H.multiply([eye], batched=True)[0]
    if batched is not None:
        torch.testing.assert_close(batched, rows, rtol=1e-10, atol=1e-14)
    return rows.reshape(B * C, B * C).double()


@pytest.mark.parametrize("name", [*KNOWN, *OTHER])
def test_products_are_those_of_the_dense_hessian(name):
    loss = {**KNOWN, **OTHER}[name]
    z = outputs()
    value = loss(z)
    H = loss_hessian(value, [z])
    assert H.is_closed_form == (name in KNOWN)
    tolerance = 1e-6 if name == "in fewer digits" else 1e-12
    torch.testing.assert_close(products(H), dense(loss), rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
    assert torch.equal(H.gradient[0], gradient)


def test_mean_over_ignored_targets_only_has_the_curvature_that_autograd_gives():
    z = outputs()
    loss = ce(z, ALL_HOLES)
    assert loss.isnan()
    assert not products(loss_hessian(loss, [z])).any()


@pytest.mark.parametrize("name", ["cross-entropy", "temperature", "squared error", "two terms"])
def test_samples_have_the_hessian_as_their_second_moment(name):
    z = outputs()
    H = loss_hessian(KNOWN[name](z), [z])
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([H.sample(generator)[0].reshape(-1) for _ in range(4000)])
    truth = dense(KNOWN[name])
    assert (found.T @ found / 4000 - truth).norm() < 0.1 * truth.norm()
    again = H.sample(torch.Generator().manual_seed(0))[0].reshape(-1)
    assert torch.equal(again, found[0])


def test_terms_with_negative_weight_have_no_factor():
    z = outputs()
    H = loss_hessian(-ce(z, LABELS) + F.mse_loss(z, T), [z])
    (found,) = H.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.abs(), torch.full((B, C), (2 / (B * C)) ** 0.5).double())
    linear = loss_hessian((z * T).sum(), [z])
    assert linear.sample(torch.Generator()) == [None]


def test_several_outputs():
    a, b = outputs(), outputs() * 2
    loss = ce(a + b.flip(1), LABELS) + F.mse_loss(b, T)
    H = loss_hessian(loss, [a, b])
    assert H.is_closed_form
    other = loss_hessian(loss + 0 * (a.sum() * b.sum()), [a, b])
    assert not other.is_closed_form
    for u in ([rand(B, C), rand(B, C)], [rand(B, C), None], [None, rand(B, C)]):
        for left, right in zip(H.multiply(u), other.multiply(u), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)
    only = loss_hessian(F.mse_loss(b, T), [a, b])
    assert only.multiply([rand(B, C), None]) == [None, None]
    assert not only.gradient[0].any()


def test_outputs_in_bfloat16_are_multiplied_in_the_digits_of_the_loss():
    z = outputs().bfloat16()
    H = loss_hessian(ce(z.float(), LABELS), [z])
    assert H.is_closed_form
    (product,) = H.multiply([torch.ones(B, C, dtype=torch.bfloat16) * T.bfloat16()])
    assert product.dtype == torch.bfloat16
    exact = (dense(lambda z: ce(z, LABELS)) @ T.reshape(-1)).view(B, C)
    torch.testing.assert_close(product.double(), exact, rtol=0.05, atol=2e-3)


def test_a_loss_that_does_not_depend_on_the_outputs_is_refused():
    with pytest.raises(ValueError, match="does not depend on the outputs"):
        loss_hessian(penalty(), [outputs()])


def test_a_large_vocabulary_takes_few_arrays_of_its_size():
    z = torch.randn(8, 5000).requires_grad_() * 1
    H = loss_hessian(ce(z, torch.arange(8)), [z])
    u = torch.randn(8, 5000)
    with torch.profiler.profile(profile_memory=True) as profile:
        H.multiply([u])
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert taken < 1.1 * u.nbytes


# Losses put together at random: whether they are recognised or not, the product is that of the dense Hessian.

ARGUMENTS = {
    "flip": lambda z: z.flip(1),
    "half": lambda z: z[:, ::2].repeat(1, 2),
    "scale": lambda z: -1.7 * z,
    "weights": lambda z: z * W,
    "shift": lambda z: z + T,
    "twice": lambda z: z + z.roll(1, 0),
    "turn": lambda z: z.t().reshape(B, C),
    "stack": lambda z: torch.stack(list(z.unbind(1)[::-1]), 1),
    "split": lambda z: torch.cat(z.split(2, 0)[::-1]),
    "where": lambda z: torch.where(T > 0.5, z, z.flip(0)),
    "quotient": lambda z: z / (W + 1),
    "inverse": lambda z: W / (z * z + 1),
    "tanh": lambda z: z.tanh(),
    "square": lambda z: z * z,
    "constant": lambda z: z.detach() + T,
    "mixed": lambda z: z * z.detach(),
}
TERMS = {
    "ce": lambda z: ce(z, LABELS, reduction="none"),
    "smooth": lambda z: ce(z, HOLES, weight=W, label_smoothing=0.2, reduction="none"),
    "mse": lambda z: F.mse_loss(z, T),
    "mse none": lambda z: F.mse_loss(T, z, reduction="none"),
    "bce": lambda z: bce(z, T, pos_weight=W),
    "square": lambda z: (z - T) ** 2,
    "quartic": lambda z: z**4,
    "linear": lambda z: z * T,
}
SUMMARIES = {
    "mean": lambda t, z: t.mean(),
    "sum": lambda t, z: 0.1 * t.sum(),
    "quotient": lambda t, z: t.sum() / 3,
    "other way": lambda t, z: 1 / (2 + t.mean() ** 2),
    "exp": lambda t, z: (0.1 * t).exp().mean(),
    "times outputs": lambda t, z: t.mean() * z.mean(),
    "plus outputs": lambda t, z: t.mean() + z.mean(),
}
PART = st.tuples(
    st.lists(st.sampled_from(sorted(ARGUMENTS)), max_size=3),
    st.sampled_from(sorted(TERMS)),
    st.sampled_from(sorted(SUMMARIES)),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(PART, min_size=1, max_size=3))
def test_losses_put_together_at_random(parts):
    def loss(z):
        total = 0.0
        for steps, term, summary in parts:
            argument = z
            for step in steps:
                argument = ARGUMENTS[step](argument)
            total = total + SUMMARIES[summary](TERMS[term](argument), z)
        return total

    z = outputs()
    value = loss(z)
    if value.requires_grad:
        H = loss_hessian(value, [z])
        torch.testing.assert_close(products(H), dense(loss), rtol=1e-9, atol=1e-9)
