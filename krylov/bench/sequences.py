"""Sequences of slowly changing systems, as an optimizer meets them: ``(A_k + shift_k I) x = b_k``.

``A_k = Q_k diag(d_k) Q_k^T``: two hundred outliers ``10 j^-1.5`` over a bulk below the shift, each eigenvalue perturbed
anew in every system. ``b_k = Q_k sqrt(d_k) w_k`` as a gradient is, with a w_k half of which the systems share, or
random. The eigenvectors are cosines in random order, so a product takes two fast transforms, the exact solution is
known, and the diagonal of A says as little about its spectrum as that of a Gauss-Newton matrix does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OUTLIERS", "SHIFT", "System", "make_sequence"]

OUTLIERS = 200
SHIFT = 1e-3
_TOP, _DECAY = 10.0, 1.5
# The bulk is uniform below this share of the shift.
_BULK = 0.3
_PERTURBATION = 0.05


class Basis:
    """``Q = G_k .. G_1 C``: an orthogonal matrix of cosines, and what turns it.

    Parameters
    ----------
    order : ndarray of int
        Which frequency each column of C has.
    turns : sequence of sparse arrays
        G_1, G_2, ..., orthogonal.
    """

    def __init__(self, order: NDArray[Any], turns: Sequence[Any] = ()) -> None:
        self._order, self._turns = order, tuple(turns)

    def forward(self, c: NDArray[Any]) -> NDArray[Any]:
        """Q c."""
        coefficients = np.empty_like(c)
        coefficients[self._order] = c
        x = scipy.fft.idct(coefficients, norm="ortho", overwrite_x=True)
        for turn in self._turns:
            x = turn @ x
        return np.asarray(x)

    def back(self, x: NDArray[Any]) -> NDArray[Any]:
        """Q^T x."""
        for turn in self._turns[::-1]:
            x = turn.T @ x
        return np.asarray(scipy.fft.dct(x, norm="ortho")[self._order])

    def turned(self, angle: float, rng: np.random.Generator) -> Basis:
        """All columns turned by this angle: a rotation of random pairs of coordinates."""
        n = self._order.size
        i, j = rng.permutation(n)[: n // 2 * 2].reshape(2, -1)
        sine = np.full(i.size, np.sin(angle))
        diagonal = np.ones(n)
        diagonal[i] = diagonal[j] = np.cos(angle)
        where = (np.concatenate([i, j]), np.concatenate([j, i]))
        turn = sp.coo_array((np.concatenate([-sine, sine]), where), shape=(n, n))
        return Basis(self._order, [*self._turns, sp.csr_array(turn + sp.diags_array(diagonal))])

    def diagonal_of(self, d: NDArray[Any]) -> NDArray[Any]:
        """Diagonal of ``Q diag(d) Q^T``, for a basis that has not been turned."""
        if self._turns:
            raise ValueError("the diagonal is known for a basis of cosines only")
        # sum_k c_k cos^2(a k) = sum_k c_k (1 + cos(2 a k)) / 2 with a = pi (2 i + 1) / 2 n
        n = d.size
        half = np.empty(n)
        half[self._order] = d / n
        half[0] /= 2
        phase = np.exp(-1j * np.pi * np.arange(n) / n)
        return np.asarray(half.sum() + scipy.fft.fft(half * phase).real)


@dataclass
class System:
    """One system ``(A + shift I) x = b`` that counts its products with A, whoever asks for them.

    Attributes
    ----------
    basis, eigenvalues
        ``A = Q diag(d) Q^T``.
    weights : ndarray of shape (n,)
        ``b = Q weights``.
    shift : float
        See above.
    products : int
        Made so far.
    """

    basis: Basis
    eigenvalues: NDArray[np.float64]
    weights: NDArray[np.float64]
    shift: float
    products: int = 0

    def __post_init__(self) -> None:
        self.n = self.weights.size
        self.b = self.basis.forward(self.weights)
        self.A = LinearOperator((self.n, self.n), matvec=self._product, dtype=np.float64)

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        self.products += 1
        return self.basis.forward(self.eigenvalues * self.basis.back(np.reshape(x, -1)))

    def shifted(self, x: NDArray[Any]) -> NDArray[Any]:
        """``(A + shift I) x``."""
        return self._product(x) + self.shift * x

    @property
    def minimum(self) -> float:
        """The least value of ``x.(A + shift I) x / 2 - b.x``."""
        return -0.5 * float(np.sum(self.weights**2 / (self.eigenvalues + self.shift)))

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """Of A."""
        return self.basis.diagonal_of(self.eigenvalues)


def make_sequence(
    n: int = 20_000,
    *,
    count: int = 10,
    angle: float = 0.0,
    falling: float = 1.0,
    random_b: bool = False,
    seed: int = 0,
) -> list[System]:
    """Make a sequence of systems.

    Parameters
    ----------
    n, count : int
        Unknowns of a system, and systems.
    angle : float
        Eigenvectors turn by so much (in radians) between two systems.
    falling : float
        The shift of a system is so many times that of the one before.
    random_b : bool
        Right-hand sides with equal weight on every eigenvector, unrelated to each other: the hard ones.
    seed : int
        Of everything.
    """
    rng = np.random.default_rng(seed)
    outliers = min(OUTLIERS, n // 4)
    spectrum = np.concatenate(
        [
            _TOP * np.arange(1.0, outliers + 1) ** -_DECAY,
            _BULK * SHIFT * rng.random(n - outliers),
        ]
    )
    basis = Basis(rng.permutation(n))
    shared = rng.standard_normal(n)
    systems = []
    for k in range(count):
        if k and angle:
            basis = basis.turned(angle, rng)
        d = spectrum * np.maximum(1 + _PERTURBATION * rng.standard_normal(n), 0.5)
        own = rng.standard_normal(n)
        weights = own if random_b else np.sqrt(d) * (0.7 * shared + 0.7 * own)
        systems.append(System(basis, d, weights, SHIFT * falling**k))
    return systems
