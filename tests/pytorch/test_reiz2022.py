"""The scenarios of Reiz et al. (`bench/papers/reiz2022`): loaders, models, bounds, budgets."""

from __future__ import annotations

import gzip
import importlib
import itertools
import lzma
import math
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import krylov.torch as kt

PAPERS = Path(__file__).resolve().parents[2] / "bench" / "papers"
COUNTRIES = "Country,Year,Status,Life expectancy , BMI ,GDP"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module that lies in the folder of the papers."""
    monkeypatch.syspath_prepend(str(PAPERS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(PAPERS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder, name, text):
    path = folder / "tabular" / name
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        file.write(text)


def life(folder, *rows):
    write(folder, "life_expectancy.csv.gz", "\r\n".join([COUNTRIES, *rows, ""]))


def test_missing_values(bench, tmp_path):
    tables = bench("reiz2022.tables")
    life(
        tmp_path,
        "A,2000,Developing,60,1.0,",
        "A,2001,Developed,70,,5",
        "B,2000,Developing,,100,100",  # no target: its other values do not count either
        "B,2001,Developed,80,3.0,8",
    )
    x, y = tables.life_expectancy(tmp_path)
    year, status = [2000.0, 2001, 2001], [0.0, 1, 1]
    bmi, gdp = [1.0, 2.0, 3.0], [6.5, 5, 8]
    expected = np.array([year, status, bmi, gdp]).T
    expected = (expected - expected.mean(0)) / expected.std(0)
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], np.array([-1, 0, 1]) * math.sqrt(1.5), atol=1e-6)
    assert x.dtype == y.dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (("A,2000,Developing,60,1",), "5 cells, but 6 columns"),
        (("A,2000,Rich,60,1,2",), "'Rich' in column Status"),
        (("A,2000,Developing,sixty,1,2",), "'sixty' in column Life expectancy"),
        (("A,2000,Developing,60,,2", "B,2000,Developing,61,,2"), "column BMI"),
        (("A,2000,Developing,,1,2",), "no row"),
    ],
)
def test_damaged_tables_are_named(bench, tmp_path, rows, words):
    tables = bench("reiz2022.tables")
    life(tmp_path, *rows)
    with pytest.raises(click.ClickException, match=words):
        tables.life_expectancy(tmp_path)


def test_a_folder_without_tables(bench, tmp_path):
    tables = bench("reiz2022.tables")
    for load in (tables.life_expectancy, tables.boston):
        with pytest.raises(click.ClickException, match="--data"):
            load(tmp_path)


def test_boston(bench, tmp_path):
    tables = bench("reiz2022.tables")
    write(tmp_path, "boston_housing.csv.gz", '"crim","chas","medv"\n1,"0",5\n3,"0",9\n')
    x, y = tables.boston(tmp_path)
    np.testing.assert_array_equal(x, [[-1, 0], [1, 0]])  # a constant column is zero
    np.testing.assert_array_equal(y, [[-1], [1]])
    write(tmp_path, "boston_housing.csv.gz", '"crim","medv"\n1,\n')
    with pytest.raises(click.ClickException, match="missing values"):
        tables.boston(tmp_path)
    write(tmp_path, "boston_housing.csv.gz", '"medv","crim"\n1,2\n')
    with pytest.raises(click.ClickException, match="medv"):
        tables.boston(tmp_path)


def test_the_divergence_is_the_expected_log_ratio(bench):
    bayesian = bench("reiz2022.bayesian")
    torch.manual_seed(0)
    means, logits = torch.randn(2, 5).double()
    scales = logits.sigmoid()
    found = bayesian.divergence(bayesian.Posterior(means, scales))
    q, prior = torch.distributions.Normal(means, scales), torch.distributions.Normal(0.0, 1.0)
    exact = torch.distributions.kl_divergence(q, prior).sum()
    assert found == pytest.approx(float(exact), rel=1e-12)
    draws = q.sample((200_000,))
    sampled = (q.log_prob(draws) - prior.log_prob(draws)).sum(1).mean()
    assert found == pytest.approx(float(sampled), rel=0.02)


def test_noise_of_outputs_is_that_of_drawn_weights(bench):
    bayesian = bench("reiz2022.bayesian")
    torch.manual_seed(0)
    layer = bayesian.BayesianLinear(3, 2)
    with torch.no_grad():
        layer.weight_rho.uniform_(-0.1, 0.02)
        layer.bias_rho.uniform_(-0.1, 0.02)
        x = torch.tensor([[1.0, -2.0, 0.5]])
        count = 100_000
        found = layer(x.expand(count, 3))
        means, scales = layer.posterior()
        w = means + scales * torch.randn(count, len(means))
        naive = (w[:, :6].view(count, 2, 3) * x).sum(2) + w[:, 6:]
    np.testing.assert_allclose(found.mean(0), naive.mean(0), atol=0.02)
    np.testing.assert_allclose(found.std(0), naive.std(0), rtol=0.02)


def test_the_bound_of_the_bayesian_net(bench):
    bayesian = bench("reiz2022.bayesian")
    torch.manual_seed(0)
    net = bayesian.BayesianNet((4, 3, 2)).double()
    x, y = torch.randn(6, 4).double(), torch.randint(2, (6,))
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    loss, (outputs, *posterior) = bayesian.bound(net, x, y, 50, seeded[0])
    q = bayesian.Posterior(*posterior)
    assert all(part.shape == (4 * 3 + 3 + 3 * 2 + 2,) for part in q)
    torch.testing.assert_close(q.scales, torch.full_like(q.scales, 0.05))
    torch.testing.assert_close(outputs, net(x, seeded[1]))
    expected = F.cross_entropy(outputs, y) + bayesian.divergence(q) / 50
    torch.testing.assert_close(loss, expected)


def noisy_loss(bench, name):
    """A small network of a scenario with noise, its closure, and the loss as a function of the outputs."""
    torch.manual_seed(0)
    x, y = torch.rand(6, 4).double(), torch.randint(2, (6,))
    if name == "bnn-mnist":
        bayesian = bench("reiz2022.bayesian")
        net = bayesian.BayesianNet((4, 3, 2)).double()

        def of_outputs(outputs):
            logits, *posterior = outputs
            q = bayesian.Posterior(*posterior)
            return F.cross_entropy(logits, y) + bayesian.divergence(q) / 50

        return net, lambda g: bayesian.bound(net, x, y, 50, g), of_outputs
    variational = bench("reiz2022.variational")
    net = variational.VariationalAutoencoder(4, 3, 2).double()

    def closure(generator):
        outputs = net(x, generator)
        return variational.negative_bound(outputs, x), tuple(outputs)

    return net, closure, lambda outputs: variational.negative_bound(outputs, x)


@pytest.mark.parametrize("name", ["bnn-mnist", "vae-mnist"])
def test_outputs_give_the_whole_gradient_and_a_semidefinite_matrix(bench, name):
    net, closure, by_outputs_alone = noisy_loss(bench, name)
    params = list(net.parameters())
    loss, outputs = closure(torch.Generator().manual_seed(3))
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, params, retain_graph=True)]
    )
    by_outputs = torch.autograd.grad(loss, outputs, retain_graph=True)
    chained = torch.autograd.grad(outputs, params, by_outputs)
    torch.testing.assert_close(torch.cat([g.flatten() for g in chained]), gradient)
    operator = kt.GaussNewtonOperator(
        lambda: closure(torch.Generator().manual_seed(3))[1], by_outputs_alone, params
    )
    eigenvalues = torch.linalg.eigvalsh(operator @ torch.eye(operator.shape[0]).double())
    assert eigenvalues[0] > -1e-12
    if name == "bnn-mnist":
        assert eigenvalues[0] > 0  # that of the divergence


@pytest.mark.parametrize("rho", [-1e3, -3.0, 0.0, 1e3])
def test_curvature_of_the_divergence_is_finite_for_any_scale(bench, rho):
    """In float32, and in closed form: a preconditioner's diagonal comes from it."""
    bayesian = bench("reiz2022.bayesian")
    torch.manual_seed(0)
    net = bayesian.BayesianNet((4, 3, 2))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("_rho"):
                parameter.fill_(rho)
    x, y = torch.rand(6, 4), torch.randint(2, (6,))
    drawn = torch.Generator().manual_seed(1).get_state()

    def outputs():
        generator = torch.Generator()
        generator.set_state(drawn)
        return bayesian.bound(net, x, y, 50, generator)[1]

    def loss(found):
        logits, *posterior = found
        divergence = bayesian.divergence(bayesian.Posterior(*posterior))
        return F.cross_entropy(logits, y) + divergence / 50

    operator = kt.GaussNewtonOperator(outputs, loss, list(net.parameters()))
    assert torch.isfinite(operator @ torch.ones(operator.shape[0])).all()
    diagonal = kt.GaussNewtonDiagonal(operator, method="factor").diagonal
    assert torch.isfinite(diagonal).all()


@pytest.mark.parametrize("name", ["bnn-mnist", "vae-mnist"])
def test_second_order_steps_lower_a_noisy_bound(bench, name):
    net, closure, _ = noisy_loss(bench, name)
    optimizer = kt.HessianFree(net.parameters(), damping=0.1)
    losses = []
    for _ in range(3):
        losses.append(float(optimizer.step(lambda: closure(torch.Generator().manual_seed(3)))))
        assert not optimizer.last_step.negative_curvature
    assert optimizer.last_step.loss_after < losses[-1] < losses[0]


def test_the_bound_of_the_autoencoder(bench):
    variational = bench("reiz2022.variational")
    torch.manual_seed(0)
    net = variational.VariationalAutoencoder(4, 3, 2)
    x = torch.rand(5, 4)
    generator = torch.Generator().manual_seed(2)
    outputs = net(x, generator)
    logits, means, log_variances = outputs
    noise = torch.randn((5, 2), generator=torch.Generator().manual_seed(2))
    z = means + log_variances.exp().sqrt() * noise
    torch.testing.assert_close(net.decoder(z), logits)
    p = logits.sigmoid()
    fit = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    q = torch.distributions.Normal(means, log_variances.exp().sqrt())
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(variational.negative_bound(outputs, x), (fit + divergence).mean())


@pytest.mark.parametrize(
    ("name", "side", "classes", "parameters"),
    [("resnet20", 32, 10, 272_474), ("resnet50", 32, 1000, 25_557_032)],
)
def test_residual_networks(bench, name, side, classes, parameters):
    model = getattr(bench("reiz2022.resnet"), name)()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        assert model(torch.randn(2, 3, side, side)).shape == (2, classes)


def test_a_clock_pauses_and_ends(bench):
    clock_module = bench("clock")
    ticks = itertools.count()
    losses = iter(range(100, 0, -1))
    clock = clock_module.Clock(
        lambda: {"loss": float(next(losses))}, 10.0, lambda: float(next(ticks))
    )
    clock.start()
    steps = []

    def train():
        while True:
            steps.append(None)
            clock.pay(0.5)
            clock.tick()

    with pytest.raises(clock_module.Over):
        train()
    points = clock.points
    # Each step reads the time twice: one second for what it pays, one until its tick.
    assert points["seconds"][0] == 0
    assert points["seconds"][-1] == 10
    assert points["passes"][-1] == 0.5 * len(steps)
    assert points["loss"] == sorted(points["loss"], reverse=True)


def test_a_step_that_does_not_end_is_cut(bench):
    clock_module = bench("clock")
    now = iter([0.0, 1.0, 13.0, 13.0])
    clock = clock_module.Clock(lambda: {"loss": 1.0}, 10.0, lambda: next(now))
    clock.start()
    clock.pay(1)
    with pytest.raises(clock_module.Over):
        clock.pay(1)
    assert clock.points == {"loss": [1, 1], "seconds": [0, 13], "passes": [0, 2]}


@pytest.mark.parametrize(
    ("x", "expected"), [(0, 8.0), (1, 4.0), (1.5, 3.0), (2, 2.0), (2.1, math.nan)]
)
def test_the_loss_at_a_budget(bench, x, expected):
    assert bench("clock").at([0, 1, 2], [8.0, 4.0, 2.0], x) == pytest.approx(expected, nan_ok=True)


def test_a_run_of_each_contestant(bench, tmp_path):
    """On a made-up table, through tuning, tables and files."""
    scenario, contestants = bench("reiz2022.scenario"), bench("reiz2022.contestants")
    clock_module = bench("clock")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((40, 3))).float()
    y = x.sin().sum(1, keepdim=True)
    task = scenario.Scenario(
        x, y, lambda: kt.mlp(3, 1, (5,), activation="tanh"), scenario._squared, 10.0, 5, micro=16
    )
    settings = {
        "sgd": {"lr": 0.1, "batch": 8},
        "adam": {"lr": 0.01, "batch": 8},
        "lbfgs": {"batch": 40, "iterations": 3},
        "hessian_free": {"batch": 10, "growth": 2.0, "part": 2},
        "newton_cg": {"curvature": "ggn", "batch": 20},
        "neumann": {"lr": 0.05, "batch": 8},
    }
    for name, setting in settings.items():
        model = task.model(0)
        ticks = itertools.count()
        clock = clock_module.Clock(
            lambda model=model: task.measured(model), 60.0, lambda ticks=ticks: float(next(ticks))
        )
        clock.start()
        with pytest.raises(clock_module.Over):
            getattr(contestants, name)(contestants.Task(task, model, clock, 0), setting)
        points = clock.points
        assert points["loss"][-1] < 0.8 * points["loss"][0], name
        assert points["passes"] == sorted(points["passes"]), name


def test_images(bench, tmp_path):
    cifar = bench("cifar")
    folder = tmp_path / "cifar10"
    folder.mkdir()
    records = np.zeros((2, 3073), np.uint8)
    records[:, 0] = [3, 9]
    records[1, 1:1025] = 255  # red
    with lzma.open(folder / "data_batch_1.bin.xz", "wb") as file:
        file.write(records.tobytes())
    images, labels = cifar.cifar10(tmp_path)
    assert labels.tolist() == [3, 9]
    assert images.shape == (2, 3, 32, 32)
    assert float(images[1, 0].min()) > 0 > float(images[1, 1:].max())
