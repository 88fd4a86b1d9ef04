"""Files and runs for the tests of the command line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from krylov.cli import main

#: 3 x 3, symmetric positive definite; A x = 1 for x = (1.5, 2, 1.5).
LAPLACIAN = """%%MatrixMarket matrix coordinate real symmetric
3 3 5
1 1 2.0
2 1 -1.0
2 2 2.0
3 2 -1.0
3 3 2.0
"""


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run the command line; an exception that is not an exit fails the test."""

    def runner(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return runner


@pytest.fixture
def market(tmp_path: Path) -> Callable[..., Path]:
    """Write text to a Matrix Market file and return its path."""

    def write(text: str = LAPLACIAN, name: str = "a.mtx") -> Path:
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        return path

    return write
