"""Minimisers to the same gradient norm, and near saddles, as a table.

python bench/minimize.py                            all rows
python bench/minimize.py --data ../shared/data      the folder with libsvm/a9a.gz and libsvm/agaricus.train.gz
python bench/minimize.py --markdown                 as docs/minimize.md has it
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from krylov.bench import minimize
from krylov.cli.bench import rows_table
from krylov.cli.report import console


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data folder (KRYLOV_DATA)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (3)")
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    given = parser.parse_args()
    rows = minimize.run(given.quick, data=given.data, rounds=given.rounds)
    if given.markdown:
        print(markdown(rows))
    else:
        console().print(rows_table(minimize.COLUMNS, rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Measured rows; those of the bars as sentences below."""
    keys = (
        "what",
        "n",
        "method",
        "setting",
        "nfev",
        "njev",
        "products",
        "seconds",
        "ratio",
        "ends",
    )
    lines = [
        "| " + " | ".join(minimize.COLUMNS[key] for key in keys) + " |",
        "|" + "---|" * len(keys),
    ]
    sentences = []
    for row in rows:
        if row["method"] is None:
            bar = (
                ""
                if row["bar"] is None
                else f" (bar {row['bar']}: {'met' if row['met'] else 'missed'})"
            )
            sentences.append(f"- {row['what']}{bar}")
        else:
            lines.append("| " + " | ".join(cell(row[key]) for key in keys) + " |")
    return "\n".join([*lines, "", *sentences])


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
