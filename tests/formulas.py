"""What each pass of the core computes, in NumPy: the truth that every kernel table is tested against.

A formula takes the vectors ``v`` and the coefficients ``c``, all in double precision, and returns what it stores,
``{index: vector}``, and the pairs ``(a, b)`` of its sums ``conj(a).b``.
"""

from __future__ import annotations

import numpy as np

# Coefficients for tests: as many of them as a pass takes.
COEFS = [0.7 - 0.4j, -1.3 + 0.2j, 0.5 + 0.9j, 1.1 - 0.6j, 0.8 + 0.3j]


def copy(v, c):
    return {0: v[1]}, []


def axpy(v, c):
    return {0: v[0] + c[0] * v[1]}, []


def scale(v, c):
    y = c[0] * v[0]
    return {0: y}, [(y, y)]


def norm(v, c):
    x = v[0]
    return {}, [(x, x), (c[0] * x, c[0] * x), (c[1] * x, c[1] * x)]


def dot(v, c):
    return {}, [(v[0], v[1])]


def dot_pair(v, c):
    x, y, z = v
    return {}, [(x, z), (y, z)]


def residual(v, c):
    r = v[1] - v[2]
    return {0: r}, [(r, r), (c[0] * r, c[0] * r), (c[1] * r, c[1] * r)]


def direction(v, c):
    _, z, x = v
    return {0: z}, [(z, z), (x, z), (x, x)]


def cg_residual(v, c):
    r = v[0] - c[0] * v[1]
    return {0: r}, [(r, r)]


def cg_residual_old(v, c):
    r = v[0] - c[0] * v[1]
    return {0: r}, [(r, r), (v[0], r)]


def cg_residual_diag(v, c):
    r, Ap, d = v[0] - c[0] * v[1], v[1], v[2]
    return {0: r}, [(r, r), (r, d * r), (Ap, d * r)]


def cg_step(v, c):
    x, p = v[0] + c[0] * v[1], v[2] + c[1] * v[1]
    return {0: x, 1: p}, [(p, p), (x, p), (x, x)]


def cg_step_diag(v, c):
    x, p = v[0] + c[0] * v[1], v[3] * v[2] + c[1] * v[1]
    return {0: x, 1: p}, [(p, p), (x, p), (x, x)]


def bicgstab_half(v, c):
    s = v[0] - c[0] * v[1]
    return {0: s}, [(s, s)]


def bicgstab_omega(v, c):
    t, s, r0 = c[0] * v[0], v[1], v[2]
    return {}, [(t, s), (t, t), (r0, t), (r0, s)]


def bicgstab_step(v, c):
    x, s, p, t, Ap = v
    alpha, omega_x, omega, beta = c[:4]
    r = s - omega * t
    return {0: x + alpha * p + omega_x * s, 1: r, 2: r + beta * (p - omega * Ap)}, [(r, r)]


def bicgstab_step_m(v, c):
    x, s, p, t, Ap, Mp, Ms = v
    alpha, omega_x, omega, beta = c[:4]
    r = s - omega * t
    return {0: x + alpha * Mp + omega_x * Ms, 1: r, 2: r + beta * (p - omega * Ap)}, [(r, r)]


def multiply(v, c):
    return {0: v[1] * v[2]}, []


def neumann_step(v, c):
    x, old, Ar = v
    r = old - c[1] * Ar
    return {0: x + c[0] * old, 1: r}, [(r, r), (old, Ar)]


def neumann_step_m(v, c):
    x, old, Az, z = v
    r = old - c[1] * Az
    return {0: x + c[0] * z, 1: r}, [(r, r), (z, Az), (old, z)]


def lanczos_step(v, c):
    w = v[0] - c[0] * v[1] - c[1] * v[2]
    return {0: w}, [(w, w)]


def nesterov_step(v, c):
    w, m, g = v
    mu, eta, decay = c[:3]
    new = mu * m - eta * g - decay * w
    return {0: w + (1 + mu) * new - mu * m, 1: new}, []


def nesterov_step_mean(v, c):
    w, m, u, g = v
    mu, eta, decay, pull, gamma = c
    new = mu * m - eta * g - decay * w - pull * u
    step = (1 + mu) * new - mu * m
    away = gamma * (u + step)
    return {0: w + step, 1: new, 2: away}, [(away, away)]


FORMULAS = {
    function.__name__: function
    for function in (
        copy,
        axpy,
        scale,
        norm,
        dot,
        dot_pair,
        residual,
        direction,
        cg_residual,
        cg_residual_old,
        cg_residual_diag,
        cg_step,
        cg_step_diag,
        bicgstab_half,
        bicgstab_omega,
        bicgstab_step,
        bicgstab_step_m,
        multiply,
        neumann_step,
        neumann_step_m,
        lanczos_step,
        nesterov_step,
        nesterov_step_mean,
    )
}


def evaluate(name, vectors, coefs):
    """Evaluate a pass on vectors of any dtype: ``{index: stored vector}`` and ``[(sum, its scale)]``."""
    real = vectors[0].dtype.kind == "f"
    wide = [v.astype(np.float64 if real else np.complex128) for v in vectors]
    c = [complex(a).real if real else complex(a) for a in coefs]
    stored, pairs = FORMULAS[name](wide, c)
    sums = [(np.vdot(a, b), np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]
    return stored, sums
