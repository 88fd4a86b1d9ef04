"""The linear systems of the demo: generated ones, and some from scikit-learn's bundled data.

Each function takes a size and returns a `System`. They are ordinary problems of ordinary users, not
picked for their speed-up; the dense one is there to show where nothing is to be gained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array, kron


@dataclass(frozen=True)
class System:
    """A system A x = b and the way to solve it."""

    name: str
    A: Any
    b: np.ndarray
    method: str
    jacobi: bool = False
    #: Turns a solution into a sentence about what it is good for.
    verdict: Callable[[np.ndarray], str] | None = None

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return int(self.A.shape[0])

    @property
    def nnz(self) -> int:
        """Stored entries of the matrix."""
        return int(self.A.nnz if hasattr(self.A, "nnz") else self.A.size)

    @property
    def method_words(self) -> str:
        """The method as it stands in a table."""
        return f"{self.method} + Jacobi" if self.jacobi else self.method


def poisson(side: int) -> System:
    """-u_xx - u_yy = 1 on a square, five-point stencil."""
    line = _second_difference(side)
    unit = eye_array(side)
    matrix = csr_array(kron(line, unit) + kron(unit, line))
    return System("Poisson, 2-D", matrix, np.ones(side * side), "cg")


def jumping_diffusion(side: int) -> System:
    """-div(c grad u) = 1 where c is 1 or 100, by blocks: what Jacobi is for."""
    rng = np.random.default_rng(7)
    block = 16
    coarse = 10.0 ** (2 * rng.integers(0, 2, size=(-(-side // block),) * 2))
    c = np.kron(coarse, np.ones((block, block)))[:side, :side]
    i, j = _grid_edges(side, side)
    flat = c.ravel()
    weight = 2 * flat[i] * flat[j] / (flat[i] + flat[j])
    edge = np.zeros((side, side))
    for rim in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
        edge[rim] += 2 * c[rim]
    matrix = _laplacian(side * side, i, j, weight) + diags_array(edge.ravel())
    return System("diffusion, jumps of 100", csr_array(matrix), np.ones(side**2), "cg", True)


def convection_diffusion(side: int) -> System:
    """Diffusion in a rotating flow, central differences: nonsymmetric."""
    h = 1.0 / (side + 1)
    at = np.arange(1, side + 1) * h - 0.5
    speed = 0.9 / h  # cell Peclet number below one: no wiggles
    line, unit = _second_difference(side), eye_array(side)
    slope = diags_array([-0.5 * np.ones(side - 1), 0.5 * np.ones(side - 1)], offsets=[-1, 1])
    flow = kron(diags_array(speed * at), slope) - kron(slope, diags_array(speed * at))
    matrix = kron(line, unit) + kron(unit, line) + h * flow
    return System("convection-diffusion", csr_array(matrix), np.ones(side**2), "bicgstab")


def magnetic_lattice(side: int) -> System:
    """Electron on a lattice in a magnetic field (Harper, Hofstadter): complex Hermitian."""
    i, j = _grid_edges(side, side)
    flux = 2 * np.pi * 0.01
    vertical = j - i == side
    phase = np.where(vertical, 0.0, flux * (i // side))
    matrix = _laplacian(side * side, i, j, np.exp(1j * phase)) + 1e-4 * eye_array(side * side)
    rng = np.random.default_rng(11)
    b = rng.standard_normal(side**2) + 1j * rng.standard_normal(side**2)
    return System("lattice in a magnetic field", csr_array(matrix), b, "cg")


def photograph(step: int) -> System:
    """Edge-preserving smoothing of a photograph, bundled with scikit-learn.

    Weighted least squares: stay near the picture, be smooth except across its edges (Farbman,
    Fattal, Lischinski and Szeliski 2008).
    """
    from sklearn.datasets import load_sample_image

    light = load_sample_image("china.jpg")[::step, ::step].mean(axis=2) / 255
    i, j = _grid_edges(*light.shape)
    logarithm = np.log(light.ravel() + 1e-2)
    weight = 1.0 / (np.abs(logarithm[i] - logarithm[j]) ** 1.2 + 1e-3)
    matrix = _laplacian(light.size, i, j, weight) + eye_array(light.size)
    return System("smoothing a photograph", csr_array(matrix), light.ravel(), "cg", True)


def digits_graph(count: int) -> System:
    """Labels spread over the neighbour graph of handwritten digits: small, so overhead counts."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    data, target = (array[:count] for array in load_digits(return_X_y=True))
    neighbours = kneighbors_graph(data / 16.0, 10, mode="connectivity")
    i, j = neighbours.maximum(neighbours.T).nonzero()
    upper = i < j
    i, j = i[upper], j[upper]
    matrix = _laplacian(count, i, j, np.ones(i.size)) + 1e-3 * eye_array(count)
    known = np.arange(count) % 10 == 0
    even = np.where(target % 2 == 0, 1.0, -1.0)
    b = np.where(known, even, 0.0)

    def verdict(x: np.ndarray) -> str:
        hit = np.mean(np.sign(x[~known]) == even[~known])
        return f"odd or even: {hit:.1%} of the digits right, from one label in ten"

    return System("neighbour graph of digits", csr_array(matrix), b, "cg", verdict=verdict)


def digits_kernel(count: int) -> System:
    """Kernel ridge regression on handwritten digits: dense, so the product is all that counts."""
    from sklearn.datasets import load_digits
    from sklearn.metrics.pairwise import rbf_kernel

    data, target = (array[:count] for array in load_digits(return_X_y=True))
    split = count * 4 // 5
    train, test = data[:split] / 16.0, data[split:] / 16.0
    even = np.where(target % 2 == 0, 1.0, -1.0)
    matrix = rbf_kernel(train, train, gamma=0.1) + 1e-3 * np.eye(split)

    def verdict(x: np.ndarray) -> str:
        hit = np.mean(np.sign(rbf_kernel(test, train, gamma=0.1) @ x) == even[split:])
        return f"odd or even: {hit:.1%} of {count - split} digits it has never seen right"

    return System("kernel ridge on digits", matrix, even[:split], "cg", verdict=verdict)


#: The systems of the demo with their full and their quick size; the last ones need scikit-learn.
GENERATED: tuple[tuple[Callable[[int], System], int, int], ...] = (
    (poisson, 500, 40),
    (jumping_diffusion, 200, 40),
    (convection_diffusion, 200, 40),
    (magnetic_lattice, 300, 30),
)
BUNDLED: tuple[tuple[Callable[[int], System], int, int], ...] = (
    (digits_graph, 1797, 300),
    (digits_kernel, 1797, 300),
    (photograph, 1, 12),
)


def _second_difference(count: int) -> Any:
    return diags_array(
        [-np.ones(count - 1), 2 * np.ones(count), -np.ones(count - 1)], offsets=[-1, 0, 1]
    )


def _grid_edges(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(rows * columns).reshape(rows, columns)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1, :].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:, :].ravel()])
    return first, second


def _laplacian(n: int, i: np.ndarray, j: np.ndarray, weight: np.ndarray) -> Any:
    """Degrees minus weights; the weights may have a phase, then the matrix is Hermitian."""
    upper = csr_array(coo_array((-weight, (i, j)), shape=(n, n)))
    size = np.abs(weight)
    degree = np.bincount(i, size, n) + np.bincount(j, size, n)
    return upper + upper.conj().T + diags_array(degree)
