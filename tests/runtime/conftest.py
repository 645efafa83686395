"""Places for indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..places import Place
from ..postgres import Postgres


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
