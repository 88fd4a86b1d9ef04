"""Objectives for the comparison of minimisers: value, gradient and Hessian product of each, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["Problem", "deep_linear", "logistic", "peaks", "rosenbrock", "saddle"]


@dataclass(frozen=True)
class Problem:
    """An objective with its derivatives and a start.

    Attributes
    ----------
    name : str
        For the tables.
    fun, jac, hessp : callable
        ``fun(x)``, ``jac(x)``, ``hessp(x, p)``.
    x0 : ndarray
        Start.
    target : float
        Euclidean norm of the gradient at which the comparison ends.
    minimum : float, optional
        The value at every local minimum, where that is known.
    """

    name: str
    fun: Callable[[Vector], float]
    jac: Callable[[Vector], Vector]
    hessp: Callable[[Vector, Vector], Vector]
    x0: Vector
    target: float
    minimum: float | None = None


def rosenbrock(n: int, target: float = 1e-6) -> Problem:
    """Rosenbrock's valley in n dimensions, from the usual start (-1.2, 1, -1.2, 1, ...)."""
    x0 = np.where(np.arange(n) % 2 == 0, -1.2, 1.0)
    rosen = scipy.optimize
    return Problem(
        f"Rosenbrock, n = {n:,}", rosen.rosen, rosen.rosen_der, rosen.rosen_hess_prod, x0, target
    )


def deep_linear(
    width: int = 10, layers: int = 4, seed: int = 0, scale: float = 0.5, target: float = 1e-6
) -> Problem:
    """Deep linear network ½ |W_L ... W_1 - T|² (Saxe et al. 2014) for whitened inputs.

    Every minimum is global, and there are saddles of all ranks, with the origin the flattest of them: the start is
    random and of size `scale`, or the origin for ``scale=0``.
    """
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(2))
    wanted = (left * np.geomspace(3.0, 0.3, width)) @ right
    x0 = scale * rng.standard_normal(layers * width * width) / np.sqrt(width)

    def matrices(x: Vector) -> Vector:
        return x.reshape(layers, width, width)

    def products(w: Vector) -> tuple[list[Any], list[Any]]:
        """W_k ... W_1 for k = 0 to L, and W_L ... W_k for k = L + 1 down to 1, in order of k."""
        below, above = [np.eye(width)], [np.eye(width)]
        for k in range(layers):
            below.append(w[k] @ below[-1])
            above.append(above[-1] @ w[layers - 1 - k])
        return below, above[::-1]

    def fun(x: Vector) -> float:
        error = products(matrices(x))[0][-1] - wanted
        return 0.5 * float(np.vdot(error, error))

    def jac(x: Vector) -> Vector:
        below, above = products(matrices(x))
        error = below[-1] - wanted
        return np.array([above[k + 1].T @ error @ below[k].T for k in range(layers)]).ravel()

    def hessp(x: Vector, p: Vector) -> Vector:
        w, d = matrices(x), matrices(p)
        below, above = products(w)
        error = below[-1] - wanted
        # Derivatives of the partial products in the direction d.
        d_below, d_above = [np.zeros((width, width))], [np.zeros((width, width))]
        for k in range(layers):
            d_below.append(d[k] @ below[k] + w[k] @ d_below[-1])
            j = layers - 1 - k
            d_above.append(above[j + 1] @ d[j] + d_above[-1] @ w[j])
        d_above.reverse()
        d_error = d_below[-1]
        parts = [
            d_above[k + 1].T @ error @ below[k].T
            + above[k + 1].T @ d_error @ below[k].T
            + above[k + 1].T @ error @ d_below[k].T
            for k in range(layers)
        ]
        return np.array(parts).ravel()

    name = f"deep linear network, {layers} layers of {width}"
    return Problem(name, fun, jac, hessp, x0, target, minimum=0.0)


def logistic(name: str, path: Path, penalty: float | None = None, target: float = 1e-7) -> Problem:
    """Logistic regression with intercept on a file in svmlight format, mean loss plus ½ penalty |w|².

    The penalty is 1 over the number of rows by default.
    """
    from sklearn.datasets import load_svmlight_file

    features, labels = load_svmlight_file(str(path))
    rows = features.shape[0]
    sign = np.where(labels > labels.min(), 1.0, -1.0)
    a = scipy.sparse.hstack([features, np.ones((rows, 1))], format="csr").multiply(sign[:, None])
    a = scipy.sparse.csr_array(a)
    at = scipy.sparse.csr_array(a.T)
    weight = 1.0 / rows if penalty is None else penalty

    def fun(w: Vector) -> float:
        return float(np.mean(np.logaddexp(0.0, -(a @ w))) + 0.5 * weight * (w @ w))

    def jac(w: Vector) -> Vector:
        return np.asarray(-(at @ scipy.special.expit(-(a @ w))) / rows + weight * w)

    def hessp(w: Vector, p: Vector) -> Vector:
        probability = scipy.special.expit(a @ w)
        return np.asarray(at @ (probability * (1 - probability) * (a @ p)) / rows + weight * p)

    return Problem(f"logistic regression, {name}", fun, jac, hessp, np.zeros(a.shape[1]), target)


def peaks(count: int = 12, points: int = 400, seed: int = 3, target: float = 1e-6) -> Problem:
    """Nonconvex least squares: a sum of Gaussian peaks, heights, centres and log-widths unknown, with noise."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, count, points)
    centres = np.arange(count) + 0.5
    truth = np.concatenate(
        [
            rng.uniform(0.5, 2.0, count),
            centres + rng.uniform(-0.2, 0.2, count),
            np.log(rng.uniform(0.2, 0.5, count)),
        ]
    )

    def shape(x: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        height, centre, width = x[:count, None], x[count : 2 * count, None], x[2 * count :, None]
        z = (t - centre) * np.exp(-width)
        bell = np.exp(-0.5 * z * z)
        return height, np.exp(-width), z, bell

    data = np.sum(shape(truth)[0] * shape(truth)[3], axis=0) + 0.02 * rng.standard_normal(points)

    def residual(height: Vector, bell: Vector) -> Vector:
        return np.asarray(np.sum(height * bell, axis=0) - data)

    def jacobian(height: Vector, inverse: Vector, z: Vector, bell: Vector) -> Vector:
        return np.concatenate([bell, height * bell * z * inverse, height * bell * z * z])

    def fun(x: Vector) -> float:
        height, _, _, bell = shape(x)
        return 0.5 * float(np.sum(residual(height, bell) ** 2))

    def jac(x: Vector) -> Vector:
        height, inverse, z, bell = shape(x)
        return np.asarray(jacobian(height, inverse, z, bell) @ residual(height, bell))

    def hessp(x: Vector, p: Vector) -> Vector:
        height, inverse, z, bell = shape(x)
        r = residual(height, bell)
        j = jacobian(height, inverse, z, bell)
        ph, pc, pw = (p[k * count : (k + 1) * count] for k in range(3))
        hc, hw = (bell * z * inverse) @ r, (bell * z * z) @ r
        cc = (height * bell * (z * z - 1) * inverse**2) @ r
        cw = (height * bell * z * (z * z - 2) * inverse) @ r
        ww = (height * bell * z * z * (z * z - 2)) @ r
        second = [
            hc * pc + hw * pw,
            hc * ph + cc * pc + cw * pw,
            hw * ph + cw * pc + ww * pw,
        ]
        return np.asarray(j @ (p @ j) + np.concatenate(second))

    x0 = np.concatenate([np.ones(count), centres, np.full(count, np.log(0.6))])
    return Problem(f"least squares, {count} peaks", fun, jac, hessp, x0, target)


def saddle(x0: tuple[float, float] = (1.0, 0.0)) -> Problem:
    """½x² + ¼y⁴ - ½y²: minima at (0, 1) and (0, -1), a saddle between them, which no gradient on y = 0 leaves."""
    return Problem(
        "½x² + ¼y⁴ - ½y²",
        lambda x: float(0.5 * x[0] ** 2 + 0.25 * x[1] ** 4 - 0.5 * x[1] ** 2),
        lambda x: np.array([x[0], x[1] ** 3 - x[1]]),
        lambda x, p: np.array([p[0], (3 * x[1] ** 2 - 1) * p[1]]),
        np.array(x0),
        1e-8,
        minimum=-0.25,
    )
