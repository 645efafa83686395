"""Connections with a PostgreSQL database that the settings name by its URL."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

__all__ = [
    "IDLE_S",
    "PROBES",
    "PROBE_S",
    "Connection",
    "Connections",
    "line",
    "make_schema",
    "parameters_of",
    "shown",
]

Connection = psycopg.Connection[tuple[Any, ...]]

IDLE_S: Final = 10
"""Seconds without a word after which one side looks whether the other is still there;"""
PROBE_S: Final = 5
"""those between two such looks;"""
PROBES: Final = 3
"""and how many of them: in half a minute it is noticed that the other has gone."""

_PARAMETERS: Final = {  # unless the URL says otherwise
    "connect_timeout": 10,
    "keepalives_idle": IDLE_S,
    "keepalives_interval": PROBE_S,
    "keepalives_count": PROBES,
    "tcp_user_timeout": 1000 * (IDLE_S + PROBE_S * PROBES),
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}


def parameters_of(url: str, application: str) -> dict[str, Any]:
    """How to connect with the database. `ValueError` with the remedy if the URL cannot be read."""
    try:
        return {"application_name": application, **_PARAMETERS, **conninfo_to_dict(url)}
    except psycopg.Error:  # whose message may show what is to be kept secret
        raise ValueError("write it as postgresql://USER@HOST/DATABASE, special characters as %40") from None


def shown(parameters: dict[str, Any]) -> str:
    """The URL without what is nobody's business."""
    user, host, port, database = (parameters.get(key) for key in ("user", "host", "port", "dbname"))
    place = f"{quote(host or '', safe=',')}{f':{port}' if port else ''}"
    return f"postgresql://{f'{user}@' if user else ''}{place}/{database or ''}"


def line(problem: psycopg.Error) -> str:
    """What went wrong, in one line."""
    said = problem.diag.message_primary or str(problem)
    return " ".join(said.split()) or type(problem).__name__


class Connections:
    """Connections with one database, each lent to one thread at a time. Safe for many threads."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._idle: deque[Connection] = deque()
        self._closed = False

    @contextmanager
    def transaction(self, isolation: psycopg.IsolationLevel) -> Iterator[Connection]:
        """A connection in a transaction that ends well or as if it had never been. Raises psycopg.Error."""
        connection = self._rested() or psycopg.connect(**self._parameters, autocommit=True)
        try:
            connection.isolation_level = isolation
            with connection.transaction():
                yield connection
        finally:
            if connection.info.transaction_status is not TransactionStatus.IDLE or self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def close(self) -> None:
        """Close them, those that are lent once they come back."""
        self._closed = True
        while (connection := self._rested()) is not None:
            connection.close()

    def _rested(self) -> Connection | None:
        """A connection from before. A server that says something unasked is about to close it, or has."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            said = select.poll()
            said.register(connection.fileno(), select.POLLIN)
            if not said.poll(0):
                return connection
            connection.close()


def make_schema(connection: Connection, name: str) -> None:
    """Make the schema if it is not there: where it is, the user may have no right to."""
    ((there,),) = connection.execute(f"SELECT to_regnamespace('{name}') IS NOT NULL").fetchall()
    if not there:
        connection.execute(f"CREATE SCHEMA {name}")
