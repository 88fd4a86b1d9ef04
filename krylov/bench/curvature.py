"""Products with curvature matrices of networks: against curvlinops, in gradients, and in floating-point operations."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from importlib.metadata import version
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from krylov.bench.networks import NETWORKS, Network
from krylov.bench.rows import COLUMNS, at_least, at_most, duration, row
from krylov.bench.timing import Turn, interleave
from krylov.torch import GaussNewtonOperator, HessianOperator

__all__ = ["COLUMNS", "operations", "products", "run"]

FASTER_BAR = 1.5
# In gradients: of the construction, of a product.
CONSTRUCTION_BAR = 1.1
PRODUCT_BARS = {"Hessian": 1.75, "Gauss-Newton": 1.30}
KINDS = tuple(PRODUCT_BARS)
_PEER = "curvlinops"


def operator(network: Network, kind: str) -> HessianOperator | GaussNewtonOperator:
    """Ours."""
    if kind == "Hessian":
        return HessianOperator(network.loss, network.parameters)
    return GaussNewtonOperator(network.outputs, network.loss_of, network.parameters)


def peer(network: Network, kind: str) -> Any:
    """That of curvlinops, without its check that the data do not shuffle; None where it is not installed.

    Vectors as tensors and as lists of tensors take it the same time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        try:
            module = importlib.import_module(_PEER)
        except ModuleNotFoundError:
            return None
    make = module.HessianLinearOperator if kind == "Hessian" else module.GGNLinearOperator
    data = [(network.x, network.y)]
    return make(
        network.model, nn.CrossEntropyLoss(), network.parameters, data, check_deterministic=False
    )


def products(name: str, rounds: int = 8) -> list[dict[str, Any]]:
    """Measure a product with each matrix of a network over that of curvlinops, and over a gradient."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    v: Tensor | None = None
    contestants: dict[str, Turn] = {"gradient": _turns(lambda: _gradient(network))}
    peers = {}
    for kind in KINDS:
        A = operator(network, kind)
        v = torch.randn(A.shape[0]) if v is None else v
        contestants[kind] = _turns(_multiplication(A, v))
        theirs = peer(network, kind)
        if theirs is not None:
            peers[kind] = f"{_PEER} {kind}"
            contestants[peers[kind]] = _turns(_multiplication(theirs, v))
    assert v is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what curvlinops compiles when it is first used
        times = interleave(contestants, rounds)
    threads = torch.get_num_threads()
    lines = []
    for kind in KINDS:
        ours = duration(times.best(kind))
        if kind in peers:
            ratio = times.ratio(peers[kind], kind)
            lines.append(
                row(
                    f"{name}: {kind} product, curvlinops over krylov, {threads} threads",
                    len(v),
                    ours,
                    f"{duration(times.best(peers[kind]))} curvlinops {version('curvlinops-for-pytorch')}",
                    ratio,
                    median=times.median_ratio(peers[kind], kind),
                    bar=at_least(ratio, FASTER_BAR),
                )
            )
        lines.append(
            row(
                f"{name}: {kind} product over a gradient",
                len(v),
                ours,
                f"{duration(times.best('gradient'))} a gradient",
                times.ratio(kind, "gradient"),
                median=times.median_ratio(kind, "gradient"),
            )
        )
    return lines


def operations() -> list[dict[str, Any]]:
    """Count the operations of construction and product in gradients, for the perceptron with batch 32."""
    name = next(iter(NETWORKS))
    network = NETWORKS[name]()
    gradient = _count(lambda: _gradient(network))
    lines = []
    for kind in KINDS:
        A = operator(network, kind)
        v = torch.ones(A.shape[0])
        for what, work, bar in (
            ("construction", lambda kind=kind: operator(network, kind), CONSTRUCTION_BAR),
            ("product", lambda A=A, v=v: A @ v, PRODUCT_BARS[kind]),
        ):
            count = _count(work)
            lines.append(
                row(
                    f"{name}: operations, {kind} {what} over a gradient",
                    len(v),
                    f"{count / 1e6:.0f} million",
                    f"{gradient / 1e6:.0f} million",
                    count / gradient,
                    bar=at_most(count / gradient, bar),
                )
            )
    return lines


def _gradient(network: Network) -> object:
    return torch.autograd.grad(network.loss(), network.parameters)


def _multiplication(A: Any, v: Tensor) -> Callable[[], object]:
    return lambda: A @ v


def _turns(work: Callable[[], object], count: int = 3) -> Turn:
    def turn() -> list[float]:
        seconds = []
        for _ in range(count):
            begin = perf_counter()
            work()
            seconds.append(perf_counter() - begin)
        return seconds

    return turn


def _count(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def run(quick: bool = False) -> list[dict[str, Any]]:
    """All rows; quick: few rounds, for a trial."""
    lines = operations()
    for name in NETWORKS:
        measured = products(name, rounds=2 if quick else 8)
        lines += [{**line, "met": None} for line in measured] if quick else measured
    return lines
