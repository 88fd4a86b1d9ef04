"""``krylov solve``: one matrix, one or several right-hand sides, from files."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np

import krylov
from krylov.arrays import common_dtype
from krylov.cli.errors import InputError
from krylov.cli.matrices import choose_method, read_matrix
from krylov.cli.outputs import check_output
from krylov.cli.plots import PICTURE_SUFFIXES, plot_residuals, require_matplotlib
from krylov.cli.preconditioning import (
    NAMES,
    Solved,
    build,
    choose,
    method_for,
    solve_with,
)
from krylov.cli.progress import ResidualBar
from krylov.cli.report import console, strict_json
from krylov.cli.summary import Job, summary, summary_table
from krylov.cli.vectors import SOLUTION_SUFFIXES, read_columns, write_solution

METHODS = ("auto", "cg", "flexible_cg", "bicgstab", "neumann")
_RESTARTS = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rhs",
    "rhs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Right-hand side, or several as columns: Matrix Market, .npy or text; may be repeated. "
    "They are solved one after the other. Ones by default.",
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
    type=click.Choice(NAMES),
    default="none",
    show_default=True,
    help="Preconditioner; see above.",
)
@click.option(
    "--precond-size",
    type=click.IntRange(min=1),
    metavar="M",
    help="Pairs or vectors that it keeps.  [default: lbfgs 32, ritz 16, nystrom 32]",
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
    help="Write the solution, or the solutions as columns, as .npy or .mtx.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON only, no table and no bar.")
@click.pass_context
def solve(
    ctx: click.Context,
    file: Path,
    rhs: tuple[Path, ...],
    method: str,
    precond: str,
    precond_size: int | None,
    rtol: float,
    atol: float,
    maxiter: int | None,
    plot: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Solve A x = b for the Matrix Market file FILE (.mtx or .mtx.gz).

    \b
    Preconditioners:
      jacobi   the inverse of the diagonal
      lbfgs    made of the run's own directions, which count at once (flexible_cg),
               or with --method cg from the next right-hand side on
      ritz     approximate eigenvectors: after 2 M iterations the run starts again
               from where it is, with what they have taught
      nystrom  from M products with random vectors beforehand, which are counted;
               the matrix must be positive semidefinite

    The last three gain where a few large eigenvalues stand out, and more with every further
    right-hand side; elsewhere ritz and nystrom cost some tens of products. All three add vector work,
    so they are for products that are expensive.

    Exit code: 0 solved, 1 not solved (the outcome says why), 2 bad input.
    """  # noqa: D301  (click knows a paragraph that is not to be wrapped by its backspace)
    for name, tolerance in (("--rtol", rtol), ("--atol", atol)):
        if not np.isfinite(tolerance):
            raise InputError(f"{name} must be finite, got {tolerance}")
    inputs = [path for path in (file, *rhs) if path.exists()]
    if plot is not None:
        require_matplotlib("--plot")
        check_output(plot, suffixes=PICTURE_SUFFIXES, inputs=inputs)
    if out is not None:
        check_output(out, suffixes=SOLUTION_SUFFIXES, inputs=inputs)
    choice = choose(precond, precond_size, method)

    screen = console(stderr=True)
    started = time.perf_counter()
    if as_json or not screen.is_terminal:
        matrix = read_matrix(file)
    else:
        with screen.status(f"reading {file}", spinner="line"):
            matrix = read_matrix(file)
    columns = [read_columns(path, matrix.n) for path in rhs] or [np.ones((matrix.n, 1))]
    chosen, reason = (method, "given") if method != "auto" else choose_method(matrix)
    chosen, reason = method_for(choice, matrix, chosen, reason)
    read_seconds = time.perf_counter() - started

    job = Job(
        matrix,
        np.hstack(columns),
        ", ".join(map(str, rhs)) or "ones",
        chosen,
        reason,
        choice,
        rtol,
        atol,
        maxiter,
    )

    def bar(k: int) -> ResidualBar:
        which = f" {k + 1}/{job.count}" if job.count > 1 else ""
        return ResidualBar(screen, f"{chosen}{which}", job.target(k))

    quiet = as_json or not screen.is_terminal
    started = time.perf_counter()
    solved, spent = run(job, None if quiet else bar)
    solve_seconds = time.perf_counter() - started

    record = summary(job, solved, spent, read_seconds, solve_seconds)
    if out is not None:
        solutions = [each.last.x for each in solved]
        write_solution(out, solutions[0] if job.count == 1 else np.stack(solutions, axis=1))
        record["out"] = out.absolute()
    if plot is not None:
        _plot(plot, job, solved)
        record["plot"] = plot.absolute()
    if as_json:
        click.echo(strict_json(record))
    else:
        console().print(summary_table(record))
    ctx.exit(0 if record["ok"] else 1)


def run(job: Job, bar: Callable[[int], ResidualBar] | None) -> tuple[list[Solved], int]:
    """Solve for each right-hand side; returns also the products that it took to make M."""
    options: dict[str, Any] = {"rtol": job.rtol, "atol": job.atol}
    if job.method == "bicgstab":
        options["max_restarts"] = _RESTARTS  # SciPy's contract, the default, knows no restarts
    limit = 10 * job.matrix.n if job.maxiter is None else job.maxiter
    solver = getattr(krylov, job.method)
    dtype = common_dtype(job.b.dtype, job.matrix.array.dtype)
    solved = []
    try:
        M, spent = build(job.choice, job.matrix, dtype)
        for k in range(job.count):
            bound = functools.partial(solver, job.matrix.array, job.column(k))
            shown = None if bar is None else bar(k)
            with shown or nullcontext():
                watched = options if shown is None else options | {"stop": shown}
                solved.append(solve_with(job.choice, M, bound, limit, watched))
    except (ValueError, TypeError) as error:
        raise InputError(f"{job.matrix.path}: {error}") from None
    return solved, spent


def _plot(path: Path, job: Job, solved: Sequence[Solved]) -> None:
    jacobi = " with Jacobi" if job.choice.name == "jacobi" else ""
    words = jacobi if job.choice.size is None else f" with {job.choice.words}"
    title = f"{job.matrix.path.name}, {job.method}{words}"
    if job.count == 1:
        plot_residuals(path, [solved[0].residual_norms], job.target(0), title=title)
        return
    norms = [job.norm(k) for k in range(job.count)]
    histories = [
        [norm / (scale or 1.0) for norm in each.residual_norms]
        for each, scale in zip(solved, norms, strict=True)
    ]
    plot_residuals(path, histories, job.rtol, title=title, ylabel="|r| / |b|")
