"""What this build is and what it uses here."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import scipy

from krylov import _core

__all__ = ["build_config"]

if (_wanted := os.environ.get("KRYLOV_ISA")) and _wanted not in (*_core.tables(), "auto"):
    raise ImportError(f"KRYLOV_ISA={_wanted}: usable here are auto, {', '.join(_core.tables())}")


def build_config() -> dict[str, Any]:
    """Describe the native core: instruction sets, threads, compiler, CUDA, versions.

    Returns
    -------
    dict
        ``version``; ``isa`` in use and ``isas`` usable here; ``openmp`` (bool) and ``threads`` that a parallel kernel
        would use now; ``compiler``; ``cuda`` (False: built without); versions of ``python``, ``numpy``, ``scipy``.
    """
    return {
        "version": _core.__version__,
        "isa": _core.current_table(),
        "isas": [name for name in _core.tables() if name != "reference"],
        "openmp": _core.thread_backend() == "OpenMP",
        "threads": _core.threads(),
        "compiler": _core.compiler,
        "cuda": False,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
