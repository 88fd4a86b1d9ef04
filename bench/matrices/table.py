"""The table of a sweep: Markdown or CSV, and its summary."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from contest import METHODS, REPEATS, Row
from systems import ILU, ILU_MAXITER, ILU_SIZE

import krylov

TITLES = ("matrix", "n", "nonzeros", "method", "M", "outcome", "iterations", "residual", "ms",
          "SciPy info", "iterations", "residual", "ms", "SciPy / ours")  # fmt: skip


def cells(row: Row) -> list[str]:
    if row.iterations is None:
        return [
            row.matrix,
            str(row.n),
            str(row.nonzeros),
            row.method or "-",
            row.M,
            row.outcome,
            *["-"] * 8,
        ]
    outcome = row.outcome + "".join(f" **{fault}**" for fault in row.faults)
    info = f"{row.scipy_info} **above**" if row.scipy_wrong else str(row.scipy_info)
    return [
        row.matrix, str(row.n), str(row.nonzeros), row.method, row.M, outcome, str(row.iterations),
        f"{row.residual:.1e}", f"{row.seconds * 1e3:.3g}", info, str(row.scipy_iterations),
        f"{row.scipy_residual:.1e}", f"{row.scipy_seconds * 1e3:.3g}", f"{row.scipy_seconds / row.seconds:.2g}",
    ]  # fmt: skip


def markdown(rows: list[Row]) -> str:
    lines = []
    for kind in METHODS:
        lines += [
            "",
            f"## {kind.capitalize()}",
            "",
            "| " + " | ".join(TITLES) + " |",
            "|" + "---|" * len(TITLES),
        ]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows if row.kind == kind]
    return "\n".join(lines) + "\n"


def summary(rows: list[Row], rtol: float, maxiter: int, seconds: float) -> str:
    solves = [row for row in rows if row.iterations is not None]
    both = [row for row in solves if row.ok and row.scipy_info == 0 and not row.scipy_wrong]
    ratios = [row.scipy_seconds / row.seconds for row in both]
    outcomes: dict[str, int] = {}
    for row in solves:
        outcomes[row.outcome] = outcomes.get(row.outcome, 0) + 1
    faulty = [row for row in rows if row.faults]
    wrong = [row for row in faulty if row.faults != ["above the tolerance"]]
    # Flexible CG and restarted runs stand beside a SciPy solve that is counted already.
    once = [row for row in solves if row.method in ("cg", "cg, stop", "bicgstab")]
    scipy_wrong = sum(row.scipy_wrong for row in once)
    counted = sorted(outcomes.items(), key=lambda item: -item[1])
    lines = [
        f"rtol = {rtol:g}, atol = 0, maxiter = min(10 n, {maxiter}) and {ILU_MAXITER} with ILU; "
        f"right-hand side as given or A @ ones (graphs: A @ random); {seconds:.0f} s in all.",
        "Residual: |b - A x| / |b|, recomputed in extended precision. ILU: SciPy's spilu with "
        + ", ".join(f"{k}={v:g}" for k, v in ILU.items())
        + f", for n up to {ILU_SIZE}. Each ms is the best of up to {REPEATS} interleaved runs.",
        "Where Bi-CG-STAB needs hundreds of iterations its success is a matter of rounding, ours as SciPy's: a change "
        "of 1e-13 in b turns one into the other.",
        "",
        f"- {len(solves)} solves of {len({row.matrix for row in rows})} systems: "
        + ", ".join(f"{count} {name}" for name, count in counted)
        + ".",
        f"- Wrong claims, exceptions or NaN: {len(wrong)}.",
        f"- Convergence claimed with a residual above the tolerance: ours {len(faulty) - len(wrong)}, "
        f"SciPy's {scipy_wrong}.",
    ]
    if ratios:
        lines.append(
            f"- Where both converge ({len(both)} solves): SciPy's time over ours, median {np.median(ratios):.2g}, "
            f"from {min(ratios):.2g} to {max(ratios):.2g}."
        )
    ours = sum(row.ok and (row.scipy_info != 0 or row.scipy_wrong) for row in solves)
    theirs = sum(
        not row.ok and row.scipy_info == 0 and not row.scipy_wrong and row.method != "cg, stop"
        for row in solves
    )
    lines.append(f"- Solved by us only: {ours}; by SciPy only: {theirs}.")
    lines += [
        f"- Look at: {row.matrix}, {row.method}, {row.M}: {', '.join(row.faults)} ({row.outcome})"
        for row in faulty
    ]
    return "\n".join(lines) + "\n"


def write(rows: list[Row], path: Path, text: str, command: str) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([TITLES, *(cells(row) for row in rows)])
        return
    config = krylov.build_config()
    head = (
        "# Every matrix of the data folder\n\n"
        f"Made by `{command}` with krylov {config['version']} ({config['isa']}, {config['threads']} threads), "
        f"NumPy {config['numpy']}, SciPy {config['scipy']}. Times are of one machine; trust the ratios.\n\n"
    )
    path.write_text(head + text + markdown(rows), encoding="utf-8")
