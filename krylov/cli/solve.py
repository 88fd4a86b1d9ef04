"""``krylov solve``: one linear system from a file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table
from rich.text import Text

import krylov
from krylov.cli.errors import InputError
from krylov.cli.matrices import Matrix, check_jacobi, choose_method, read_matrix
from krylov.cli.outputs import check_output
from krylov.cli.plots import PICTURE_SUFFIXES, plot_residuals, require_matplotlib
from krylov.cli.progress import ResidualBar
from krylov.cli.report import console, integer, scientific, seconds, strict_json
from krylov.cli.vectors import SOLUTION_SUFFIXES, read_vector, write_vector

METHODS = ("auto", "cg", "flexible_cg", "bicgstab", "neumann")
_RESTARTS = 5


@dataclass(frozen=True)
class Job:
    """What is to be solved and how."""

    matrix: Matrix
    b: np.ndarray
    rhs: str
    method: str
    reason: str
    jacobi: bool
    rtol: float
    atol: float
    maxiter: int | None

    @property
    def target(self) -> float:
        """The residual norm at which the solver stops."""
        return max(self.atol, self.rtol * float(np.linalg.norm(self.b)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rhs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Right-hand side: Matrix Market, .npy or text. Ones by default.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="auto: cg for a self-adjoint matrix with a positive diagonal, else bicgstab.",
)
@click.option(
    "--precond",
    type=click.Choice(("none", "jacobi")),
    default="none",
    show_default=True,
    help="Preconditioner.",
)
@click.option(
    "--rtol",
    type=click.FloatRange(min=0),
    default=1e-8,
    show_default=True,
    help="Relative tolerance: stop when |r| <= rtol |b|.",
)
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Absolute tolerance: stop when |r| <= atol.",
)
@click.option("--maxiter", type=click.IntRange(min=0), help="Iteration limit.  [default: 10 n]")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the residual history (needs matplotlib).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the solution as .npy or .mtx.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON only, no table and no bar.")
@click.pass_context
def solve(
    ctx: click.Context,
    file: Path,
    rhs: Path | None,
    method: str,
    precond: str,
    rtol: float,
    atol: float,
    maxiter: int | None,
    plot: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Solve A x = b for the Matrix Market file FILE (.mtx or .mtx.gz).

    Exit code: 0 solved, 1 not solved (the outcome says why), 2 bad input.
    """
    for name, tolerance in (("--rtol", rtol), ("--atol", atol)):
        if not np.isfinite(tolerance):
            raise InputError(f"{name} must be finite, got {tolerance}")
    inputs = [path for path in (file, rhs) if path is not None and path.exists()]
    if plot is not None:
        require_matplotlib("--plot")
        check_output(plot, suffixes=PICTURE_SUFFIXES, inputs=inputs)
    if out is not None:
        check_output(out, suffixes=SOLUTION_SUFFIXES, inputs=inputs)
    if precond == "jacobi" and method == "neumann":
        raise InputError("--method neumann takes no preconditioner")

    screen = console(stderr=True)
    started = time.perf_counter()
    if as_json or not screen.is_terminal:
        matrix = read_matrix(file)
    else:
        with screen.status(f"reading {file}", spinner="line"):
            matrix = read_matrix(file)
    b = np.ones(matrix.n) if rhs is None else read_vector(rhs, matrix.n)
    if precond == "jacobi":
        check_jacobi(matrix)
    read_seconds = time.perf_counter() - started

    chosen, reason = (method, "given") if method != "auto" else choose_method(matrix)
    job = Job(
        matrix,
        b,
        "ones" if rhs is None else str(rhs),
        chosen,
        reason,
        precond == "jacobi",
        rtol,
        atol,
        maxiter,
    )
    bar = ResidualBar(screen, chosen, job.target)
    started = time.perf_counter()
    with bar:
        result = run(job, bar if bar.enabled and not as_json else None)
    solve_seconds = time.perf_counter() - started

    record = summary(job, result, read_seconds, solve_seconds)
    if out is not None:
        write_vector(out, result.x)
        record["out"] = out.absolute()
    if plot is not None:
        plot_residuals(
            plot,
            result.residual_norms,
            job.target,
            title=f"{file.name}, {chosen}{' with Jacobi' if job.jacobi else ''}",
        )
        record["plot"] = plot.absolute()
    if as_json:
        click.echo(strict_json(record))
    else:
        console().print(summary_table(record))
    ctx.exit(0 if result.outcome.ok else 1)


def run(job: Job, bar: ResidualBar | None) -> Any:
    """Call the solver that the job names."""
    options: dict[str, Any] = {"rtol": job.rtol, "atol": job.atol, "maxiter": job.maxiter}
    if bar is not None:
        options["stop"] = bar
    if job.method == "bicgstab":
        options["max_restarts"] = _RESTARTS  # SciPy's contract, the default, knows no restarts
    if job.jacobi:
        options["M"] = krylov.JacobiPreconditioner(job.matrix.diagonal())
    try:
        return getattr(krylov, job.method)(job.matrix.array, job.b, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"{job.matrix.path}: {error}") from None


def summary(job: Job, result: Any, read_seconds: float, solve_seconds: float) -> dict[str, Any]:
    """Collect all that is known after the run, ready for JSON."""
    b_norm = float(np.linalg.norm(job.b))
    true_residual = result.true_residual_norm
    relative = true_residual / b_norm if true_residual is not None and b_norm > 0 else None
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
        "rhs_norm": b_norm,
        "method": job.method,
        "method_reason": job.reason,
        "preconditioner": "jacobi" if job.jacobi else "none",
        "rtol": job.rtol,
        "atol": job.atol,
        "maxiter": job.maxiter,
        "outcome": result.outcome.name,
        "advice": result.outcome.value,
        "ok": bool(result.outcome.ok),
        "info": int(result.info),
        "iterations": int(result.niter),
        "products": int(result.nmatvec),
        "restarts": int(result.restarts),
        "residual": result.residual_norm,
        "true_residual": true_residual,
        "relative_true_residual": relative,
        "seconds": {"read": read_seconds, "solve": solve_seconds},
    }


def summary_table(record: dict[str, Any]) -> Table:
    """Lay the same out for a person."""
    matrix, spent = record["matrix"], record["seconds"]
    relative = record["relative_true_residual"]
    share = "" if relative is None else f" ({scientific(relative)} of the right-hand side)"
    rows = {
        "matrix": Path(matrix["path"]).name,
        "n": integer(matrix["n"]),
        "nonzeros": integer(matrix["nnz"]),
        "entries": "; ".join([matrix["field"], matrix["symmetry"], *matrix["notes"]]),
        "right-hand side": record["rhs"],
        "method": f"{record['method']} ({record['method_reason']})",
        "preconditioner": record["preconditioner"],
        "outcome": record["outcome"].lower().replace("_", " "),
        "": record["advice"],
        "iterations": integer(record["iterations"]),
        "products with A": integer(record["products"]),
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
