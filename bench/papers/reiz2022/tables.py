"""Tables of numbers: WHO life expectancy and Boston housing."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path

import click
import torch
from torch import Tensor

#: As words of the life expectancy table become numbers.
_STATUS = {"Developing": 0.0, "Developed": 1.0}


def life_expectancy(data: Path) -> tuple[Tensor, Tensor]:
    """The table of the WHO: 2,938 rows, a country and a year each, of which 2,928 know the target.

    Missing values: a row without its target is left out; a missing input becomes the mean of the column over the rows
    that are left and know it. The name of the country is no input; the status is 0 or 1. Column names are taken
    without the spaces around them.

    Returns
    -------
    inputs, targets
        Float32 of shapes (2928, 20) and (2928, 1), each column with mean 0 and variance 1.
    """
    path = data / "tabular" / "life_expectancy.csv.gz"
    names, rows = _read(path)
    if "Country" not in names or "Status" not in names or "Life expectancy" not in names:
        raise click.ClickException(f"{path} has no columns Country, Status, Life expectancy")
    target = names.index("Life expectancy")
    inputs = [i for i, name in enumerate(names) if name not in ("Country", "Life expectancy")]
    known = [row for row in rows if row[target]]
    values = [[_value(row[i], names[i], path) for i in inputs] for row in known]
    targets = [[_value(row[target], names[target], path)] for row in known]
    if not known:
        raise click.ClickException(f"{path} has no row with a life expectancy")
    table = torch.tensor(values)
    if empty := [names[i] for i, gone in zip(inputs, table.isnan().all(0), strict=True) if gone]:
        raise click.ClickException(f"{path}: no value in column {', '.join(empty)}")
    return standardised(filled(table)), standardised(torch.tensor(targets))


def boston(data: Path) -> tuple[Tensor, Tensor]:
    """Boston housing: 506 rows of 13 inputs, and the target ``medv`` in the last column; nothing is missing.

    Returns
    -------
    inputs, targets
        Float32 of shapes (506, 13) and (506, 1), each column with mean 0 and variance 1.
    """
    path = data / "tabular" / "boston_housing.csv.gz"
    names, rows = _read(path)
    if names[-1] != "medv":
        raise click.ClickException(f"{path} has no last column medv, but {names[-1]!r}")
    values = torch.tensor(
        [[_value(x, name, path) for x, name in zip(row, names, strict=True)] for row in rows]
    )
    if values.isnan().any():
        raise click.ClickException(f"{path} has missing values, which Boston housing has not")
    values = standardised(values)
    return values[:, :-1].contiguous(), values[:, -1:].contiguous()


def filled(values: Tensor) -> Tensor:
    """NaN becomes the mean of what is known in the same column."""
    return torch.where(values.isnan(), values.nanmean(0), values)


def standardised(values: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1, computed in float64; a constant column becomes 0."""
    values = values.double()
    scale = values.std(0, correction=0)
    return ((values - values.mean(0)) / torch.where(scale > 0, scale, 1)).float()


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            names, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: {error or 'empty'} (--data)") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise click.ClickException(
                f"{path}, row {number}: {len(row)} cells, but {len(names)} columns"
            )
    return names, rows


def _value(cell: str, name: str, path: Path) -> float:
    """NaN for an empty cell."""
    if not cell:
        return math.nan
    if name == "Status" and cell in _STATUS:
        return _STATUS[cell]
    try:
        return float(cell)
    except ValueError:
        raise click.ClickException(f"{path}: {cell!r} in column {name} is no number") from None
