"""The bar: drawn on terminals only, with what matters beside it."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("torch")

from rich.console import Console

from krylov.torch.training.progress import TrainingBar, state_words

RECORD = {
    "step": 3,
    "loss": 0.123456,
    "held_out_loss": None,
    "gradient_samples": 12345,
    "curvature_samples": 500,
    "optimizer": {"damping": 0.01, "iterations": 17},
}


def test_words():
    assert state_words(RECORD) == "loss 0.1235  damping 0.01  CG 17  samples 12,345/500"
    assert state_words({"step": 0, "loss": 2.0, "held_out_loss": 1.5}) == "loss 2  held out 1.5"


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (True, False), (False, True)])
def test_drawn_on_terminals_only(terminal, shown):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with TrainingBar(10, shown=shown, console=console) as bar:
        bar.show(RECORD)
        bar.say("[disk] full")
    assert ("3/10" in stream.getvalue()) is (terminal and shown)
    assert "[disk] full" in stream.getvalue()
