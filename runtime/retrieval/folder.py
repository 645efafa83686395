"""The folder that the indexes of a server are kept in."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from .errors import UnwritableError

__all__ = ["INDEXES", "expect_writable"]

INDEXES: Final = "indexes"
"""The folder of the indexes within the data folder."""


def expect_writable(folder: Path) -> None:
    """Make sure that the folder is there and takes files. Raises UnwritableError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise UnwritableError(
            f"data: indexes cannot be kept in {str(folder)!r}: {problem.strerror}; set `data` (in weft.toml, "
            "as WEFT_DATA or --data) to a folder that can be written"
        ) from problem
