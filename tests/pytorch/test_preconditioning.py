"""Which M a step gets, and what is learnt, saved and loaded."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from networks import classifier

import krylov.torch as kt
from krylov import NystromPreconditioner, Outcome
from krylov.torch.optim.preconditioning.policies import PRECONDITIONERS, make_preconditioning

OPTIONS = {
    "lbfgs": {"m": 3},
    "ritz": {"m": 3},
    "nystrom": {"m": 3, "worth": 0.5},
    "jacobi": {"probes": 2},
    "kronecker": {"every": 2, "probes": 16},
}


def make(name, options=None, n=31, **keywords):
    settings = {"dtype": torch.float64, "curvature": "ggn", "solver": "flexible_cg", "seed": 0}
    return make_preconditioning(name, options, n=n, **{**settings, **keywords})


def operator(problem=None):
    problem = problem or classifier()
    return kt.GaussNewtonOperator(
        lambda: problem.model(problem.x),
        lambda outputs: problem.loss_of(outputs, problem.y),
        problem.parameters,
    )


def solved(policy, A, damping, b):
    """A run as a step makes one."""
    from krylov import flexible_cg

    A.shift = 0.0
    M = policy.prepare(A, damping)
    A.shift = damping
    result = flexible_cg(A, b, M=M, rtol=1e-8)
    policy.learn(result.niter, result.outcome)
    return result


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_it_preconditions_the_damped_system(name):
    policy, A = make(name, OPTIONS[name]), operator()
    b = torch.randn(31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = len(solved(make(None), A, 1e-3, b).residual_norms) - 1
    counts = [solved(policy, A, damping, b).niter for damping in (1e-3, 1e-3, 1e-2, 1e-3)]
    assert all(count > 0 for count in counts)
    if name not in ("jacobi", "kronecker"):
        assert counts[-1] < plain
    A.shift = 0.0
    assert policy.prepare(A, 0.1) is not None
    A.shift = 0.1
    result = solved(policy, A, 0.1, b)
    assert result.outcome is Outcome.CONVERGED


@pytest.mark.parametrize("name", [None, *PRECONDITIONERS])
@pytest.mark.parametrize("way", ["state", "pickle", "deepcopy"])
def test_a_policy_goes_on_bit_for_bit(name, way):
    A = operator()
    b = torch.randn(31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = make(name, OPTIONS.get(name))
    for damping in (1e-2, 1e-3, 1e-3):
        solved(policy, A, damping, b)
    if way == "state":
        other = make(name, OPTIONS.get(name))
        other.load_state_dict(policy.state_dict())
    else:
        other = pickle.loads(pickle.dumps(policy)) if way == "pickle" else copy.deepcopy(policy)
    A = operator()
    for damping in (1e-3, 1e-2, 1e-3):
        first, second = solved(policy, A, damping, b), solved(other, A, damping, b)
        assert first.niter == second.niter
        assert torch.equal(first.x, second.x)


@pytest.mark.parametrize("name", [None, *PRECONDITIONERS])
@pytest.mark.parametrize("other", [None, *PRECONDITIONERS])
def test_states_of_other_policies_are_refused(name, other):
    if name == other:
        return
    policy = make(name, OPTIONS.get(name))
    before = policy.state_dict()
    with pytest.raises(ValueError, match="preconditioner"):
        policy.load_state_dict(make(other, OPTIONS.get(other)).state_dict())
    assert policy.state_dict().keys() == before.keys()


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_damaged_states_are_refused(name):
    policy = make(name, OPTIONS[name])
    for key in policy.state_dict():
        state = policy.state_dict()
        del state[key]
        with pytest.raises(ValueError, match="preconditioner"):
            policy.load_state_dict(state)


@pytest.mark.parametrize("name", ["lbfgs", "ritz"])
def test_states_of_other_sizes_are_refused(name):
    with pytest.raises(ValueError, match="n = 30"):
        make(name).load_state_dict(make(name, n=30).state_dict())


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"shift": 1.0}) for name in PRECONDITIONERS]
    + [(name, {"seed": 1}) for name in PRECONDITIONERS]
    + [(name, {"harvest": False}) for name in PRECONDITIONERS]
    + [(name, {"memory": 3, 5: 6}) for name in PRECONDITIONERS],
)
def test_unknown_options_are_named(name, options):
    with pytest.raises(TypeError, match="unknown preconditioner_options: ") as caught:
        make(name, options)
    assert all(str(key) in str(caught.value) for key in options)


BAD = [
    *[(name, "m", value) for name in ("lbfgs", "ritz", "nystrom") for value in (0, -1, 1.5, "x")],
    *[("nystrom", "worth", value) for value in ("x", None, float("nan"))],
    *[("nystrom", "remeasure", value) for value in (0, 1.5, "x")],
    *[("jacobi", "probes", value) for value in (0, 1.5, None)],
    *[("jacobi", "power", value) for value in ("x", None, float("inf"))],
    *[("jacobi", "diagonal", value) for value in ("x", None, 3)],
    *[("lbfgs", name, "x") for name in ("select", "storage", "apply", "scale")],
    ("ritz", "window", 0),
]


@pytest.mark.parametrize(("name", "option", "value"), BAD, ids=str)
def test_bad_options_are_named(name, option, value):
    with pytest.raises((TypeError, ValueError), match=f"{option} must be"):
        make(name, {option: value})


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="curvature='ggn'"):
        make("nystrom", curvature="hessian")
    with pytest.raises(ValueError, match="preconditioner is None"):
        make(None, {"m": 3})
    with pytest.raises(ValueError, match="preconditioner must be one of"):
        make("bfgs")
    with pytest.raises(TypeError, match="preconditioner_options"):
        make("lbfgs", 3)
    for name in ("lbfgs", "ritz"):
        with pytest.raises(ValueError, match="solver='flexible_cg'"):
            make(name, solver="bicgstab")


def test_the_diagonal_fits_the_curvature():
    for kind in ("hessian", "hybrid"):
        assert make("jacobi", curvature=kind).prepare(operator(), 0.1) is not None
        with pytest.raises(ValueError, match="diagonal='fisher'"):
            make("jacobi", {"diagonal": "gauss_newton"}, curvature=kind)


@pytest.mark.parametrize("diagonal", ["gauss_newton", "fisher"])
def test_parameters_without_curvature_do_no_harm(diagonal):
    """Not even without damping."""
    problem = classifier()
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    A = kt.GaussNewtonOperator(
        lambda: problem.model(problem.x),
        lambda outputs: problem.loss_of(outputs, problem.y),
        [*problem.parameters, unused],
    )
    for damping in (0.0, 1e-12, 1.0):
        M = make("jacobi", {"diagonal": diagonal}, n=34).prepare(A, damping)
        assert torch.isfinite(torch.from_numpy(M.inverse_diagonal)).all()
        assert (M.inverse_diagonal > 0).all()


@pytest.mark.parametrize("diagonal", ["gauss_newton", "fisher"])
def test_jacobi_is_the_diagonal_with_its_power(diagonal):
    problem = classifier()
    A = operator(problem)
    options = {"diagonal": diagonal, "probes": 1000, "power": 0.5}
    M = make("jacobi", options).prepare(A, 0.2)
    if diagonal == "fisher":
        wanted = problem.gradient(problem.read()).square()
        tolerance = 1e-9
    else:
        wanted, tolerance = problem.ggn(problem.read()).diagonal(), 0.1
    found = torch.from_numpy(M.inverse_diagonal)
    torch.testing.assert_close(found, (wanted + 0.2) ** -0.5, rtol=tolerance, atol=0)


def test_a_diagonal_that_is_not_finite_is_left_out():
    problem = classifier()
    problem.x *= float("nan")
    assert make("jacobi").prepare(operator(problem), 0.1) is None


class Runs:
    """Runs of given lengths; what sketches they led to."""

    def __init__(self, **options):
        self.policy, self.A = make("nystrom", {"m": 4, "worth": 2, **options}), operator()

    def __call__(self, iterations):
        before = self.A.count
        M = self.policy.prepare(self.A, 0.1)
        self.policy.learn(iterations, Outcome.STOPPED_BY_RULE)
        return M is not None, self.A.count - before


def test_nystrom_waits_for_runs_that_are_long_enough():
    run = Runs()
    assert [run(i) for i in (5, 8, 7)] == [(False, 0)] * 3  # not above 2 * 4
    assert run(9) == (False, 0)
    assert run(3) == (True, 4)
    assert run(3) == (True, 0)


def test_nystrom_sketches_anew_when_runs_get_longer_again():
    run = Runs()
    run(20)
    assert [run(i) for i in (4, 6, 7)] == [(True, 4), (True, 0), (True, 0)]
    assert run(4) == (True, 4)


def test_nystrom_gives_way_where_it_saves_nothing():
    run = Runs()
    run(20)
    assert run(20) == (True, 4)
    assert run(5) == (False, 0)  # the measure is now 5
    assert run(5) == (False, 0)


def test_nystrom_is_measured_again():
    run = Runs(remeasure=3)
    run(20)
    assert [run(4)[0] for _ in range(5)] == [True, True, True, False, False]


def test_nystrom_does_without_where_the_matrix_is_indefinite():
    """A loss that is not convex in the outputs; training must go on."""
    problem = classifier()
    A = kt.GaussNewtonOperator(
        lambda: problem.model(problem.x), lambda z: -z.square().sum(), problem.parameters
    )
    policy = make("nystrom", {"m": 4, "worth": 1, "remeasure": 5})
    spent = []
    for _ in range(7):
        before = A.count
        assert policy.prepare(A, 0.1) is None
        policy.learn(50, Outcome.NEGATIVE_CURVATURE)
        spent.append(A.count - before)
    assert spent == [0, 4, 0, 0, 0, 0, 4]


def test_nystrom_takes_no_more_columns_than_there_are():
    policy, A = make("nystrom", {"m": 100, "worth": 0.1}), operator()
    policy.learn(200, Outcome.CONVERGED)
    M = policy.prepare(A, 0.1)
    assert isinstance(M, NystromPreconditioner)
    assert M.m == 31
    assert A.count == 31


@pytest.mark.parametrize("seed", [0, (1 << 44) - 1, 1 << 60])
def test_any_seed_will_do_for_sketches(seed):
    policy = make("nystrom", {"m": 4, "worth": 1}, seed=seed)
    policy.learn(50, Outcome.CONVERGED)
    assert policy.prepare(operator(), 0.1) is not None


@pytest.mark.parametrize("name", ["lbfgs", "ritz"])
def test_more_columns_than_unknowns(name):
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = kt.HessianFree(
        [w], curvature="hessian", preconditioner=name, preconditioner_options={"m": 4}
    )

    def f():
        return (w - 3).square().sum() + (w[0] * w[1]) ** 2

    for _ in range(12):
        optimizer.step(f)
    (gradient,) = torch.autograd.grad(f(), w)
    assert gradient.norm() < 1e-4
