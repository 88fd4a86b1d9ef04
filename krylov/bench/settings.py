"""The preconditioners that the sequence experiment compares, and how each goes from one system to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import krylov
from krylov.bench.sequences import System

__all__ = ["NONE", "SETTINGS", "Setting"]

# M of a system, given the M of the system before (None for the first).
Maker = Callable[[System, Any], Any]

Scale = Literal["largest", "newest", "shift"]
Storage = Literal["float64", "float32", "bfloat16"]


@dataclass(frozen=True)
class Setting:
    """A line of the table, and what it must keep to.

    Attributes
    ----------
    name : str
        In the table.
    make : callable
        See `Maker`.
    total, worst : float, optional
        Products over those of no preconditioner at most: of the whole sequence, and of any one system.
    full : str, optional
        The setting with full storage, whose products it must not exceed by more than a tenth.
    """

    name: str
    make: Maker
    total: float | None = None
    worst: float | None = None
    full: str | None = None


def _kept(build: Callable[[System], Any]) -> Maker:
    """One M for the whole sequence; it is told the shift and learns as it likes."""

    def make(system: System, before: Any) -> Any:
        if before is None:
            return build(system)
        before.shift = system.shift
        return before

    return make


def _lbfgs(
    m: int,
    *,
    scale: Scale = "largest",
    refresh: bool = True,
    carry: bool = True,
    storage: Storage | None = None,
) -> Maker:
    def build(system: System) -> Any:
        return krylov.LBFGSPreconditioner(
            system.n,
            m,
            shift=system.shift,
            scale=scale,
            refresh=refresh,
            carry=carry,
            storage=storage,
            harvest=True,
        )

    return _kept(build)


def _ritz(m: int, *, carry: bool = True, storage: Storage | None = None) -> Maker:
    def build(system: System) -> Any:
        return krylov.RitzPreconditioner(
            system.n, m, shift=system.shift, carry=carry, storage=storage, harvest=True
        )

    return _kept(build)


def _renewed_ritz(m: int) -> Maker:
    carried = _ritz(m)

    def make(system: System, before: Any) -> Any:
        M = carried(system, before)
        M.renew(system.A)  # counted by the system
        return M

    return make


def _nystrom(m: int) -> Callable[[System], Any]:
    return lambda system: krylov.NystromPreconditioner(system.A, m, shift=system.shift)


def _jacobi(system: System, before: Any) -> Any:
    del before
    return krylov.JacobiPreconditioner(system.diagonal, shift=system.shift)


NONE = Setting("none", lambda system, before: None)

_LBFGS = tuple(
    setting
    for m in (8, 16, 32, 64)
    for setting in (
        Setting(f"L-BFGS {m}, for the next run only", _lbfgs(m, refresh=False), worst=1.0),
        Setting(f"L-BFGS {m}", _lbfgs(m), worst=1.0),
    )
)
_SCALES = (
    Setting(
        "L-BFGS 32, textbook: newest scale, last run's pairs only",
        _lbfgs(32, scale="newest", refresh=False, carry=False),
    ),
    Setting("L-BFGS 32, last run's pairs only", _lbfgs(32, refresh=False, carry=False)),
    Setting("L-BFGS 64, last run's pairs only", _lbfgs(64, refresh=False, carry=False)),
    Setting("L-BFGS 32, newest scale", _lbfgs(32, scale="newest")),
    Setting("L-BFGS 32, scale 1 / shift", _lbfgs(32, scale="shift")),
)
_RITZ = (
    Setting("Ritz 8", _ritz(8)),
    Setting("Ritz 16", _ritz(16), total=0.75, worst=1.0),
    Setting("Ritz 32", _ritz(32), total=0.5, worst=1.0),
    Setting("Ritz 16, last run only", _ritz(16, carry=False)),
    Setting("Ritz 32, last run only", _ritz(32, carry=False)),
    Setting("Ritz 16, renewed for each system", _renewed_ritz(16)),
    Setting("Ritz 32, renewed for each system", _renewed_ritz(32)),
)
_NYSTROM = (
    Setting("Nystroem 32, once for all", _kept(_nystrom(32))),
    Setting("Nystroem 32, for each system", lambda system, before: _nystrom(32)(system)),
)
_STORAGES = (
    Setting("L-BFGS 32 in float32", _lbfgs(32, storage="float32"), full="L-BFGS 32"),
    Setting("L-BFGS 32 in bfloat16", _lbfgs(32, storage="bfloat16"), full="L-BFGS 32"),
    Setting("Ritz 16 in float32", _ritz(16, storage="float32"), full="Ritz 16"),
    Setting("Ritz 16 in bfloat16", _ritz(16, storage="bfloat16"), full="Ritz 16"),
    Setting("Ritz 32 in bfloat16", _ritz(32, storage="bfloat16"), full="Ritz 32"),
)

# By name, in the order of the table.
SETTINGS = {
    setting.name: setting
    for setting in (
        NONE,
        Setting("Jacobi", _jacobi),
        *_LBFGS,
        *_SCALES,
        *_RITZ,
        *_NYSTROM,
        *_STORAGES,
    )
}
