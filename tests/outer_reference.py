"""Hessian-free optimization written down naively: dense matrices, textbook recurrences, float64.

Follows the pages of the papers and nothing of the package: Martens (2010), Sainath et al. (2013, algorithm 1), He et
al. (2016, algorithms 2 and 3), with the sign of rho put right and rejected steps retried at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

GRID = {1} | {math.ceil(1.3**k) for k in range(1, 30)}
EPS = np.finfo(np.float64).eps


def martens(phi: list[float]) -> bool:
    i = len(phi) - 1
    k = max(10, int(0.1 * i))
    return i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 5e-4


def fixed(iterations: int) -> Callable[[list[float]], bool]:
    return lambda phi: len(phi) - 1 >= iterations


@dataclass
class Run:
    """Candidates (iteration, d, q(d)), and whether negative curvature was met."""

    candidates: list
    iterations: int
    negative: bool


def conjugate_gradients(A, b, x, stop, maxiter) -> Run:
    x = np.zeros_like(b) if x is None else x.copy()
    r = b - A @ x
    p = r.copy()
    phi = [x @ A @ x / 2 - b @ x]
    kept, negative, i = [], False, 0
    while i < maxiter:
        curvature = p @ A @ p
        if curvature <= 0:
            negative = True
            break
        i += 1
        alpha = r @ r / curvature
        x = x + alpha * p
        new = r - alpha * (A @ p)
        p, r = new + new @ new / (r @ r) * p, new
        phi.append(x @ A @ x / 2 - b @ x)
        if i in GRID:
            kept.append((i, x, phi[-1]))
        if stop(phi) or np.linalg.norm(r) < 10 * EPS * np.linalg.norm(b):
            break
    if i and (not kept or kept[-1][0] != i):
        kept.append((i, x, phi[-1]))
    if not kept:
        kept = [(0, b * (p @ p / abs(curvature)), math.nan)]
    return Run(kept, i, negative)


def bicgstab(A, b, x, stop, maxiter) -> Run:
    x = np.zeros_like(b) if x is None else x.copy()
    r = b - A @ x
    shadow, p = r.copy(), r.copy()
    phi = [x @ A @ x / 2 - abs(b @ x)]
    kept, negative, i = [], False, 0
    while i < maxiter:
        i += 1
        v = A @ p
        alpha = shadow @ r / (shadow @ v)
        s = r - alpha * v
        t = A @ s
        omega = t @ s / (t @ t)
        x = x + alpha * p + omega * s
        new = s - omega * t
        beta = shadow @ new / (shadow @ r) * alpha / omega
        p, r = new + beta * (p - omega * v), new
        d = x if b @ x >= 0 else -x
        phi.append(d @ A @ d / 2 - b @ d)
        done = stop(phi)
        if i in GRID or done or i == maxiter:
            kept.append((i, d, phi[-1]))
            negative = negative or d @ A @ d < 0
        if done:
            break
    return Run(kept, i, negative)


@dataclass
class Trainer:
    """One outer iteration after the other; `step` says what happened."""

    loss: Callable
    gradient: Callable
    curvature: Callable  # (kind, point) -> matrix
    kind: str = "ggn"
    solver: Callable = conjugate_gradients
    stop: Callable = martens
    maxiter: int = 250
    damping: float = 1.0
    eta: float = 0.95
    retries: int = 2
    direction: np.ndarray | None = None
    met_negative: bool = False
    events: set = field(default_factory=set)

    def step(self, point: np.ndarray) -> tuple[np.ndarray, dict]:
        kind = self.kind
        if kind == "hybrid":
            kind = "ggn" if self.met_negative else "hessian"
        g, B = self.gradient(point), self.curvature(kind, point)
        before, negative = self.loss(point), False
        for _ in range(self.retries + 1):
            damping = self.damping
            A = B + damping * np.eye(len(g))
            start = None if self.direction is None else self.eta * self.direction
            run = self.solver(A, -g, start, self.stop, self.maxiter)
            negative = negative or run.negative
            chosen = len(run.candidates) - 1
            lowest = self.loss(point + run.candidates[chosen][1])
            while chosen > 0:
                value = self.loss(point + run.candidates[chosen - 1][1])
                if not value < lowest:
                    break
                chosen, lowest = chosen - 1, value
            if lowest < before:
                break
            self.events.add("rejected")
            self.direction, self.damping = None, 2 * damping
        self.met_negative = negative
        last, (iteration, d, _) = run.candidates[-1], run.candidates[chosen]
        told = {"damping": damping, "candidate": iteration, "curvature": kind, "alpha": 0.0}
        told |= {"iterations": run.iterations, "negative_curvature": negative}
        told |= {"loss_before": before, "loss_after": before}
        if not lowest < before:
            self.events.add("given up")
            return point, told
        self._note(run, chosen, negative)
        rho = (lowest - before) / last[2] if last[2] < 0 else math.nan
        if last[2] >= 0:
            self.events.add("no model decrease")
        elif math.isnan(rho) or rho < 0.25:
            self.events.add("more damping")
            self.damping = 2 * damping
        elif rho > 0.75:
            self.events.add("less damping")
            self.damping = damping / 2
        alpha = 1.0
        while self.loss(point + alpha * d) > before + 1e-2 * alpha * min(g @ d, 0):
            self.events.add("shortened")
            alpha /= 2
        self.direction = last[1] if last[0] > 0 else None
        after = self.loss(point + alpha * d)
        return point + alpha * d, told | {"rho": rho, "alpha": alpha, "loss_after": after}

    def _note(self, run: Run, chosen: int, negative: bool) -> None:
        if chosen < len(run.candidates) - 1:
            self.events.add("backtracked")
        if negative:
            self.events.add("negative curvature")
        if run.candidates[-1][0] == 0:
            self.events.add("steepest descent")
