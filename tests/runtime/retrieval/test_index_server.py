"""Indexes in a PostgreSQL: what only a server can suffer, on a real one."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval import postgres as under_test
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Chunk, Document
from weft.runtime.retrieval.errors import (
    CorruptIndexError,
    IndexBusyError,
    IndexServerError,
    UnknownIndexError,
    UnwritableError,
)
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore, IngestReport
from weft.runtime.retrieval.place import index_tables

from ...places import Place
from ...postgres import Postgres

EMBEDDER = HashEmbedder()


def chunks_of(document: str, text: str) -> list[Chunk]:
    return chunk(Document(document, text), Chunking())


def put(store: IndexStore, document: str, text: str, name: str = "demo") -> IngestReport:
    chunks = chunks_of(document, text)
    return store.upsert(name, chunks, EMBEDDER.embed([each.text for each in chunks]), EMBEDDER.name)


def find(store: IndexStore, query: str) -> list[str]:
    return [each.id for each in store.search("demo", [query], None, [9], "lexical")[0]]


@pytest.fixture
def store(database: Place) -> IndexStore:
    made = database.store()
    put(made, "a.md", "Bilel sells salt.\n\nPuven makes glass.")
    return made


@pytest.fixture
def execute(postgres: Postgres, database_name: str) -> Callable[[str], list[tuple[object, ...]]]:
    """Have a statement executed in the database."""
    return lambda statement: postgres.execute(statement, database_name)


@pytest.fixture
def reader(postgres: Postgres, execute: Any, database_name: str) -> Iterator[str]:
    """The URL of a user who may do nothing yet."""
    execute("CREATE ROLE reader LOGIN")
    yield postgres.url(database_name, "reader")
    execute("DROP OWNED BY reader; DROP ROLE reader")


USES: dict[str, Callable[[IndexStore], object]] = {
    "names": lambda store: store.names(),
    "describe": lambda store: store.describe("demo"),
    "search": lambda store: find(store, "salt"),
    "changed": lambda store: store.changed("demo", chunks_of("a.md", "Salt."), EMBEDDER.name),
    "upsert": lambda store: put(store, "a.md", "Salt."),
    "tidy": lambda store: store.tidy("demo"),
    "drop": lambda store: store.drop("demo"),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@every_use
def test_a_server_that_is_down_is_named_and_all_goes_on_when_it_is_back(
    store: IndexStore, postgres: Postgres, use: Callable[[IndexStore], object]
) -> None:
    postgres.crash()
    try:
        with pytest.raises(IndexServerError, match=r"postgresql://weft@.*/\w+ cannot be used .*again"):
            use(store)
    finally:
        postgres.start()
    assert find(store, "sells") == ["a.md#1"]
    use(store)


@every_use
def test_a_restart_between_two_operations_goes_unnoticed(
    store: IndexStore, postgres: Postgres, use: Callable[[IndexStore], object]
) -> None:
    assert find(store, "sells") == ["a.md#1"]
    postgres.crash()
    postgres.start()
    use(store)


def test_a_restart_within_an_upsert_fails_it_and_leaves_the_index_as_it_was(
    store: IndexStore, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_rows = under_test._PostgresWriting._store

    def crashing(*arguments: Any) -> None:
        store_rows(*arguments)
        postgres.crash()
        postgres.start()

    monkeypatch.setattr(under_test._PostgresWriting, "_store", crashing)
    with pytest.raises(IndexServerError, match="try again"):
        put(store, "a.md", "Coal.")
    monkeypatch.undo()
    assert find(store, "sells coal") == ["a.md#1"]
    assert put(store, "a.md", "Coal.").passages_replaced == 2
    assert find(store, "sells coal") == ["a.md#1"]


def test_a_connection_that_is_ended_within_a_load_fails_one_search(
    store: IndexStore, execute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = under_test.PostgresTable.rows

    def ended(table: under_test.PostgresTable) -> Any:
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'weft indexes'"
        )
        return rows(table)

    monkeypatch.setattr(under_test.PostgresTable, "rows", ended)
    with pytest.raises(IndexServerError, match="terminating connection"):
        find(store, "salt")
    monkeypatch.undo()
    assert find(store, "salt") == ["a.md#1"]


@pytest.mark.parametrize(
    ("user", "password", "asked", "words"),
    [
        ("guarded", "hidden-from-all", "postgres", "password authentication failed"),
        ("guarded", "", "postgres", "no password supplied"),
        ("stranger", "", "postgres", 'role "stranger" does not exist'),
        ("weft", "", "nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_who_is_not_let_in_hears_why_and_no_message_has_the_password(
    postgres: Postgres, database: Place, user: str, password: str, asked: str, words: str
) -> None:
    store = database.store(postgres.url(asked, user, password))
    for use in USES.values():
        with pytest.raises(IndexServerError, match=words) as raised:
            use(store)
        assert "hidden" not in f"{raised.value!r}"


def test_the_right_password_opens(postgres: Postgres, database: Place, database_name: str) -> None:
    store = database.store(postgres.url(database_name, "guarded", "hidden"))
    assert put(store, "a.md", "Salt.").passages_added == 1


@pytest.mark.parametrize("url", ["postgresql://u:hidden@[x/db", "postgresql://u:hidden@h:no/db?%zz=1"])
def test_a_url_that_cannot_be_read_is_not_shown(database: Place, url: str) -> None:
    with pytest.raises(IndexServerError, match=r"\(WEFT_INDEXES\) cannot be read; write it") as raised:
        database.store(url)
    assert "hidden" not in str(raised.value)


def test_without_psycopg_the_remedy_is_named(database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "postgres" or name.startswith("psycopg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(IndexServerError, match=r"needs psycopg .*pip install 'weft\[postgres\]'"):
        index_tables(database.url, database.data)


def test_who_has_no_rights_hears_so(store: IndexStore, database: Place, reader: str, execute: Any) -> None:
    other = database.store(reader)
    with pytest.raises(IndexServerError, match="permission denied for schema weft_indexes"):
        find(other, "salt")
    execute("GRANT USAGE ON SCHEMA weft_indexes TO reader")
    execute("GRANT SELECT ON ALL TABLES IN SCHEMA weft_indexes TO reader")
    assert find(other, "salt") == ["a.md#1"]
    with pytest.raises(
        UnwritableError, match=r"index 'demo' cannot be written \(permission denied for table"
    ):
        put(other, "a.md", "Coal.")
    execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weft_indexes TO reader")
    assert put(other, "a.md", "Coal.").passages_replaced == 2  # with no right to make tables
    assert find(store, "coal") == ["a.md#1"]


def test_who_may_not_make_the_tables_hears_so(database: Place, reader: str) -> None:
    store = database.store(reader)
    assert store.names() == []
    with pytest.raises(UnknownIndexError, match="none; ingest"):
        find(store, "salt")
    with pytest.raises(UnwritableError, match=r"permission denied for database .*may write there"):
        put(store, "a.md", "Salt.")
    tables = index_tables(reader, database.data)
    with pytest.raises(UnwritableError, match="permission denied for database"):
        tables.prepare()
    tables.close()


def test_preparing_makes_the_tables_once(database: Place) -> None:
    for _ in range(2):
        tables = index_tables(database.url, database.data)
        tables.prepare()
        tables.close()
    assert database.store().names() == []


@pytest.mark.parametrize("name", ["demo", "new"])
def test_a_full_disk_is_reported_with_the_remedy_and_spoils_nothing(
    store: IndexStore, execute: Any, name: str
) -> None:
    execute(
        """CREATE FUNCTION weft_indexes.full() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: No space left' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON weft_indexes.passages
        EXECUTE FUNCTION weft_indexes.full()"""
    )
    told = rf"index '{name}' cannot be written \(could not extend file: No space left\); .*has room"
    with pytest.raises(UnwritableError, match=told):
        put(store, "a.md", "Coal.", name)
    execute("DROP TRIGGER full_disk ON weft_indexes.passages")
    assert store.names() == ["demo"]
    assert find(store, "sells coal") == ["a.md#1"]
    assert put(store, "b.md", "Coal.", name).passages_added == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            "UPDATE weft_indexes.passages SET vector = vector || vector WHERE position = 1",
            "a vector is not of dimension 1024",
        ),
        ("UPDATE weft_indexes.passages SET text = '\\xff' WHERE position = 1", "can't decode byte 0xff"),
        ("UPDATE weft_indexes.passages SET metadata = '{' WHERE true", "Expecting property name"),
        ("DELETE FROM weft_indexes.passages WHERE position = 2", "it has 1 passages of 2"),
    ],
)
def test_damage_is_reported_with_the_remedy(
    store: IndexStore, execute: Any, damage: str, reason: str
) -> None:
    put(store, "a.md", "Whole.", "other")
    execute(
        damage.replace("WHERE ", "WHERE index = (SELECT identity FROM weft_indexes.indexes LIMIT 1) AND ")
    )
    with pytest.raises(
        CorruptIndexError, match=rf"index 'demo' cannot be read \(.*{reason}.*\); run"
    ) as raised:
        find(store, "salt")
    execute(str(raised.value).split('"')[1])  # the remedy as it is told
    assert store.names() == ["other"]
    put(store, "a.md", "Salt.")
    assert find(store, "salt") == ["a.md#1"]


@pytest.mark.parametrize(
    "foreign",
    [
        "DROP TABLE weft_indexes.passages",
        "ALTER TABLE weft_indexes.indexes RENAME COLUMN format TO kind",
        "ALTER TABLE weft_indexes.passages DROP COLUMN vector",
        "DROP TABLE weft_indexes.passages; CREATE TABLE weft_indexes.passages (id integer)",
    ],
)
def test_tables_of_somebody_else_are_left_alone(store: IndexStore, execute: Any, foreign: str) -> None:
    execute(foreign)
    told = r"schema weft_indexes of .* are not those of this version of weft \(.*\); drop the schema"
    for use in (lambda: find(store, "salt"), lambda: put(store, "a.md", "Coal.")):
        with pytest.raises(CorruptIndexError, match=told):
            use()
    execute("DROP SCHEMA weft_indexes CASCADE")
    assert store.names() == []
    assert put(store, "a.md", "Coal.").passages_added == 1
    assert find(store, "coal") == ["a.md#1"]


def test_an_index_of_another_version_is_left_alone_and_others_are_not(
    store: IndexStore, execute: Any
) -> None:
    execute("UPDATE weft_indexes.indexes SET format = '2'")
    for use in ("search", "describe", "changed", "upsert", "tidy"):
        with pytest.raises(CorruptIndexError, match=r"\(format '2', not '1'\); run \"DELETE FROM"):
            USES[use](store)
    put(store, "a.md", "Coal.", "other")
    assert store.names() == ["demo", "other"]
    store.drop("demo")


def test_a_writer_that_holds_the_index_for_too_long_keeps_out_writers_but_no_reader(
    store: IndexStore, database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_LOCK_SECONDS", 0.2)
    tables = index_tables(database.url, database.data)
    with tables.writing("demo"):
        with pytest.raises(IndexBusyError, match="index 'demo' has been written by another process for 0 s"):
            put(store, "a.md", "Coal.")
        assert find(store, "sells") == ["a.md#1"]
        assert put(store, "a.md", "Coal.", "other").passages_added == 1
    tables.close()
    assert put(store, "a.md", "Coal.").passages_replaced == 2


def test_a_writer_that_freezes_loses_its_turn(
    store: IndexStore, database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_FROZEN_SECONDS", 0.2)
    frozen = database.store()
    store_rows = under_test._PostgresWriting._store

    def freezing(*arguments: Any) -> None:
        store_rows(*arguments)
        monkeypatch.undo()
        assert put(store, "b.md", "Coal.").passages_added == 1  # once the other has lost its turn

    monkeypatch.setattr(under_test._PostgresWriting, "_store", freezing)
    with pytest.raises(IndexServerError, match="idle-in-transaction timeout"):
        put(frozen, "b.md", "Iron.")
    assert find(store, "coal iron") == ["b.md#1"]


def test_several_processes_may_make_the_first_index_at_once(database: Place) -> None:
    stores = [database.store() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(lambda number: put(stores[number], f"{number}.md", "Salt."), range(6)))
    assert sorted(report.version for report in reports) == list(range(1, 7))
    assert len(find(stores[0], "salt")) == 6


def test_what_no_text_of_a_database_could_hold_is_kept(database: Place) -> None:
    writer, reader = database.store(), database.store()
    long = "a long name/" * 1000
    chunks = [Chunk(f"{long}#1", long, "zero \0 salt", "s\0", 1, {"k\0": "v\0", "n": 0.1})]
    writer.upsert("demo", chunks, EMBEDDER.embed([chunks[0].text]), EMBEDDER.name)
    assert reader.changed("demo", chunks, EMBEDDER.name) == []
    (found,) = reader.search("demo", ["salt"], None, [1], "lexical")[0]
    assert (found.id, found.text, found.source, found.metadata) == (
        chunks[0].id,
        "zero \0 salt",
        "s\0",
        {"k\0": "v\0", "n": 0.1},
    )


def test_connections_are_used_again_and_closed_in_the_end(
    database: Place, execute: Callable[[str], list[tuple[object, ...]]]
) -> None:
    store = database.store()
    for number in range(20):
        put(store, f"{number}.md", "Salt.")
        find(store, "salt")

    def connections() -> int:
        found = execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'weft indexes'")
        return int(str(found[0][0]))

    assert connections() == 1
    store.close()
    with psycopg.connect(database.url) as waiting:  # a backend ends a moment after its client has gone
        waiting.execute("SET statement_timeout = '30s'")
        while connections():
            waiting.execute("SELECT pg_sleep(0.01)")
