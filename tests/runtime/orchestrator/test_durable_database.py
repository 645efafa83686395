"""Runs that outlive the server in a database, and the database itself."""

from __future__ import annotations

import grpc
import pytest
from pydantic import SecretStr

from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Decode

from ...postgres import Postgres
from .conftest import Servers
from .journals import InDatabase
from .restarts import ASKING, ran, submit, waits, worker
from .test_interrupt import info_of, outcome, resume


@pytest.fixture
def place(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> InDatabase:
    monkeypatch.setattr("weft.runtime.orchestrator.journal._AGAIN_S", 0.05)
    return InDatabase(postgres, postgres.database())


@pytest.fixture
def journal(place: InDatabase) -> SecretStr:
    return SecretStr(place.postgres.url(place.database))


async def test_a_run_goes_on_with_what_it_had_on_another_machine(
    servers: Servers, journal: SecretStr, place: InDatabase
) -> None:
    stage = await servers.start(journal=journal)
    first = await worker(stage)
    run = await submit(stage, ASKING)
    asked = (await waits(stage, run)).waiting
    await stage.server.orchestrator.keeping.written(run)
    place.cut_off()
    servers.folder = servers.folder.with_name("elsewhere")
    stage = await servers.start(journal=journal)
    second = await worker(stage)
    again = (await waits(stage, run)).waiting
    assert [(a.label, a.value) for a in again] == [(a.label, a.value) for a in asked]
    await resume(stage, run, "yes")
    result = await outcome(stage, run)
    assert (ran(first, Decode), ran(first, Tool)) == (1, 1)
    assert (ran(second, Decode), ran(second, Tool)) == (1, 0)
    await stage.server.stop()
    stage = await servers.start(journal=journal)
    assert await outcome(stage, run) == result


async def test_without_its_database_nothing_is_accepted_and_the_rest_goes_on(
    servers: Servers, journal: SecretStr, place: InDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await servers.start(journal=journal)
    first = await worker(stage)
    first.gated = {Decode}
    waiting = await submit(stage, ASKING)
    first.gate.set()
    await waits(stage, waiting)
    first.gate.clear()
    cut_off = await submit(stage, ASKING)
    place.postgres.crash()
    try:
        first.gate.set()
        with monkeypatch.context() as patched:
            patched.setattr("weft.runtime.orchestrator.journal._DISK_S", 0.1)
            with pytest.raises(
                grpc.aio.AioRpcError, match=r"not begun: .* cannot be written .*goes on"
            ) as it:
                await submit(stage, ASKING)
            assert it.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError, match="would ask again"):
                await resume(stage, waiting, "yes")
        assert (await outcome(stage, waiting)).info.state == "done"
        assert ran(first, Tool) == 1
    finally:
        place.postgres.start()
    await waits(stage, cut_off)  # its tool has waited for the database
    assert ran(first, Tool) == 2
    accepted = await submit(stage, ASKING)
    await waits(stage, accepted)
    await stage.server.stop()
    stage = await servers.start(journal=journal)
    states = [(await info_of(stage, run)).state for run in (waiting, cut_off, accepted)]
    assert states == ["done", "running", "running"]
