"""Newton-CG written down naively: dense matrices, textbook recurrences, float64.

Follows Reiz et al. (2022, algorithm 2) and nothing of the package, with the test of feasibility put right, runs that
end at negative curvature, and Levenberg-Marquardt damping and Armijo's rule as in `outer_reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import outer_reference


def truncated_cg(A, b, x, tol, maxiter):
    """Last iterate, its number, and whether negative curvature ended the run."""
    x = np.zeros_like(b) if x is None else x.copy()
    r = b - A @ x
    p = r.copy()
    for i in range(maxiter):
        curvature = p @ A @ p
        if curvature <= 0:
            return x, i, True
        alpha = r @ r / curvature
        x = x + alpha * p
        new = r - alpha * (A @ p)
        p, r = new + new @ new / (r @ r) * p, new
        if np.linalg.norm(r) <= tol * np.linalg.norm(b):
            return x, i + 1, False
    return x, maxiter, False


def bicgstab(A, b, x, tol, maxiter):
    """All iterations, with the sign that leads downhill."""
    run = outer_reference.bicgstab(A, b, x, outer_reference.fixed(maxiter), maxiter)
    d = run.candidates[-1][1]
    return d, run.iterations, d @ A @ d < 0


@dataclass
class Trainer:
    """One step after the other; `step` says what happened."""

    loss: Callable
    gradient: Callable
    curvature: Callable  # (kind, point) -> matrix
    kind: str = "hessian"
    solver: Callable = truncated_cg
    tol: float = 0.1
    maxiter: int = 10
    tau: float = 1.0
    lr: Any = 1.0  # a number, or one for each entry
    eta: float = 0.0
    adapts: bool = False
    armijo: bool = False
    direction: np.ndarray | None = None
    events: set = field(default_factory=set)

    def step(self, point: np.ndarray) -> tuple[np.ndarray, dict]:
        g, B = self.gradient(point), self.curvature(self.kind, point)
        before, tau = self.loss(point), self.tau
        A = B + tau * np.eye(len(g))
        start = None if self.direction is None or not self.eta else self.eta * self.direction
        d, i, negative = self.solver(A, -g, start, self.tol, self.maxiter)
        if negative:
            self.events.add("negative curvature")
        self.events.add("limit" if i == self.maxiter else "tolerance")
        usable = i > 0 and g @ (self.lr * d) < 0
        if i > 0 and not usable:
            self.events.add("uphill")
        if negative and i > 0:
            self.events.add("truncated")
        if not usable:
            self.events.add("steepest descent")
        s = self.lr * (d if usable else -g)
        told = {"damping": tau, "iterations": i, "candidate": i if usable else 0, "alpha": 1.0}
        told |= {"negative_curvature": negative, "loss_before": before}
        told |= {"rho": math.nan, "loss_after": math.nan}
        if self.adapts or self.armijo:
            self._judge(told, point, g, A, s, usable)
        alpha = told["alpha"]
        self.direction = d if alpha and usable and self.eta else None
        return point + alpha * s, told

    def _judge(self, told, point, g, A, s, usable):
        before = told["loss_before"]
        predicted = g @ s + s @ A @ s / 2 if usable else math.nan
        full = self.loss(point + s)
        rho = told["rho"] = (full - before) / predicted if predicted < 0 else math.nan
        alpha = 1.0
        if self.armijo:
            while self.loss(point + alpha * s) > before + 1e-2 * alpha * (g @ s):
                self.events.add("shortened")
                alpha /= 2
        elif not full < before:
            self.events.add("rejected")
            alpha = 0.0
        if self.adapts:
            if alpha and predicted >= 0:
                self.events.add("no model decrease")
            elif not alpha or math.isnan(rho) or rho < 0.25:
                self.events.add("more damping")
                self.tau *= 2
            elif rho > 0.75:
                self.events.add("less damping")
                self.tau /= 2
        told |= {"alpha": alpha, "loss_after": self.loss(point + alpha * s)}
