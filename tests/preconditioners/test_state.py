"""Saved and restored, a preconditioner goes on with the same bits as one that was never saved."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from functools import partial

import numpy as np
import pytest
from cases import on_the_fast_table, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panels import REALS
from preconditioners.common import KINDS, columns_are_accounted_for, outliers
from preconditioners.common import pairs as pairs_of

import krylov
from krylov import (
    JacobiPreconditioner,
    LBFGSPreconditioner,
    NystromPreconditioner,
    RitzPreconditioner,
)

pytestmark = on_the_fast_table
N = 24
F8 = np.dtype("f8")
DOUBLE = (F8, "float64")
quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def matrix(dtype, seed=0):
    return outliers(N, 6, 0.5, np.result_type(dtype, F8), seed).astype(dtype)


def learner(kind, **keywords):
    return lambda dtype, storage: kind(
        N, 4, dtype=dtype, storage=storage, shift=0.1, harvest=True, **keywords
    )


lbfgs, ritz = partial(learner, LBFGSPreconditioner), partial(learner, RitzPreconditioner)
LEARNERS = {
    "lbfgs": lbfgs(),
    "lbfgs last": lbfgs(select="last"),
    "lbfgs first": lbfgs(select="first"),
    "lbfgs newest": lbfgs(scale="newest", refresh=False),
    "lbfgs shift": lbfgs(scale="shift"),
    "lbfgs number": lbfgs(scale=0.25, carry=False),
    "two_loop": lbfgs(apply="two_loop"),
    "ritz": ritz(),
    "ritz window": ritz(window=3),
    "ritz forgetful": ritz(window=2, carry=False),
}
OTHERS = {
    "nystrom": lambda dtype, _: NystromPreconditioner(matrix(dtype), 5, seed=3, shift=0.1),
    "nystrom of zero": lambda dtype, _: NystromPreconditioner(np.zeros((N, N), dtype), 3),
    "jacobi": lambda dtype, _: JacobiPreconditioner(
        np.diag(matrix(dtype)).real.astype(dtype), 0.75, shift=0.1
    ),
}
ALL = LEARNERS | OTHERS


# What one does with a preconditioner; each gives arrays to compare. The seed makes every use another.


def apply(M, seed):
    return [M @ vector(N, M.dtype, seed)]


def damp(M, seed):
    M.shift = (0.3, 1.0, 0.05)[seed % 3]
    return apply(M, seed)


def damp_only(M, seed):
    M.shift = (2.0, 0.2)[seed % 2]
    return []


def update(M, seed):
    pairs = pairs_of(matrix(M.dtype, seed % 3), 3, M.dtype, 10 * seed)
    return [np.array([M.update(s, y) for s, y in pairs])]


def run(solver):
    def solve(M, seed):
        A = matrix(M.dtype, seed % 2) + np.eye(N, dtype=M.dtype) * M.dtype.type(M.shift)
        return [solver(A, vector(N, M.dtype, seed), M=M, rtol=1e-3, maxiter=9).x]

    return solve


def interrupted(M, seed):
    A, products = matrix(M.dtype, 1), iter(range(4))

    def multiply(v):
        next(products)
        return A @ v

    with pytest.raises(StopIteration):
        krylov.flexible_cg(multiply, vector(N, M.dtype, seed), M=M, rtol=0)
    return []


def renew(M, seed):
    return [np.array(M.renew(matrix(M.dtype, seed)) if hasattr(M, "renew") else 0)]


def clear(M, seed):
    M.clear()
    return []


def turn_settings(M, seed):
    for name in ("carry", "refresh", "harvest")[: 2 + (seed % 4 == 0)]:
        if hasattr(M, name):
            setattr(M, name, not getattr(M, name))
    return []


flexible, fixed = run(krylov.flexible_cg), run(krylov.cg)
USES = [apply, damp, damp_only, flexible, fixed]
LESSONS = [*USES, update, interrupted, renew, clear, turn_settings]
HISTORY = [
    *(update, apply, flexible, damp_only, update, damp_only, update, fixed, apply, interrupted),
    *(update, renew, update, damp, apply, update),
    *(flexible, damp, turn_settings, flexible, fixed, clear, update, flexible, fixed, apply),
]


def bits(value):
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def bits_of(state):
    return {name: bits(value) for name, value in state.items()}


def by_dict(M):
    return type(M).from_state_dict(M.state_dict())


def assert_same_future(make, uses, restore):
    """One is replaced by its copy before every use, the other never saved."""
    saved, untouched = make(), make()
    for seed, use in enumerate(uses):
        saved = restore(saved)
        got, wanted = use(saved, seed), use(untouched, seed)
        assert list(map(bits, got)) == list(map(bits, wanted)), (seed, use)
    assert bits_of(saved.state_dict()) == bits_of(untouched.state_dict())


# Bit for bit.


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(("dtype", "storage"), KINDS)
def test_learners_go_on(kind, dtype, storage):
    assert_same_future(lambda: LEARNERS[kind](dtype, storage), HISTORY, by_dict)


@pytest.mark.parametrize("kind", OTHERS)
def test_others_go_on(kind, dtype):
    assert_same_future(lambda: OTHERS[kind](dtype, None), USES * 2, by_dict)


@pytest.mark.parametrize("kind", LEARNERS)
@quick
@given(
    uses=st.lists(st.sampled_from(LESSONS), min_size=2, max_size=12),
    form=st.sampled_from(KINDS),
)
def test_any_history_goes_on(kind, uses, form):
    assert_same_future(lambda: LEARNERS[kind](*form), [*uses, flexible, apply], by_dict)


@pytest.mark.parametrize("kind", LEARNERS)
def test_to_save_changes_nothing(kind):
    first, second = (LEARNERS[kind](*DOUBLE) for _ in range(2))
    for seed, use in enumerate(HISTORY):
        first.state_dict()
        assert list(map(bits, use(first, seed))) == list(map(bits, use(second, seed)))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("taught", [False, True])
def test_loading_into_one_that_knows_something_else(kind, taught):
    M, other = ALL[kind](*DOUBLE), ALL[kind](*DOUBLE)
    for seed, use in enumerate(HISTORY[:9] if kind in LEARNERS else USES):
        use(M, seed)
        if taught:
            use(other, seed + 50)
    other.label = "mine"
    other.load_state_dict(M.state_dict())
    assert other.label == "mine"
    for seed, use in enumerate(LESSONS if kind in LEARNERS else USES):
        assert list(map(bits, use(other, seed))) == list(map(bits, use(M, seed)))


COPIES = {
    "pickle": lambda M: pickle.loads(pickle.dumps(M)),
    "old pickle": lambda M: pickle.loads(pickle.dumps(M, protocol=0)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("way", COPIES)
def test_copies_go_on(kind, way):
    uses = HISTORY if kind in LEARNERS else USES
    assert_same_future(lambda: ALL[kind](*DOUBLE), uses, COPIES[way])


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", LEARNERS)
def test_copies_share_no_memory(kind, way):
    M = LEARNERS[kind](*DOUBLE)
    update(M, 1)
    before = bits_of(M.state_dict())
    other = COPIES[way](M)
    for seed, use in enumerate(HISTORY):
        use(other, seed)
    assert bits_of(M.state_dict()) == before


class Mine(RitzPreconditioner):
    def __init__(self):
        super().__init__(N, 4)


def test_subclasses_are_restored_as_such():
    M = Mine()
    update(M, 1)
    assert type(Mine.from_state_dict(M.state_dict())) is Mine
    assert bits(copy.deepcopy(M) @ vector(N)) == bits(M @ vector(N))


# What a state is.


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("dtype", "storage"), KINDS)
def test_a_state_is_plain_and_says_all_arguments(kind, dtype, storage):
    M = ALL[kind](dtype, storage)
    if kind in LEARNERS:
        M.harvest = np.bool_(True)
        update(M, 1)
    state = M.state_dict()
    assert {type(value) for value in state.values()} <= {np.ndarray, str, bool, int, float}
    assert all(a.flags.c_contiguous for a in state.values() if type(a) is np.ndarray)
    assert set(inspect.signature(type(M)).parameters) - {"A", "seed"} <= set(state)
    if kind in LEARNERS:
        assert state["columns"].dtype == REALS[storage]
        assert columns_are_accounted_for(by_dict(M))


@pytest.mark.parametrize("kind", ALL)
def test_the_arrays_of_a_state_belong_to_nobody_else(kind):
    M = ALL[kind](*DOUBLE)
    if kind in LEARNERS:
        update(M, 1)
    state = M.state_dict()
    before, other = bits_of(state), type(M).from_state_dict(state)
    for array in (v for v in state.values() if isinstance(v, np.ndarray)):
        array[...] = 7
    assert bits_of(M.state_dict()) == bits_of(other.state_dict()) == before


def test_a_number_as_scale_is_kept_as_a_float():
    M = LBFGSPreconditioner(N, 2, scale=np.float32(0.5))
    assert type(M.state_dict()["scale"]) is float
    assert by_dict(M).scale == 0.5


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("dtype", "storage"), [DOUBLE, (np.dtype("c8"), "bfloat16")])
def test_through_a_checkpoint_of_torch(kind, dtype, storage):
    torch = pytest.importorskip("torch")

    def through_torch(M):
        tensors = {
            k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
            for k, v in M.state_dict().items()
        }
        file = io.BytesIO()
        torch.save(tensors, file)
        file.seek(0)
        return type(M).from_state_dict(torch.load(file, weights_only=True))

    uses = HISTORY if kind in LEARNERS else USES
    assert_same_future(lambda: ALL[kind](dtype, storage), uses, through_torch)


def test_nystrom_is_restored_without_products():
    M = NystromPreconditioner(matrix(F8), 5, shift=0.1)
    other = NystromPreconditioner.from_state_dict(M.state_dict())
    assert bits(other.eigenvalues) == bits(M.eigenvalues)
    assert other.nbytes == M.nbytes // 2  # no room for the products


# What does not fit.

MISFITS = {
    "kind": (lbfgs()(*DOUBLE), ritz()(*DOUBLE), ["'ritz'", "'lbfgs'"]),
    "diagonal": (JacobiPreconditioner(np.ones(N)), ritz()(*DOUBLE), ["'ritz'", "'jacobi'"]),
    "n": (LBFGSPreconditioner(N, 4), LBFGSPreconditioner(N + 1, 4), ["n = 25 (here 24)"]),
    "m": (LBFGSPreconditioner(N, 4), LBFGSPreconditioner(N, 5), ["m = 5 (here 4)"]),
    "dtype": (ritz()(*DOUBLE), ritz()(np.dtype("f4"), None), ["dtype = float32 (here float64)"]),
    "storage": (ritz()(*DOUBLE), ritz()(F8, "bfloat16"), ["storage = bfloat16 (here float64)"]),
    "window": (ritz()(*DOUBLE), ritz(window=9)(*DOUBLE), ["window = 9 (here 4)"]),
    "n of a diagonal": (
        JacobiPreconditioner(np.ones(3)),
        JacobiPreconditioner(np.ones(2, np.float32)),
        ["n = 2 (here 3)", "dtype = float32 (here float64)"],
    ),
    "n and m": (
        OTHERS["nystrom"](F8, None),
        NystromPreconditioner(np.eye(9), 4),
        ["n = 9 (here 24)", "m = 4 (here 5)", "from_state_dict"],
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_state_of_another_preconditioner(what):
    M, other, words = MISFITS[what]
    before = bits_of(M.state_dict())
    with pytest.raises(ValueError, match="state") as caught:
        M.load_state_dict(other.state_dict())
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert bits_of(M.state_dict()) == before


@pytest.mark.parametrize("state", [None, [], "state", np.ones(3), LBFGSPreconditioner(N, 4)])
def test_no_state_at_all(state):
    for load in (LBFGSPreconditioner(N, 4).load_state_dict, LBFGSPreconditioner.from_state_dict):
        with pytest.raises(TypeError, match="state_dict"):
            load(state)


def damages(state):
    """Damaged copies of a state, with the name that the message must have."""
    for name, value in state.items():
        yield name, {k: v for k, v in state.items() if k != name}
        for bad in (object(), None, [1, 2]):
            if name not in ("harvest", "carry", "refresh"):  # anything is true or false
                yield name, state | {name: bad}
        if isinstance(value, np.ndarray):
            longer = [np.concatenate([value] * 12)] if value.size else []
            for bad in (value[..., None], value.astype(np.int64), *longer):
                yield name, state | {name: bad}
    yield "surprise", state | {"surprise": 1}


@pytest.mark.parametrize("kind", ALL)
def test_damaged_states_are_refused_by_name(kind):
    M = ALL[kind](*DOUBLE)
    for seed, use in enumerate([flexible, flexible, update] if kind in LEARNERS else []):
        use(M, seed)
    state, before = M.state_dict(), bits_of(M.state_dict())
    for name, damaged in damages(state):
        for load in (M.load_state_dict, type(M).from_state_dict):
            with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
                load(damaged)
    assert bits_of(M.state_dict()) == before
    assert bits(M @ vector(N)) == bits(type(M).from_state_dict(state) @ vector(N))


# In the middle of a run.


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("solver", [krylov.cg, krylov.flexible_cg])
def test_no_state_while_learning(kind, solver):
    M = LEARNERS[kind](*DOUBLE)
    update(M, 1)
    state, refused = M.state_dict(), []

    def attempt(x):
        for use in (
            M.state_dict,
            lambda: M.load_state_dict(state),
            *(lambda way=way: way(M) for way in COPIES.values()),
        ):
            with pytest.raises(RuntimeError, match="learning from a run") as caught:
                use()
            refused.append(str(caught.value))

    assert solver(matrix(F8), vector(N), M=M, rtol=1e-3, callback=attempt).x.any()
    for what in ("save it", "load a state"):
        assert any(f"{what} afterwards" in message for message in refused)
