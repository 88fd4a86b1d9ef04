"""Products with the Hessian, from whatever the caller has: hessp, hess, or differences of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from krylov.minimize.symmetry import SymmetryCheck, check_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krylov.minimize.objective import Iterate, Objective

    Vector = NDArray[np.float64]

__all__ = ["Hessian"]

_EPS = float(np.finfo(np.float64).eps)
_DIFFERENCES = ("2-point", "3-point")


class Hessian:
    """Source of products, counted.

    Attributes
    ----------
    nhev : int
        Calls of `hessp`, or of `hess`; 0 where products are differences of the gradient, which count as such.
    nprod : int
        Products, wherever they come from.
    exact : bool
        Whether they are more than differences.
    """

    def __init__(
        self,
        objective: Objective,
        hess: Any,
        hessp: Callable[..., Any] | None,
        args: tuple[Any, ...],
        *,
        check_symmetry: bool,
    ) -> None:
        if hessp is not None and not callable(hessp):
            raise TypeError(f"hessp must be callable, not {type(hessp).__name__}")
        if isinstance(hess, str) and hess not in _DIFFERENCES:
            raise ValueError(
                f"hess must be a function, a matrix, '2-point' or '3-point', got {hess!r}"
            )
        constant = isinstance(hess, np.ndarray | LinearOperator) or sp.issparse(hess)
        if not (hess is None or isinstance(hess, str) or constant or callable(hess)):
            raise TypeError(
                f"hess must be a function, a matrix, '2-point' or '3-point', not {type(hess).__name__}; "
                "quasi-Newton updates are for 'trust-constr'"
            )
        self._objective, self._args, self._hessp = objective, args, hessp
        self._hess = None if isinstance(hess, str) else hess
        self._constant = constant
        self._central = hess == "3-point" if isinstance(hess, str) else False
        self._symmetry = SymmetryCheck() if check_symmetry else None
        self._matrix: Any = None
        self._at: Iterate | None = None
        self.nhev = self.nprod = 0
        self.exact = self._hess is not None or hessp is not None

    def operator(self, at: Iterate) -> LinearOperator:
        """The Hessian at an iterate."""
        product = self._product(at)
        checked = self._symmetry if self.exact else None
        if checked is not None:
            checked.begin()

        def multiply(p: Vector) -> Vector:
            self.nprod += 1
            answer = product(p)
            if checked is not None:
                checked.see(p, answer)
            return answer

        n = at.x.size
        return LinearOperator((n, n), matvec=multiply, dtype=np.float64)

    def _product(self, at: Iterate) -> Callable[[Vector], Vector]:
        if self._hess is not None:  # as SciPy's trust-region methods, hess goes before hessp
            matrix = self._evaluated(at)
            return lambda p: self._shaped(matrix @ p, at)
        if self._hessp is not None:
            hessp = self._hessp

            def product(p: Vector) -> Vector:
                self.nhev += 1
                return self._shaped(hessp(at.x.copy(), p.copy(), *self._args), at)

            return product
        return lambda p: self._difference(at, p)

    def _evaluated(self, at: Iterate) -> Any:
        """The matrix at an iterate, evaluated once there."""
        if self._at is at or (self._constant and self._matrix is not None):
            return self._matrix
        n = at.x.size
        matrix: Any = self._hess
        if callable(matrix) and not self._constant:  # a LinearOperator is callable, too
            self.nhev += 1
            matrix = matrix(at.x.copy(), *self._args)
        if isinstance(matrix, LinearOperator):
            pass
        elif sp.issparse(matrix):
            matrix = sp.csr_array(matrix)
        else:
            matrix = np.asarray(matrix, dtype=np.float64)
            matrix = matrix.reshape(n, n) if matrix.size == n * n else matrix
        if matrix.shape != (n, n):
            raise ValueError(f"hess must be {n} by {n}, as x0 has {n} numbers, not {matrix.shape}")
        if self._symmetry is not None and not isinstance(matrix, LinearOperator):
            check_matrix(matrix)
            self._symmetry.done = True
        self._at, self._matrix = at, matrix
        return matrix

    def _shaped(self, answer: Any, at: Iterate) -> Vector:
        product = np.asarray(answer, dtype=np.float64).reshape(-1)
        if product.shape != at.x.shape:
            raise ValueError(
                f"a product with the Hessian must have {at.x.size} numbers, but its shape is {np.shape(answer)}"
            )
        return product

    def _difference(self, at: Iterate, p: Vector) -> Vector:
        """(g(x + h p) - g(x)) / h, at another h where that is not finite.

        The perturbation h p has the norm sqrt(eps) max(1, |x|), or the cube root of eps for the central difference:
        rounding and truncation then weigh the same (Nocedal and Wright 2006, section 8.1).
        """
        norm = float(np.linalg.norm(p))
        if norm == 0.0:
            return np.zeros_like(p)
        reach = max(1.0, float(np.linalg.norm(at.x)))
        h = (_EPS ** (1 / 3) if self._central else _EPS**0.5) * reach / norm
        product = p
        # At the edge of the domain: from the other side, or nearer.
        for step in (h, -h, h / 16, -h / 16):
            ahead = self._objective.gradient(at.x + step * p)
            if self._central:
                behind = self._objective.gradient(at.x - step * p)
                product = (ahead - behind) / (2 * step)
            else:
                product = (ahead - at.gradient) / step
            if np.isfinite(product).all():
                break
        return product
