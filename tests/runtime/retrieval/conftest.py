"""The places where indexes may lie: what holds in one of them must hold in the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.place import index_tables

from ...postgres import Postgres


@dataclass
class Place:
    """A place for the indexes of a test: a database, or a folder if there is no URL."""

    url: str
    data: Path
    opened: list[IndexStore] = field(default_factory=list)

    def store(self, url: str = "") -> IndexStore:
        """A store of its own, as another process would open it; `url`: by another user."""
        self.opened.append(IndexStore(index_tables(url or self.url, self.data)))
        return self.opened[-1]

    def process(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python program that finds the URL, the folder and the arguments in `sys.argv`."""
        command = [sys.executable, "-P", "-c", program, self.url, str(self.data), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=["folder", "database"])
def place(request: pytest.FixtureRequest) -> Place:
    """Both kinds of places, in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    """An empty folder."""
    return Place("", tmp_path)


@pytest.fixture(scope="session")
def database_name(postgres: Postgres) -> str:
    """One for all tests: a database is thousands of files."""
    return postgres.database()


@pytest.fixture
def database(postgres: Postgres, database_name: str, tmp_path: Path) -> Iterator[Place]:
    """A database without indexes."""
    place = Place(postgres.url(database_name), tmp_path)
    yield place
    for store in place.opened:
        store.close()
    postgres.execute("DROP SCHEMA IF EXISTS weft_indexes CASCADE", database_name)
