"""Files of data, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

__all__ = ["read_bytes"]


def read_bytes(path: Path) -> bytes:
    """Read a whole file, unpacked where its name ends in .gz.

    Raises
    ------
    ValueError
        It is missing, truncated or damaged; the message says which.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except EOFError:
        raise ValueError(f"{path}: truncated; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise ValueError(f"{path}: not a gzip file, or a damaged one; fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
