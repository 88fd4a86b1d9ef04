"""The programs in the README and in the pages of the optimizers run as they stand there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/hessian_free.md",
    "docs/newton_cg.md",
    "docs/neumann.md",
    "docs/pinn.md",
)
TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in PAGES]
PROGRAMS = re.findall(r"^```python\n(.*?)^```", "\n".join(TEXTS), re.MULTILINE | re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) >= 8


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.splitlines()[2])
def test_program(program, python):
    if "torch" in program:
        pytest.importorskip("torch")
    # The grid of a million points is for the reader's machine; a smaller one shows the same.
    assert python(program.replace("n = 1000\n", "n = 60\n"))


def test_the_learning_preconditioner_halves_the_products(python):
    (program,) = [text for text in PROGRAMS if "RitzPreconditioner" in text]
    lines = [line.split() for line in python(program).splitlines()]
    products = [int(count) for _, outcome, count in lines if outcome == "CONVERGED"]
    assert len(products) == 5
    assert max(products[1:]) <= 0.6 * products[0]
