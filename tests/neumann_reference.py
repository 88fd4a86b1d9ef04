"""Algorithm 2 of Krishnan et al. (2018) as it is printed, in NumPy; K counts from the last reset."""

from __future__ import annotations

import numpy as np


def neumann_run(
    gradient,
    w,
    steps,
    *,
    lr,
    warmup_steps=0,
    reset_every=None,
    reset_growth=2,
    momentum=(0.5, 0.9),
    momentum_every=1,
    alpha=1e-7,
    beta=None,
    gamma=0.99,
    weight_decay=0.0,
):
    """Displaced and true parameters after each step; `gradient(w, step)`, rates of each entry in `lr`."""
    w = np.array(w, dtype=np.float64)
    beta = 1e-5 * w.size if beta is None else beta
    v, m = w.copy(), np.zeros_like(w)
    K, inner = reset_every, 0
    displaced, true, mus, resets = [], [], [], []
    for step in range(1, steps + 1):
        g = gradient(w, step) + weight_decay * w
        t = step - warmup_steps
        mu = 0.0
        if t <= 0:
            w = w - lr * g
        else:
            time = 1 + (t - 1) / momentum_every
            mu = min(max(1 - 1 / (1 + time), momentum[0]), momentum[1])
            if t == 1 or inner == K:
                if t > 1:
                    K *= reset_growth
                inner = 0
                resets.append(step)
                d, m = g, -lr * g
            else:
                away = w - v
                r = np.sqrt((away**2).sum())
                force = (alpha * r**2 - beta / r**2) * away / r if r > 0 else 0 * away
                d = g + force
                m = mu * m - lr * d
            inner += 1
            w = w + mu * m - lr * d
            v = w + gamma * (v - w)
        displaced.append(w)
        true.append(w - mu * m)
        mus.append(mu)
    return {"displaced": displaced, "true": true, "mu": mus, "resets": resets}
