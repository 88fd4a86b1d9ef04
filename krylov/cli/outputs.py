"""Paths that will be written: tried before the work, not after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from krylov.cli.errors import InputError


def check_output(path: Path, *, suffixes: Sequence[str], inputs: Sequence[Path] = ()) -> None:
    """Refuse a path that cannot be written, or that is one of the inputs.

    The file is opened for real, since only the file system knows (permissions of the superuser,
    read-only mounts); what this creates it removes again.
    """
    if path.suffix not in suffixes:
        raise InputError(f"{path}: must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    existed = path.exists()
    if existed and any(path.samefile(other) for other in inputs):
        raise InputError(f"{path}: would overwrite an input file")
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    if not existed:
        path.unlink()
