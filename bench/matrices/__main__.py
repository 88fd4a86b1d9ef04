"""Solve every matrix of a folder with the methods of its class, beside SciPy, and check every claim from outside.

    python bench/matrices [--data DIR] [--output docs/matrices.md] [--only NAME ...]

The folder holds Matrix Market files (`*.mtx`, `*.mtx.gz`) in itself or in `matrices/`; NAME_b is a right-hand side of
NAME. Without the folder there is nothing to do, which is said and is no failure. The exit status is 1 when a solve
raises, claims convergence that the residual (recomputed here in extended precision) does not bear out, or returns NaN.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from contest import run
from systems import files, label, stem, systems
from table import markdown, summary, write

ROOT = Path(__file__).resolve().parents[2]
MAXITER = 5_000


def command_line(arguments: list[str] | None) -> str:
    """What reproduces the table elsewhere: the threads, but not where the data lie."""
    given = sys.argv[1:] if arguments is None else arguments
    shown = [a for k, a in enumerate(given) if "--data" not in (a, *given[max(k - 1, 0) : k])]
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = [f"OMP_NUM_THREADS={threads}"] if threads else []
    return " ".join([*prefix, "python bench/matrices", *shown])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT.parent / "shared" / "data"
    parser.add_argument(
        "--data",
        type=Path,
        default=default,
        help="folder of Matrix Market files (default: ../shared/data)",
    )
    parser.add_argument(
        "--output", type=Path, help="where the table goes: .md or .csv (default: standard output)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these matrices only")
    parser.add_argument("--rtol", type=float, default=1e-8)
    parser.add_argument(
        "--maxiter",
        type=int,
        default=MAXITER,
        help="at most this many iterations, and 10 n (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if not options.data.is_dir() or not files(options.data):
        print(
            f"No Matrix Market files in {options.data}: nothing to do. Name a folder of them with --data."
        )
        return 0
    unknown = sorted(set(options.only) - {stem(path) for path in files(options.data)})
    if unknown:
        parser.error(f"not in {options.data}: {', '.join(unknown)}")
    start, rows = time.perf_counter(), []
    for system in systems(options.data, options.only):
        begun = time.perf_counter()
        found = list(run(system, options.rtol, options.maxiter))
        rows += found
        wrong = "".join(
            f"; {row.method}, {row.M}: {', '.join(row.faults)}" for row in found if row.faults
        )
        print(f"{label(system)}: {time.perf_counter() - begun:.1f} s{wrong}", file=sys.stderr)
    text = summary(rows, options.rtol, options.maxiter, time.perf_counter() - start)
    print(text if options.output else text + markdown(rows))
    if options.output:
        write(rows, options.output, text, command_line(arguments))
    return 1 if any(set(row.faults) - {"above the tolerance"} for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
