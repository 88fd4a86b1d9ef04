"""What `krylov solve` has to say after a run, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from krylov.cli.matrices import Matrix
from krylov.cli.preconditioning import Choice, Solved
from krylov.cli.report import integer, scientific, seconds


@dataclass(frozen=True)
class Job:
    """What is to be solved and how."""

    matrix: Matrix
    b: np.ndarray  #: right-hand sides as columns
    rhs: str
    method: str
    reason: str
    choice: Choice
    rtol: float
    atol: float
    maxiter: int | None

    @property
    def count(self) -> int:
        """Number of right-hand sides."""
        return int(self.b.shape[1])

    def column(self, k: int) -> np.ndarray:
        """One of them."""
        return np.ascontiguousarray(self.b[:, k])

    def norm(self, k: int) -> float:
        """Norm of one of them."""
        return float(np.linalg.norm(self.b[:, k]))

    def target(self, k: int) -> float:
        """The residual norm at which the solver stops."""
        return max(self.atol, self.rtol * self.norm(k))


def summary(
    job: Job, solved: Sequence[Solved], spent: int, read_seconds: float, solve_seconds: float
) -> dict[str, Any]:
    """Collect all that is known after the run, ready for JSON.

    Of several right-hand sides the figures are totals, and outcome and residuals those of the worst.
    """
    solves = [_solve_record(job, k, each) for k, each in enumerate(solved)]
    worst = max(solves, key=lambda one: (not one["ok"], one["relative_true_residual"] or 0.0))
    matrix = job.matrix
    return {
        "matrix": {
            "path": matrix.path.absolute(),
            "n": matrix.n,
            "nnz": matrix.array.nnz,
            "field": matrix.kind,
            "symmetry": matrix.symmetry,
            "notes": matrix.notes,
        },
        "rhs": job.rhs,
        "right_hand_sides": job.count,
        "method": job.method,
        "method_reason": job.reason,
        "preconditioner": job.choice.name,
        "preconditioner_size": job.choice.size,
        "preconditioner_products": spent,
        "rtol": job.rtol,
        "atol": job.atol,
        "maxiter": job.maxiter,
        **worst,
        "iterations": sum(one["iterations"] for one in solves),
        "products": spent + sum(one["products"] for one in solves),
        "restarts": sum(one["restarts"] for one in solves),
        "solves": solves,
        "seconds": {"read": read_seconds, "solve": solve_seconds},
    }


def _solve_record(job: Job, k: int, solved: Solved) -> dict[str, Any]:
    result, b_norm = solved.last, job.norm(k)
    true_residual = result.true_residual_norm
    return {
        "rhs_norm": b_norm,
        "outcome": result.outcome.name,
        "advice": result.outcome.value,
        "ok": bool(result.outcome.ok),
        "info": int(result.info),
        "iterations": solved.iterations,
        "products": solved.products,
        "restarts": solved.restarts,
        "residual": result.residual_norm,
        "true_residual": true_residual,
        "relative_true_residual": (
            true_residual / b_norm if true_residual is not None and b_norm > 0 else None
        ),
    }


def summary_table(record: dict[str, Any]) -> Table:
    """Lay the same out for a person."""
    matrix, spent = record["matrix"], record["seconds"]
    relative = record["relative_true_residual"]
    several = record["right_hand_sides"] > 1
    share = "" if relative is None else f" ({scientific(relative)} of the right-hand side)"
    rows = {
        "matrix": Path(matrix["path"]).name,
        "n": integer(matrix["n"]),
        "nonzeros": integer(matrix["nnz"]),
        "entries": "; ".join([matrix["field"], matrix["symmetry"], *matrix["notes"]]),
        "right-hand sides" if several else "right-hand side": record["rhs"],
        "method": f"{record['method']} ({record['method_reason']})",
        "preconditioner": _preconditioner(record),
        "outcome": record["outcome"].lower().replace("_", " "),
        "": record["advice"],
        "iterations": _total(record, "iterations"),
        "products with A": _total(record, "products"),
        "restarts": integer(record["restarts"]) if record["restarts"] else "",
        "recursive residual": scientific(record["residual"]),
        "true residual of x": scientific(record["true_residual"]) + share,
        "time": f"{seconds(spent['solve'])} (reading {seconds(spent['read'])})",
        "solution": str(record.get("out", "")),
        "picture": str(record.get("plot", "")),
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows.items():
        if words:
            style = ("green" if record["ok"] else "red") if name == "outcome" else ""
            table.add_row(name, Text(words, style=style))  # Text: file names are not markup
    return table


def _preconditioner(record: dict[str, Any]) -> str:
    size, made = record["preconditioner_size"], record["preconditioner_products"]
    words: str = record["preconditioner"] + ("" if size is None else f", size {size}")
    return words + (f" ({made} products)" if made else "")


def _total(record: dict[str, Any], what: str) -> str:
    each = [integer(one[what]) for one in record["solves"]]
    return integer(record[what]) + (f" ({', '.join(each)})" if 1 < len(each) <= 20 else "")
