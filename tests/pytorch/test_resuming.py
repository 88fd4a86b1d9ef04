"""A `HessianFree` that is saved and loaded, copied or pickled goes on bit for bit."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import copy
import io
import math
import pickle

import pytest

torch = pytest.importorskip("torch")

from networks import classifier, digits

import krylov.torch as kt

EVERY = {
    "plain": {},
    "lbfgs": {"preconditioner": "lbfgs", "preconditioner_options": {"m": 4}},
    "lbfgs-bfloat16": {
        "preconditioner": "lbfgs",
        "preconditioner_options": {"m": 4, "storage": "bfloat16", "scale": "shift"},
    },
    "ritz": {"preconditioner": "ritz", "preconditioner_options": {"m": 4}},
    "nystrom": {"preconditioner": "nystrom", "preconditioner_options": {"m": 4, "worth": 0.5}},
    "jacobi": {"preconditioner": "jacobi"},
    "fisher": {"preconditioner": "jacobi", "preconditioner_options": {"diagonal": "fisher"}},
    "hybrid": {"curvature": "hybrid", "solver": "cg"},
    "bicgstab": {"curvature": "hessian", "solver": "bicgstab", "stop": 8},
}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(first, second):
    """Records that differ in nothing but seconds; NaN is NaN."""
    for a, b in zip(first, second, strict=True):
        pairs = (a.as_dict(), b.as_dict())
        assert len({repr({**p, "seconds": None}) for p in pairs}) == 1


def built(options):
    problem = digits(samples=60, hidden=4)
    return problem, kt.HessianFree(problem.parameters, damping=0.05, maxiter=10, **options)


def steps(problem, optimizer, count):
    records = []
    for _ in range(count):
        optimizer.step_batches(
            problem.closure, gradient=problem.batches(30), curvature=problem.batches(20)[:1]
        )
        records.append(optimizer.last_step)
    return records


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_optimizer_goes_on_bit_for_bit(name):
    problem, optimizer = built(EVERY[name])
    steps(problem, optimizer, 3)
    saved = through_a_file([problem.model.state_dict(), optimizer.state_dict()])
    records = steps(problem, optimizer, 4)
    other, resumed = built(EVERY[name])
    other.model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert_same(steps(other, resumed, 4), records)
    assert torch.equal(other.read(), problem.read())
    assert resumed.damping == optimizer.damping


@pytest.mark.parametrize("name", EVERY)
def test_a_state_outlives_the_steps_after_it(name):
    """What was taken is a picture, whether or not it went to a file."""
    problem, optimizer = built(EVERY[name])
    steps(problem, optimizer, 2)
    model, state = copy.deepcopy(problem.model.state_dict()), optimizer.state_dict()
    records = steps(problem, optimizer, 3)
    problem.model.load_state_dict(model)
    optimizer.load_state_dict(state)  # into an optimizer that has gone on
    assert_same(steps(problem, optimizer, 3), records)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", EVERY)
def test_copies_go_on_bit_for_bit(name, way):
    problem, optimizer = built(EVERY[name])
    steps(problem, optimizer, 3)
    pair = (problem, optimizer)
    if way == "deepcopy":
        other, twin = copy.deepcopy(pair)
    else:
        other, twin = pickle.loads(pickle.dumps(pair))
    assert_same([twin.last_step], [optimizer.last_step])
    before = problem.read()
    twins = steps(other, twin, 3)
    assert torch.equal(problem.read(), before), "a copy must not share parameters"
    assert_same(twins, steps(problem, optimizer, 3))
    assert torch.equal(other.read(), problem.read())


def test_a_copy_with_hooks_and_a_scheduler():
    problem, optimizer = built({})
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step(problem)
    other, twin = copy.deepcopy((problem, optimizer))
    twin.step(other)
    optimizer.step(problem)
    assert torch.equal(other.read(), problem.read())
    with pytest.raises(RuntimeError, match="build a new optimizer"):
        twin.add_param_group({"params": [torch.ones(2, requires_grad=True)]})


def test_groups_are_part_of_the_state():
    _, optimizer = built({"lr": 0.5, "weight_decay": 0.1})
    state = through_a_file(optimizer.state_dict())
    _, other = built({})
    other.load_state_dict(state)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == (0.5, 0.1)


def test_a_fresh_optimizer_has_a_state():
    problem, optimizer = built({"preconditioner": "ritz"})
    state = through_a_file(optimizer.state_dict())
    records = steps(problem, optimizer, 2)
    other, resumed = built({"preconditioner": "ritz"})
    resumed.load_state_dict(state)
    assert_same(steps(other, resumed, 2), records)


def picture(optimizer):
    state = optimizer.state_dict()
    return pickle.dumps(
        (state["param_groups"], {k: str(v) for k, v in state["hessian_free"].items()})
    )


def wrong_states():
    problem, optimizer = built(EVERY["lbfgs"])
    steps(problem, optimizer, 2)
    state = optimizer.state_dict()
    yield "another optimizer", torch.optim.SGD(problem.parameters, lr=0.1).state_dict(), KeyError
    yield "nothing", {}, KeyError
    small = classifier(dtype=torch.float32)
    other = kt.HessianFree(small.parameters, **EVERY["lbfgs"])
    other.step(small)
    yield "other parameters", other.state_dict(), ValueError
    for key in ("memory", "preconditioning"):
        broken = copy.deepcopy(state)
        del broken["hessian_free"][key]
        yield f"no {key}", broken, ValueError
    for key in state["hessian_free"]["memory"]:
        broken = copy.deepcopy(state)
        del broken["hessian_free"]["memory"][key]
        yield f"no {key}", broken, ValueError
    broken = copy.deepcopy(state)
    broken["hessian_free"]["memory"]["more"] = 1
    yield "something more", broken, ValueError
    for key in state["hessian_free"]["memory"]:
        broken = copy.deepcopy(state)
        broken["hessian_free"]["memory"][key] = "x"
        yield f"a word for {key}", broken, ValueError
    broken = copy.deepcopy(state)
    broken["hessian_free"] = [1]
    yield "a list", broken, ValueError
    for key in ("memory", "preconditioning"):
        broken = copy.deepcopy(state)
        broken["hessian_free"][key] = [1]
        yield f"a list for {key}", broken, ValueError
    for key in ("damping", "largest_gradient", "steps"):
        for bad in (-1, math.nan, math.inf, None):
            broken = copy.deepcopy(state)
            broken["hessian_free"]["memory"][key] = bad
            yield f"{key} {bad}", broken, ValueError
    direction = state["hessian_free"]["memory"]["direction"]
    for name, bad in {
        "NaN": direction * math.nan,
        "a longer": torch.cat([direction, direction]),
        "a matrix for": direction[None],
        "integers for": direction.long(),
        "numbers for": direction.tolist(),
    }.items():
        broken = copy.deepcopy(state)
        broken["hessian_free"]["memory"]["direction"] = bad
        yield f"{name} direction", broken, ValueError
    for key in ("lr", "weight_decay"):
        for bad in (-1, math.nan, None):
            broken = copy.deepcopy(state)
            broken["param_groups"][0][key] = bad
            yield f"{key} {bad}", broken, ValueError
        broken = copy.deepcopy(state)
        del broken["param_groups"][0][key]
        yield f"no {key}", broken, ValueError
    broken = copy.deepcopy(state)
    broken["param_groups"].append(broken["param_groups"][0])
    yield "more groups", broken, ValueError
    broken = copy.deepcopy(state)
    del broken["hessian_free"]["preconditioning"]["M"]["dtype"]
    yield "a damaged preconditioner", broken, ValueError
    for name in ("ritz", "nystrom", None):
        made = kt.HessianFree(problem.parameters, lr=0.3, preconditioner=name)
        yield f"preconditioner {name}", made.state_dict(), ValueError
    made = kt.HessianFree(
        problem.parameters, preconditioner="lbfgs", preconditioner_options={"m": 5}
    )
    yield "other options", made.state_dict(), ValueError


WRONG = list(wrong_states())


@pytest.mark.parametrize(("name", "state", "error"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_states_are_refused_and_change_nothing(name, state, error):
    problem, optimizer = built(EVERY["lbfgs"])
    steps(problem, optimizer, 2)
    before = picture(optimizer)
    with pytest.raises(error) as caught:
        optimizer.load_state_dict(state)
    for entry in ("direction", "damping", "largest_gradient", "steps", "lr", "weight_decay"):
        assert entry not in name or entry in str(caught.value)
    assert picture(optimizer) == before
    steps(problem, optimizer, 1)
    assert optimizer.last_step.accepted


@pytest.mark.parametrize("key", ["plain", "first", "age", "sketches", "rest"])
@pytest.mark.parametrize("bad", ["x", -1, 0.5])
def test_the_counts_of_a_sketch_are_checked(key, bad):
    problem, optimizer = built(EVERY["nystrom"])
    steps(problem, optimizer, 3)
    before, state = picture(optimizer), copy.deepcopy(optimizer.state_dict())
    state["hessian_free"]["preconditioning"][key] = bad
    with pytest.raises(ValueError, match=key):
        optimizer.load_state_dict(state)
    assert picture(optimizer) == before


def test_the_seed_counts_on():
    """Random choices after loading are those of the run, not those of its first steps again."""
    problem, optimizer = built({"preconditioner": "jacobi"})
    steps(problem, optimizer, 2)
    state = optimizer.state_dict()["hessian_free"]["preconditioning"]
    assert state["operators"] == 2
