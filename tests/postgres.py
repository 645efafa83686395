"""A PostgreSQL of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from pwd import getpwnam
from typing import Final

import psycopg
import pytest

__all__ = ["Postgres", "running_postgres"]

_STARTS_WITHIN_S: Final = 60.0
_ENDS_WITHIN_S: Final = 30.0
_PLACES: Final = os.pathsep.join(
    [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
)
_ACCESS: Final = "local all guarded scram-sha-256\nlocal all all trust\n"
_SETTINGS: Final = {"fsync": "off", "listen_addresses": "", "max_connections": "50", "shared_buffers": "16MB"}


class Postgres:
    """A server that listens at a Unix socket in its folder. Its user `weft` may do all without a password.

    Its user `guarded`, who may do all, too, has the password `hidden`.
    """

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self._command = command
        self._names = (f"database_{number}" for number in count())
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, user: str = "weft", password: str = "") -> str:
        """A database as settings name it."""
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@/{database}?host={self.folder}"

    def database(self) -> str:
        """The name of a new, empty database."""
        name = next(self._names)
        self.execute(f'CREATE DATABASE "{name}"')
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Have a statement executed in a transaction of its own; what it gives."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "-D", self.folder / "data", "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                ended = self._process.poll() is not None or time.monotonic() > until
                assert not ended, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.02)

    def crash(self) -> None:
        """End the server and all its connections at once, as when its machine fails."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_ENDS_WITHIN_S)
            self._process = None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server until the end; the test is skipped where there is no PostgreSQL."""
    initdb, binary = (shutil.which(name, path=_PLACES) for name in ("initdb", "postgres"))
    if initdb is None or binary is None:
        pytest.skip("there is no PostgreSQL here: neither on the PATH nor in /usr/lib/postgresql")
    as_user = _as_nobody() if os.geteuid() == 0 else []  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="weft-pg-", dir="/tmp"))  # short, as a socket's path must be
    try:
        if as_user:
            shutil.chown(folder, "nobody")
        command = f"{initdb} -D {folder}/data -U weft -A trust -N -E UTF8 --locale=C".split()
        subprocess.run([*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")
        (folder / "data" / "pg_hba.conf").write_text(_ACCESS)
        postgres = Postgres(folder, [*as_user, binary])
        try:
            postgres.start()
            postgres.execute("CREATE ROLE guarded SUPERUSER LOGIN PASSWORD 'hidden'")
            yield postgres
        finally:
            with suppress(ProcessLookupError):
                postgres.crash()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody() -> list[str]:
    """What begins a command of another user.

    subprocess can do that, too, but it forks then; and a fork of a process with servers of gRPC may crash.
    """
    script = "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-I", "-c", script, str(getpwnam("nobody").pw_uid)]
