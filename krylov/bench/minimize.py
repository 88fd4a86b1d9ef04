"""Minimisers to the same gradient norm: evaluations, products and seconds; and where they end near saddles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize

from krylov.bench.objectives import Problem, deep_linear, logistic, peaks, rosenbrock, saddle
from krylov.bench.rows import at_least
from krylov.bench.timing import interleave
from krylov.minimize import newton_krylov
from krylov.preconditioners import LBFGSPreconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = [
    "COLUMNS",
    "METHODS",
    "Count",
    "compare",
    "data_folder",
    "near_saddles",
    "run",
    "to_target",
]

COLUMNS = {
    "what": "what",
    "n": "n",
    "method": "method",
    "setting": "setting",
    "nfev": "values",
    "njev": "gradients",
    "products": "products",
    "seconds": "seconds",
    "ratio": "products of trust-ncg over",
    "ends": "ends at",
    "bar": "bar",
    "met": "met",
}
OURS = "newton_krylov"
# Settings of each method (M: pairs of a preconditioner that learns). The one with the fewest products counts, or with
# the fewest gradients where there are no products.
_RADII = (0.1, 1.0, 10.0, 100.0, 1000.0)
METHODS: Mapping[str, tuple[dict[str, Any], ...]] = {
    OURS: ({},),
    f"{OURS}, L-BFGS preconditioner": ({"M": 32},),
    f"{OURS}, armijo": ({"globalization": "armijo"},),
    f"{OURS}, bicgstab": ({"solver": "bicgstab"},),
    "trust-ncg": tuple({"initial_trust_radius": r, "max_trust_radius": 1e6} for r in _RADII),
    "trust-krylov": tuple(
        {"initial_trust_radius": r, "max_trust_radius": 1e6, "inexact": inexact}
        for r in (0.1, 1.0, 10.0)
        for inexact in (True, False)
    ),
    "Newton-CG": ({},),
    "L-BFGS-B": tuple({"maxcor": m} for m in (5, 10, 20, 50)),
}
# Options that keep a method from ending before the target.
_ENDLESS: Mapping[str, dict[str, Any]] = {
    "trust-ncg": {"gtol": 0.0},
    "trust-krylov": {"gtol": 0.0},
    "Newton-CG": {"xtol": 0.0},
    "L-BFGS-B": {"gtol": 0.0, "ftol": 0.0, "maxfun": 10**7},
}
_MAXITER = 50_000
# A setting that takes so many times as long as the quickest of its method is not its best.
_PATIENCE = 10.0
# Options that a table shows, as it calls them.
_SHOWN = {"initial_trust_radius": "radius", "inexact": "inexact", "maxcor": "pairs", "M": "pairs"}
# Fewer products than trust-ncg on so many of the four kinds of objectives.
_WINS = 3


class _Reached(Exception):
    """The gradient has the norm wanted."""


@dataclass
class Count:
    """What one run has cost.

    Attributes
    ----------
    nfev, njev, products : int
        Calls of the three functions.
    seconds : float
        Of the whole run.
    reached : bool
        Whether a gradient below the target was met.
    value : float
        Objective at the end.
    """

    nfev: int = 0
    njev: int = 0
    products: int = 0
    seconds: float = 0.0
    reached: bool = False
    value: float = float("nan")


def to_target(problem: Problem, method: str, setting: Mapping[str, Any]) -> Count:
    """Run until the first gradient whose Euclidean norm is at most the target.

    The wrapped gradient ends the run, so that the same test holds for all methods, whatever their own would be.
    """
    count = Count()

    def fun(x: Vector) -> float:
        count.nfev += 1
        return problem.fun(x)

    def jac(x: Vector) -> Vector:
        count.njev += 1
        gradient = problem.jac(x)
        if float(np.linalg.norm(gradient)) <= problem.target:
            raise _Reached(x.copy())
        return gradient

    def hessp(x: Vector, p: Vector) -> Vector:
        count.products += 1
        return problem.hessp(x, p)

    ours = method.startswith(OURS)
    options = {"maxiter": _MAXITER, **_ENDLESS.get(method, {"gtol": problem.target}), **setting}
    if "M" in options:  # pairs, learnt from one inner solve for the next
        options["M"] = LBFGSPreconditioner(problem.x0.size, options["M"], harvest=True)
    begin = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trial points beyond the range of float64
        try:
            result = scipy.optimize.minimize(
                fun,
                problem.x0,
                jac=jac,
                hessp=None if method == "L-BFGS-B" else hessp,
                method=newton_krylov if ours else method,
                options=options,
            )
            count.seconds, count.value = perf_counter() - begin, float(result.fun)
        except _Reached as reached:
            count.seconds, count.reached = perf_counter() - begin, True
            count.value = problem.fun(reached.args[0])
    return count


def compare(
    problem: Problem, methods: Iterable[str] = tuple(METHODS), rounds: int = 3
) -> list[dict[str, Any]]:
    """All methods on one objective, each at its best setting; seconds are the best of interleaved turns."""
    best: dict[str, tuple[dict[str, Any], Count]] = {}
    for method in methods:
        runs = [(setting, to_target(problem, method, setting)) for setting in METHODS[method]]
        best[method] = _best(runs)

    def turn(method: str) -> list[float]:
        return [to_target(problem, method, best[method][0]).seconds]

    contestants = {method: (lambda method=method: turn(method)) for method in best}
    times = interleave(contestants, rounds, patience=1, warm_up=False)
    reference = best["trust-ncg"][1] if "trust-ncg" in best else None
    rows = []
    for method, (setting, count) in best.items():
        timed = replace(count, seconds=times.best(method))
        rows.append(_row(problem, method, setting, timed, reference))
    return rows


def near_saddles(methods: Iterable[str] = tuple(METHODS)) -> list[dict[str, Any]]:
    """Starts from which the gradient leads to a saddle, or that are one; every method at its own tolerances."""
    rows = []
    for problem in (
        replace(saddle((1.0, 0.0)), name="½x² + ¼y⁴ - ½y² from (1, 0)"),
        replace(saddle((0.0, 0.0)), name="½x² + ¼y⁴ - ½y² from (0, 0)"),
        *(
            replace(p, name=f"{p.name}, from {place}")
            for scale, place in ((0.0, "the origin"), (1e-3, "near it"))
            for layers in (2, 3)
            for p in [deep_linear(6, layers, scale=scale)]
        ),
    ):
        assert problem.minimum is not None
        for method in methods:
            count = to_target(replace(problem, target=-1.0), method, _default(method))
            ends = "minimum" if count.value < problem.minimum + 1e-6 else "saddle"
            rows.append(_row(problem, method, {}, count, None) | {"ends": ends})
    return rows


def _default(method: str) -> dict[str, Any]:
    """A method's own tolerances, 1e-6 where they are on the gradient."""
    if method.startswith(OURS):
        return METHODS[method][0] | {"gtol": 1e-6}
    return {"xtol": 1e-8} if method == "Newton-CG" else {"gtol": 1e-6}


def data_folder() -> Path | None:
    """Where the files of the regressions are: ``KRYLOV_DATA``, or ../shared/data beside the repository."""
    named = os.environ.get("KRYLOV_DATA")
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    places = [Path(named)] if named else [beside, Path.cwd().parent / "shared" / "data"]
    return next((place for place in places if (place / "libsvm").is_dir()), None)


def objectives(quick: bool = False) -> dict[str, list[Problem]]:
    """Problems by their kind, without those that need files; quick: small ones."""
    if quick:
        small = {"Rosenbrock": rosenbrock(20), "deep linear network": deep_linear(4, 3)}
        return {kind: [problem] for kind, problem in small.items()} | {
            "least squares": [peaks(4, 60)]
        }
    return {
        "Rosenbrock": [rosenbrock(100), rosenbrock(1000)],
        "deep linear network": [deep_linear(10, 3), deep_linear(10, 4)],
        "least squares": [peaks(12, 400)],
    }


def run(
    quick: bool = False,
    *,
    data: Path | None = None,
    rounds: int = 3,
    kinds: Mapping[str, list[Problem]] | None = None,
) -> list[dict[str, Any]]:
    """All rows.

    Parameters
    ----------
    quick : bool
        Small sizes and no files: a trial.
    data : Path, optional
        Folder with libsvm/a9a.gz and libsvm/agaricus.train.gz; otherwise `data_folder`.
    rounds : int
        Turns of each contestant.
    kinds : mapping of str to list of Problem, optional
        Other objectives.
    """
    chosen = dict(objectives(quick) if kinds is None else kinds)
    regressions, left_out = ([], []) if quick else _regressions(data or data_folder())
    if regressions:
        chosen["logistic regression"] = regressions
    rows: list[dict[str, Any]] = []
    wins = 0
    for problems in chosen.values():
        tables = [compare(problem, rounds=1 if quick else rounds) for problem in problems]
        rows += [line for table in tables for line in table]
        wins += all(_won(table) for table in tables)
    lines = near_saddles()
    rows += left_out + lines
    stops = sum(line["ends"] == "saddle" for line in lines if line["method"].startswith(OURS))
    needed = min(_WINS, len(chosen))
    bar, met = at_least(wins, needed, f" of {len(chosen)}")
    text = f"{OURS} at its defaults: fewer products than trust-ncg at its best, kinds of objectives: {wins}"
    rows.append(_summary(text, bar, None if quick else met))
    rows.append(_summary(f"{OURS}: stops at a saddle: {stops}", "0", None if quick else stops == 0))
    return rows


def _regressions(data: Path | None) -> tuple[list[Problem], list[dict[str, Any]]]:
    """The regressions whose files are there, and rows that say why the others are left out."""
    found, missing = [], []
    for name, file in (("a9a", "a9a.gz"), ("mushrooms", "agaricus.train.gz")):
        path = None if data is None else data / "libsvm" / file
        if path is not None and path.is_file():
            found.append(logistic(name, path))
        else:
            text = f"logistic regression, {name}: left out, as libsvm/{file} is not in the data folder (KRYLOV_DATA)"
            missing.append(_summary(text, None, None))
    return found, missing


def _best(runs: list[tuple[dict[str, Any], Count]]) -> tuple[dict[str, Any], Count]:
    """The setting with the fewest products (gradients, where there are none) of those that take no absurd time."""
    quickest = min((count.seconds for _, count in runs if count.reached), default=0.0)

    def cost(run: tuple[dict[str, Any], Count]) -> tuple[bool, bool, int, int]:
        count = run[1]
        slow = count.seconds > _PATIENCE * quickest
        return not count.reached, slow, count.products or count.njev, count.nfev

    return min(runs, key=cost)


def _won(table: list[dict[str, Any]]) -> bool:
    """Whether ours, at its defaults, reached the target with fewer products than trust-ncg at its best."""
    by_method = {line["method"]: line for line in table}
    ours, theirs = by_method[OURS], by_method["trust-ncg"]
    if ours["ends"] != "target":
        return False
    return bool(theirs["ends"] != "target" or ours["products"] < theirs["products"])


def _row(
    problem: Problem, method: str, setting: dict[str, Any], count: Count, reference: Count | None
) -> dict[str, Any]:
    comparable = reference is not None and reference.reached and count.reached and count.products
    return {
        "what": problem.name,
        "n": problem.x0.size,
        "method": method,
        "setting": _words(setting),
        "nfev": count.nfev,
        "njev": count.njev,
        "products": count.products or None,
        "seconds": count.seconds,
        "ratio": reference.products / count.products if reference and comparable else None,
        "ends": "target" if count.reached else "not there",
        "bar": None,
        "met": None,
    }


def _words(setting: dict[str, Any]) -> str:
    named = {key: value for key, value in setting.items() if key in _SHOWN}
    return ", ".join(f"{_SHOWN[key]} {value:g}" for key, value in named.items())


def _summary(what: str, bar: str | None, met: bool | None) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"what": what, "bar": bar, "met": met}
