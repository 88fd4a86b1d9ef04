"""Ctrl-C and SIGTERM: training ends between iterations, with a checkpoint and the best parameters."""

# ruff: noqa: E402  (without torch nothing below can be imported)
from __future__ import annotations

import os
import signal
import threading

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from krylov.torch.training import Ending, fit, mlp
from krylov.torch.training.interrupt import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signalling(nn.CrossEntropyLoss):
    """Sends signals in the middle of an iteration."""

    def __init__(self, number, calls):
        super().__init__()
        self.number, self.at, self.calls = number, calls, 0

    def forward(self, outputs, targets):
        self.calls += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.calls in self.at:
            os.kill(os.getpid(), self.number)
        return super().forward(outputs, targets)


def run(loss, path, **options):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    model = mlp(4, 2, (6,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    options = {"steps": 6, "batch": 10, "checkpoint": path, "checkpoint_every": 50} | options
    try:
        return fit(model, loss, (inputs, targets), optimizer=optimizer, **options), model
    except KeyboardInterrupt:
        return None, model


def parameters(model):
    return list(model.state_dict().values())


@pytest.mark.parametrize("number", SIGNALS)
def test_ends_after_the_iteration_and_goes_on_as_if_nothing_had_happened(number, tmp_path):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    history, _ = run(
        Signalling(number, {15}), tmp_path / "c.pt"
    )  # in the third of six batches each
    assert history.ending is Ending.INTERRUPTED
    assert history.column("step") == [0, 1, 2, 3]
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 3
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    history, resumed = run(nn.CrossEntropyLoss(), tmp_path / "c.pt", resume=True)
    assert history.ending is Ending.STEPS
    _, alone = run(nn.CrossEntropyLoss(), tmp_path / "other.pt")
    assert all(map(torch.equal, parameters(resumed), parameters(alone)))


def test_a_second_signal_ends_at_once_with_the_best_parameters(tmp_path):
    path = tmp_path / "c.pt"
    loss = Signalling(signal.SIGINT, {15, 16})
    history, model = run(loss, path, checkpoint_every=1)
    assert history is None
    assert loss.calls == 16
    best = torch.load(path, weights_only=True)["best"]
    assert best["step"] == 2
    assert all(map(torch.equal, parameters(model), best["model"].values()))


def test_says_what_happens(capfd, tmp_path):
    run(Signalling(signal.SIGINT, {2}), tmp_path / "c.pt")
    assert "once more to stop at once" in capfd.readouterr().err


def test_other_threads_are_left_alone(tmp_path):
    found = []

    def work():
        with Interruption() as interruption:
            found.append((interruption.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGINT))]
