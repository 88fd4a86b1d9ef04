"""The programs in docs/training.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) == 3


def test_the_first_one(python):
    words = python(PROGRAMS[0])
    assert words.startswith("All iterations have been taken.")
    assert float(words.split()[-1]) < 0.3


def test_the_second_one(python):
    sizes = eval(python(PROGRAMS[1]).partition("]")[0] + "]")
    assert sizes[:2] == [None, 200]
    assert sizes[1:] == sorted(sizes[1:])


def test_the_third_one(python):
    rates = eval(python(PROGRAMS[2]))
    assert rates[:2] == [None, 0.5]
    assert rates[1:] == sorted(rates[1:], reverse=True)
