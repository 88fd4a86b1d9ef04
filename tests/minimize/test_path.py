"""Steps of any length from one inner solve: their model values and what they cost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import krylov
from krylov.minimize.inner import Forcing, InnerSolver
from krylov.minimize.objective import Iterate
from krylov.minimize.options import Options


def model(lowest, n, seed, M=False, **options):
    """A random quadratic model, and the steps an inner solve finds for it."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    h = (q * np.linspace(lowest, 5.0, n)) @ q.T
    h, g = (h + h.T) / 2, rng.standard_normal(n)
    if M:
        options["M"] = krylov.JacobiPreconditioner(rng.uniform(0.5, 2.0, n))
    options = Options(forcing=1e-6, gtol=0.0, **options)
    solver = InnerSolver(n, options, Forcing(1e-6, 0.0))
    at = Iterate(np.zeros(n), 0.0, g, float(np.linalg.norm(g)))
    return h, g, lambda radius: solver(aslinearoperator(h), at, radius)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    lowest=st.sampled_from([-2.0, -0.1, 0.3]),
    n=st.integers(1, 25),
    seed=st.integers(0, 1000),
    solver=st.sampled_from(["cg", "flexible_cg", "bicgstab"]),
    preconditioned=st.booleans(),
    radius=st.floats(0.01, 20.0),
    ratio=st.floats(0.01, 3.0),
)
def test_model_values_need_no_product(lowest, n, seed, solver, preconditioned, radius, ratio):
    h, g, solve = model(lowest, n, seed, preconditioned, solver=solver)
    step = solve(radius).path.step(radius * ratio)
    d = step.d
    assert step.norm == pytest.approx(np.linalg.norm(d))
    assert step.norm <= radius * ratio * (1 + 1e-8)
    scale = np.abs(g @ d) + np.abs(d @ h @ d) + 1e-12
    assert step.slope == pytest.approx(g @ d, abs=1e-8 * scale)
    assert step.curvature == pytest.approx(d @ h @ d, abs=1e-5 * scale)
    assert step.decrease > 0
    # As good as steepest descent within the radius, which is what convergence rests on; a run that ended at a larger
    # radius has it on its way, as long as there is no preconditioner and the candidates are those of cg.
    if solver != "bicgstab" and not preconditioned:
        length = radius * min(ratio, 1.0)
        curvature = g @ h @ g
        t = length / np.linalg.norm(g)
        t = min(t, g @ g / curvature) if curvature > 0 else t
        assert step.decrease >= (1 - 1e-6) * (t * g @ g - 0.5 * t * t * curvature)


def test_a_longer_radius_never_has_a_worse_model_value():
    for seed in range(20):
        _, _, solve = model(-1.0, 15, seed)
        path = solve(10.0).path
        values = [path.step(r).decrease for r in np.geomspace(1e-3, 40, 60)]
        assert np.all(np.diff(values) >= -1e-12)


def test_without_a_radius_negative_curvature_is_returned_downhill():
    for seed in range(20):
        h, g, solve = model(-1.0, 15, seed)
        inner = solve(None)
        u = inner.direction
        assert np.linalg.norm(u) == pytest.approx(1)
        assert u @ h @ u == pytest.approx(inner.direction_curvature)
        assert inner.direction_curvature < 0
        assert g @ u <= 0


def test_rejected_steps_cost_no_products():
    """An objective far from its model: every trial but the last of an iteration is rejected."""

    def fun(x):
        return float(np.sum(np.sqrt(1 + (10 * x) ** 2)))

    def jac(x):
        return 100 * x / np.sqrt(1 + (10 * x) ** 2)

    def hessp(x, p):
        return 100 * p / np.sqrt(1 + (10 * x) ** 2) ** 3

    x0 = np.linspace(1.0, 4.0, 7)
    result = krylov.minimize.newton_krylov(
        fun,
        x0,
        jac=jac,
        hessp=hessp,
        initial_trust_radius=1e6,
        inner_maxiter=3,
        saddle_check=0,
        check_gradient=False,
    )
    assert result.success
    assert result.nfev > result.nit + 3  # rejections there were
    assert result.nprod <= 3 * result.nit


@pytest.mark.parametrize("kind", ["eisenstat-walker", "superlinear", 0.1])
def test_forcing_terms(kind):
    forcing = Forcing(kind, gtol=1e-8)
    terms = [forcing(norm) for norm in (1.0, 0.5, 1e-2, 1e-4, 1e-6)]
    assert all(0 < term <= 0.5 for term in terms)
    assert terms[-1] <= terms[0]
    # No more accuracy than the end of the run needs.
    assert forcing(1e-8) >= 0.5
    assert SimpleNamespace(value=Forcing(kind, gtol=1.0)(1.0)).value >= 0.5
