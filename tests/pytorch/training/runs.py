"""Training runs that may be killed in the middle of a step; a program, since SIGKILL ends all of it.

python runs.py FOLDER MODE NAME...   with MODE "whole", "resume", or the number of the loss that is the last one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from krylov.torch.optim.hessian_free import HessianFree
from krylov.torch.optim.neumann import Neumann
from krylov.torch.schedules import GeometricSchedule, GeometricThenVariance
from krylov.torch.spectrum import SpectrumTracker
from krylov.torch.training import fit, mlp

STEPS = 6


class Countdown(nn.CrossEntropyLoss):
    """A loss that is called so many times, then the process is gone."""

    last = None
    calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        if self.calls == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(outputs, targets)


def problem():
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(130, 6, generator=generator)
    targets = (inputs[:, 0] + inputs[:, 1] > 0).long() + (inputs[:, 2] > 0)
    return (inputs[:100], targets[:100]), (inputs[100:], targets[100:])


def setting(name):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002  (the old generator is the one that a checkpoint has to keep)
    random.seed(3)
    model = mlp(6, 3, (8,), activation="tanh")
    options = {"batch": 16}
    if name.startswith("hf"):
        optimizer = HessianFree(
            model.parameters(),
            preconditioner=name.partition("-")[2],
            damping=0.01,
        )
        options["gradient_schedule"] = GeometricThenVariance(40, 1.3, 0.5, 100, groups=3)
        options["curvature_schedule"] = GeometricSchedule(20, 1.3, 100)
        if name == "hf-ritz":
            options |= {"gradient_samples": "fresh", "evaluation": "held_out"}
    elif name == "adam":
        model.insert(2, nn.Dropout(0.2))  # draws from torch's generator
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    elif name == "neumann":
        optimizer = Neumann(model.parameters(), 0.1, warmup_steps=5, reset_every=4)
        options["spectrum"] = SpectrumTracker(model.parameters(), every=2, k=3)
    elif name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        options["gradient_schedule"] = GeometricSchedule(30, 1.5, 100)
    else:
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    return model, optimizer, options


def train(folder: Path, name: str, mode: str) -> None:
    folder = folder / name
    folder.mkdir(exist_ok=True)
    model, optimizer, options = setting(name)
    data, held_out = problem()
    loss = Countdown()
    loss.last = int(mode) if mode.isdecimal() else None
    calls = []

    def watch(record):
        calls.append(loss.calls)
        np.random.rand(), random.random()  # noqa: NPY002

    fit(
        model,
        loss,
        data,
        held_out=held_out,
        optimizer=optimizer,
        steps=STEPS,
        log=folder / "log.jsonl",
        checkpoint=folder / "checkpoint.pt",
        resume=mode == "resume",
        keep="last",
        callback=watch,
        **options,
    )
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "calls.json").write_text(json.dumps(calls))
    if "spectrum" in options:
        found = [record.as_dict() for record in options["spectrum"].records]
        (folder / "spectrum.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[3:]:
        train(Path(sys.argv[1]), each, sys.argv[2])
