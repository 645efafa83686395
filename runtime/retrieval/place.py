"""Where the indexes of a server lie: in its data folder, or in a database."""

from __future__ import annotations

from pathlib import Path

from .errors import IndexServerError
from .folder import INDEXES
from .lance import LanceTables
from .tables import Tables

__all__ = ["expect_place", "index_tables"]


def index_tables(url: str, data: Path) -> Tables:
    """The database with that URL, or with none the data folder. Raises IndexServerError."""
    if not url:
        return LanceTables(data / INDEXES)
    try:
        from .postgres import PostgresTables  # brings psycopg, which nothing else here needs
    except ImportError as problem:
        raise IndexServerError(
            f"indexes: a PostgreSQL database needs psycopg ({problem}); pip install 'weft[postgres]'"
        ) from problem
    return PostgresTables(url)


def expect_place(url: str, data: Path) -> None:
    """Make sure that indexes can be kept there. Raises UnwritableError and IndexServerError."""
    tables = index_tables(url, data)
    try:
        tables.prepare()
    finally:
        tables.close()
