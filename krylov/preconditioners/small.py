"""The small dense matrices between two sweeps over the columns.

Every low-rank preconditioner is ``M = gamma I + B K B^H``; here its K comes from inner products of the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["compact_lbfgs", "inverse_root", "merged_model", "orthonormal", "spectral"]

# Directions whose part outside the others is below this share of their norm, squared, are dropped. Columns in bfloat16
# carry no more; for float64 anything from 1e-14 to 1e-4 does as well.
_RANK = 1e-5


def compact_lbfgs(
    ss: NDArray[Any], sy: NDArray[Any], yy: NDArray[Any], moved: NDArray[Any], gamma: float
) -> NDArray[Any]:
    """K of the L-BFGS operator for the columns [S, Y].

    Parameters
    ----------
    ss, sy, yy : ndarray of shape (m, m)
        ``S^H S``, ``S^H Y``, ``Y^H Y``, oldest pair first.
    moved : ndarray of shape (m,)
        The products are ``Y + S T`` with ``T = diag(moved)``: a shift of the operator since Y was formed.
    gamma : float
        ``H0 = gamma I``.

    Returns
    -------
    ndarray of shape (2 m, 2 m)

    References
    ----------
    Byrd, Nocedal and Schnabel (1994), theorem 2.2.
    """
    m = len(moved)
    if m == 0:  # which older wrappers of LAPACK refuse
        return np.empty((0, 0))
    sy_now = sy + ss * moved
    yy_now = yy + moved[:, None] * sy + sy.conj().T * moved + moved[:, None] * ss * moved
    # R^-1 of the upper triangle of S^H Y; rounded columns leave imaginary parts on its diagonal, the curvatures
    curvature = np.diag(np.diag(sy_now).real)
    r = np.triu(sy_now, 1) + curvature
    inverse = scipy.linalg.solve_triangular(r, np.eye(m, dtype=sy.dtype))
    middle = curvature + gamma * yy_now
    k = np.zeros((2 * m, 2 * m), np.result_type(ss, sy, yy))
    k[:m, :m] = inverse.conj().T @ middle @ inverse
    k[m:, :m] = -gamma * inverse
    k[:m, m:] = k[m:, :m].conj().T
    # [S, Y + S T] = [S, Y] [[I, T], [0, I]]
    k[:m] += moved[:, None] * k[m:]
    k[:, :m] += k[:, m:] * moved
    return (k + k.conj().T) / 2


def orthonormal(gram: NDArray[Any]) -> NDArray[Any]:
    """Coefficients F of an orthonormal basis ``C F`` of the span of C, from ``C^H C``; nearly dependent parts go."""
    scale = 1 / np.sqrt(np.diag(gram).real)
    values, vectors = scipy.linalg.eigh(gram * scale * scale[:, None])
    kept = values > _RANK * values[-1]
    return np.asarray(scale[:, None] * vectors[:, kept] / np.sqrt(values[kept]))


def inverse_root(gram: NDArray[Any]) -> NDArray[Any]:
    """``G^-1/2`` of a nearly orthonormal basis."""
    values, vectors = scipy.linalg.eigh(gram)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.conj().T)


def spectral(theta: NDArray[Any], root: NDArray[Any], shift: float, gamma: float) -> NDArray[Any]:
    """K that gives ``A + shift I`` the inverse ``1 / (theta + shift)`` on the orthonormal vectors ``V root``."""
    shifted = theta + shift
    known = shifted > 0  # where nothing is left to divide by, M stays gamma
    weights = np.where(known, 1 / np.where(known, shifted, 1) - gamma, 0)
    k = (root * weights) @ root.conj().T
    return np.asarray((k + k.conj().T) / 2)


def merged_model(
    f: NDArray[Any],
    gram: NDArray[Any],
    cross: NDArray[Any],
    theta: NDArray[Any],
    root: NDArray[Any],
    shift: float,
    outside: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Eigenvalues and vectors of a model of A that knows some old vectors and now the products of new directions.

    The model of ``A + shift I``, B, has ``theta + shift`` on the old vectors and `outside` elsewhere. It is changed by
    one block BFGS update, ``B - B P (P^H B P)^-1 P^H B + Y (P^H Y)^-1 Y^H``, so that it is right on the new directions
    P. The old products may be those of another operator: unlike in Rayleigh-Ritz on a matrix patched from both, B stays
    positive definite, and what P says of the old vectors replaces what was believed of them.

    Parameters
    ----------
    f : ndarray of shape (k + j, r)
        Coefficients of an orthonormal basis of the columns [V, P], from `orthonormal`.
    gram : ndarray of shape (k + j, k + j)
        Inner products of [V, P].
    cross : ndarray of shape (k + j, j)
        ``[V, P]^H A P``.
    theta, root
        Eigenvalues on the old vectors ``V root``; none of them where k = 0.
    shift, outside : float
        See above; both positive where k > 0.

    Returns
    -------
    values : ndarray of shape (r,)
        Of A, descending.
    vectors : ndarray of shape (k + j, r)
        Coefficients.
    """
    k = len(theta)
    # The products among P, each measured twice: those of the later direction count (conjugacy is not assumed).
    among = np.triu(cross[k:])
    among = among + np.triu(among, 1).conj().T
    cross = np.vstack([cross[:k], among])
    fh = f.conj().T
    if k == 0:
        model = fh @ cross @ f
        shift = 0.0
    else:
        v, p = fh @ gram[:, :k] @ root, fh @ gram[:, k:]
        y = fh @ cross + shift * p
        model = outside * np.eye(f.shape[1]) + (v * (theta + shift - outside)) @ v.conj().T
        bp = model @ p
        py = p.conj().T @ y
        model = (
            model
            - bp @ _pseudo_inverse(p.conj().T @ bp) @ bp.conj().T
            + y @ _pseudo_inverse(py) @ y.conj().T
        )
    values, vectors = scipy.linalg.eigh((model + model.conj().T) / 2)
    return values[::-1] - shift, np.asarray(f @ vectors[:, ::-1])


def _pseudo_inverse(a: NDArray[Any]) -> NDArray[Any]:
    """Of a positive definite matrix, as far as it is one."""
    a = (a + a.conj().T) / 2
    diagonal = np.diag(a).real
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    values, vectors = scipy.linalg.eigh(a * scale * scale[:, None])
    kept = values > _RANK * values[-1]
    half = scale[:, None] * vectors[:, kept] / np.sqrt(values[kept])
    return np.asarray(half @ half.conj().T)
