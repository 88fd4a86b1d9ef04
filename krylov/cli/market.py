"""Matrix Market files, plain or gzipped, read with errors that a person can act on."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import scipy.io

from krylov.cli.errors import InputError

_BANNER = b"%%MatrixMarket"
_GZIP_MAGIC = b"\x1f\x8b"


class MarketFile(NamedTuple):
    """What a Matrix Market file holds: the words of its first line and its data."""

    layout: str  #: coordinate or array
    field: str  #: real, integer, pattern or complex
    symmetry: str  #: as declared: general, symmetric, hermitian, skew-symmetric
    data: Any  #: coo_matrix, or ndarray for the array layout


def check_readable(path: Path) -> None:
    """Refuse what cannot be opened, before anything else is said about it."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None


def first_bytes(path: Path, count: int = 64) -> bytes:
    """Return the beginning of the file, unzipped; nothing if it cannot be unzipped."""
    try:
        with _opened(path) as stream:
            return stream.read(count)
    except (OSError, EOFError, zlib.error):
        return b""


def is_matrix_market(path: Path) -> bool:
    """Whether the file begins as every Matrix Market file does."""
    return first_bytes(path).lower().startswith(_BANNER.lower())


def read_matrix_market(path: Path) -> MarketFile:
    """Read a Matrix Market file.

    Parameters
    ----------
    path : Path
        A ``.mtx`` file; gzip is recognised by content, whatever the name says.

    Raises
    ------
    InputError
        In one line, for everything that can be wrong with such a file.
    """
    check_readable(path)
    try:
        with _opened(path) as stream:
            words = stream.readline(256).decode("latin-1").lower().split()
            if not words or words[0] != _BANNER.decode().lower():
                raise InputError(
                    f"{path}: not a Matrix Market file (its first line must begin with "
                    f"{_BANNER.decode()})"
                )
            if len(words) < 5 or words[1] != "matrix":
                raise InputError(
                    f"{path}: its first line must read '{_BANNER.decode()} matrix "
                    "coordinate|array real|integer|pattern|complex "
                    "general|symmetric|hermitian|skew-symmetric'"
                )
        data = scipy.io.mmread(_source(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken gzip file ({error})") from None
    except MemoryError:
        raise InputError(f"{path}: its size line asks for more memory than there is") from None
    except (ValueError, OverflowError, TypeError, NotImplementedError) as error:
        kind = "truncated" if "runcated" in str(error) or "EOF" in str(error) else "malformed"
        raise InputError(f"{path}: {kind} Matrix Market file ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return MarketFile(words[2], words[3], words[4], data)


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as raw:
        return raw.read(2) == _GZIP_MAGIC or path.suffix == ".gz"


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if _is_zipped(path) else path.open("rb")


def _source(path: Path) -> str | io.BytesIO:
    # Never a file object that somebody may close or that may fail: after a parse error SciPy's
    # reader touches its stream once more while it is being destroyed, and an exception from there
    # (a closed file, broken gzip data) aborts the whole process.
    if not _is_zipped(path):
        return str(path)
    with gzip.open(path, "rb") as stream:
        return io.BytesIO(stream.read())
