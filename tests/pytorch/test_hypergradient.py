"""The program in docs/hypergradient.md runs as it stands there, and its gradient is the right one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

DOC = Path(__file__).resolve().parents[2] / "docs" / "hypergradient.md"
TEXT = DOC.read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

# Central differences of the validation error along a few directions, against the gradient of the program.
CHECK = """
start = torch.linspace(-5, -2, 128)

def value(decay):
    return error(fit(decay, torch.zeros(128), steps=7), validation)

at = start.clone().requires_grad_()
(gradient,) = torch.autograd.grad(value(at), at)
for _ in range(3):
    direction, h = torch.randn(128), 1e-4
    difference = (value(start + h * direction) - value(start - h * direction)) / (2 * h)
    print((gradient @ direction).item(), difference.item())
"""


def numbers(text):
    return [
        [float(word) for word in re.findall(r"-?[\d.]+(?:e-?\d+)?", line)]
        for line in text.splitlines()
    ]


@pytest.fixture(scope="module")
def output():
    """What the program prints, and the check after it."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "import torch\ntorch.set_num_threads(1)\n" + PROGRAM + CHECK,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = numbers(done.stdout)
    return lines[:-3], lines[-3:]


def test_the_program_is_short():
    assert len(PROGRAM.splitlines()) <= 40


def test_it_prints_what_the_page_says(output):
    printed = re.findall(r"^validation ([\d.]+)  test ([\d.]+)$", TEXT, re.MULTILINE)
    assert len(printed) == len(output[0])
    for line, shown in zip(output[0], printed, strict=True):
        assert line == pytest.approx([float(word) for word in shown], abs=0.01)


def test_tuning_lowers_the_error_on_data_it_has_not_seen(output):
    first, last = output[0][0], output[0][-1]
    assert last[0] < 0.7 * first[0]
    assert last[1] < 0.8 * first[1]


def test_hypergradient_is_that_of_finite_differences(output):
    for gradient, difference in output[1]:
        assert gradient == pytest.approx(difference, rel=1e-4, abs=1e-7)
