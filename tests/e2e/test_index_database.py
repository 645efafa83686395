"""Two retrieval workers of one server, and their indexes in a PostgreSQL that both share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from weft import Run, ingest, program, search

from ..postgres import Postgres
from .conftest import WEFT, Server, eventually, serving

RUNS = 24
OPTIONS = ("--kind", "embed", "--kind", "index")


@program
async def put_and_find(name: str, text: str) -> str:
    """Put a text into an index and, when it is there, look for it: on the worker whose turn it is then."""
    await ingest("shared", [{"id": name, "text": text}])
    found = await search("shared", text, k=1, mode="lexical")
    return found[0].text


@program
def find(text: str) -> str:
    """What a search finds."""
    return search("shared", text, k=1, mode="lexical")[0].text


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose user has a password; retrieval workers are asked in turn."""
    monkeypatch.setenv("WEFT_MODELS", "[]")
    monkeypatch.setenv("WEFT_SCHEDULER__PLACEMENT", "round_robin")
    found = postgres.url(postgres.database(), "guarded", "hidden")
    monkeypatch.setenv("WEFT_INDEXES", found)
    return found


@contextmanager
def second_worker(server: Server, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that joins as from another machine: with a data folder of its own."""
    command = [*WEFT, "worker", *OPTIONS, "--connect", server.address]
    environment = {**os.environ, "WEFT_DATA": str(folder / "elsewhere")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: len(server.client.describe().workers) == 2, 60)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def workers_of(run: Run[str]) -> tuple[str, str]:
    """The worker that stored what a run has put into the index, and the one that found it."""
    workers = {task.label.split()[1]: task.worker for task in run.explain().tasks.values()}
    return workers["upsert"], workers["search"]


def indexes(server: Server) -> list[tuple[str, int]]:
    """The indexes that the server lists, with their passages."""
    listed = json.loads(server.weft("models", "--json").stdout)["indexes"]
    return [(index["name"], index["passages"]) for index in listed]


def test_each_worker_sees_what_the_other_stores(url: str, tmp_path: Path) -> None:
    texts = {f"{number}.md": f"word{number} and {number} other words" for number in range(RUNS)}
    with serving(tmp_path) as server, second_worker(server, tmp_path) as process:
        finding = put_and_find.using(server.client)

        def submitted(item: tuple[str, str]) -> Run[str]:
            run = finding.submit(*item)
            assert run.result() == item[1]
            return run

        with ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(submitted, texts.items()))
        paths = {workers_of(run) for run in runs}
        assert len(paths) == 4, "each has found what it has stored itself, and what the other has"
        eventually(lambda: indexes(server) == [("shared", RUNS)])
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            if b"weft" in (shown := _read(file)):
                assert b"hidden" not in shown
        process.kill()
        eventually(lambda: len(server.client.describe().workers) == 1)
        assert find.using(server.client)("word7") == texts["7.md"]
    assert not (tmp_path / "data" / "indexes").exists()
    assert not (tmp_path / "elsewhere").exists()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


def test_a_folder_is_indexed_and_unchanged_files_cost_nothing_whichever_worker_looks(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(40):
        (notes / f"{number}.md").write_text(f"Note {number} of word{number}.")
    with serving(tmp_path) as server, second_worker(server, tmp_path):
        first, second, third = (server.weft("index", "shared", str(notes), "--json") for _ in range(3))
        added = [json.loads(result.stdout)["passages_added"] for result in (first, second, third)]
        assert added == [40, 0, 0]
    monkeypatch.delenv("WEFT_INDEXES")
    with serving(tmp_path / "afterwards", "--indexes", url) as server:
        assert find.using(server.client)("word33") == "Note 33 of word33."


def test_a_database_that_ends_fails_runs_until_it_is_back(
    url: str, postgres: Postgres, tmp_path: Path
) -> None:
    with serving(tmp_path) as server:
        run = put_and_find.using(server.client)
        assert run("a.md", "salt") == "salt"
        postgres.crash()
        try:
            failed = server.weft("index", "shared", str(tmp_path))
        finally:
            postgres.start()
        assert failed.returncode != 0
        assert run("b.md", "coal") == "coal"


@pytest.mark.parametrize("command", [("serve", "--listen", "127.0.0.1:0"), ("worker", *OPTIONS)])
def test_a_database_that_lets_nobody_in_is_refused_at_the_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WEFT_INDEXES", url.replace("hidden", "wrong-one"))
    arguments = [*command, *(("--connect", "127.0.0.1:1") if command[0] == "worker" else ())]
    result = subprocess.run(
        [*WEFT, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    said = " ".join(result.stderr.split())
    assert result.returncode == 2
    assert said.startswith("error: indexes: postgresql://guarded@")
    assert 'password authentication failed for user "guarded"' in said
    assert "wrong-one" not in said
