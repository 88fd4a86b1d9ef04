"""The systems that a folder of Matrix Market files stands for, and their preconditioners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import krylov

# Relative change of the diagonal that makes a graph Laplacian regular.
GRAPH_SHIFT = 1e-3
# SciPy's spilu takes minutes on large meshes, and an iteration with it costs many without: fewer are allowed.
ILU, ILU_SIZE, ILU_MAXITER = {"drop_tol": 1e-4, "fill_factor": 10.0}, 20_000, 500


@dataclass(frozen=True)
class System:
    """A x = b with what is known of A."""

    name: str
    kind: str
    matrix: Any
    b: np.ndarray
    operator: Any = None  #: what the solvers get, where it is not the matrix
    notes: str = ""

    @property
    def A(self) -> Any:
        return self.matrix if self.operator is None else self.operator


def files(folder: Path) -> list[Path]:
    inner = folder / "matrices"
    found = [
        p
        for p in (inner if inner.is_dir() else folder).iterdir()
        if p.name.endswith((".mtx", ".mtx.gz"))
    ]
    return sorted(found, key=lambda p: p.name.lower())


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".mtx")


def systems(folder: Path, only: list[str]) -> Iterator[System]:
    paths = {stem(path): path for path in files(folder)}
    for name, path in paths.items():
        is_rhs = name.endswith("_b") and name.removesuffix("_b") in paths
        if is_rhs or (only and name not in only):
            continue
        matrix = sp.csr_array(scipy.io.mmread(path))
        matrix.eliminate_zeros()
        if matrix.dtype.kind not in "fc":
            matrix = matrix.astype(np.float64)
        given = paths.get(f"{name}_b")
        yield from classify(
            name, matrix, None if given is None else np.ravel(scipy.io.mmread(given))
        )


def classify(name: str, A: Any, b: np.ndarray | None) -> Iterator[System]:
    """The systems that a matrix stands for, each with a kind that chooses the methods."""
    if A.shape[0] != A.shape[1]:
        yield from least_squares(name, A)
        return
    diagonal = A.diagonal()
    hermitian = abs(A - A.conj().T).max() <= 1e-14 * abs(A).max()
    if hermitian and not diagonal.any():  # the adjacency of a graph
        # Ones are (nearly) an eigenvector of it, so its solution is random.
        degree = np.asarray(A.sum(axis=1)).ravel()
        A = sp.csr_array(sp.diags_array(degree * (1 + GRAPH_SHIFT)) - A)
        x = np.random.default_rng(0).standard_normal(len(degree))
        notes = f"D - W + {GRAPH_SHIFT:g} D"
        yield System(name, "positive definite", A, rhs(A, A @ x if b is None else b), notes=notes)
    elif hermitian and (diagonal.real < 0).all():
        A = -A
        yield System(name, "positive definite", A, rhs(A, b), notes="-A")
    elif hermitian and (diagonal.real > 0).all():
        # Necessary for positive definiteness, not sufficient: the outcome tells.
        yield System(name, "positive definite", A, rhs(A, b))
        if name == "bodyy5":
            shifted = sp.csr_array(A - 50 * sp.eye_array(A.shape[0]))
            yield System(name, "indefinite", shifted, rhs(shifted, None), notes="A - 50 I")
    elif hermitian:
        yield System(name, "indefinite", A, rhs(A, b))
    else:
        yield System(name, "nonsymmetric", A, rhs(A, b))


def rhs(A: Any, given: np.ndarray | None) -> np.ndarray:
    """The right-hand side that ships with the matrix, or that of a solution of ones."""
    return A @ np.ones(A.shape[1], A.dtype) if given is None else given.astype(A.dtype)


def least_squares(name: str, A: Any) -> Iterator[System]:
    """min |A x - y| as normal equations, matrix-free, and as the augmented indefinite system."""
    m, n = A.shape
    y = A @ np.ones(n) + np.random.default_rng(0).standard_normal(m)
    transposed = sp.csr_array(A.T)
    normal = spla.LinearOperator((n, n), matvec=lambda v: transposed @ (A @ v), dtype=A.dtype)
    yield System(
        name,
        "positive definite",
        sp.csr_array(transposed @ A),
        transposed @ y,
        normal,
        "normal equations, as a LinearOperator",
    )
    augmented = sp.csr_array(sp.block_array([[sp.eye_array(m), A], [transposed, None]]))
    yield System(name, "indefinite", augmented, np.r_[y, np.zeros(n)], notes="augmented system")


def label(system: System) -> str:
    return f"{system.name} ({system.notes})" if system.notes else system.name


def preconditioners(system: System) -> Iterator[tuple[str, Any, str]]:
    """(name, M, why there is none)."""
    yield "none", None, ""
    diagonal = system.matrix.diagonal()
    if not diagonal.all():
        yield "jacobi", None, f"{int(np.sum(diagonal == 0))} zeros on the diagonal"
    else:
        yield "jacobi", krylov.JacobiPreconditioner(diagonal), ""
    if system.operator is not None or len(system.b) > ILU_SIZE:
        return
    try:
        ilu = spla.spilu(sp.csc_array(system.matrix), **ILU)
    except RuntimeError as error:  # exactly singular
        yield "ilu", None, str(error).lower()
    else:
        yield (
            "ilu",
            spla.LinearOperator(system.matrix.shape, matvec=ilu.solve, dtype=system.matrix.dtype),
            "",
        )
