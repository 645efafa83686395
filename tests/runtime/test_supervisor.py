from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from weft.runtime.config import (
    INDEX_DATABASE,
    JOURNAL,
    MODEL_KEY,
    HostedPrograms,
    ModelSettings,
    OrchestratorConfig,
    Settings,
)
from weft.runtime.layout import ServerLayout, expected_engines
from weft.runtime.processes import ProcessSpec
from weft.runtime.supervisor import RestartBudget, StartupError, Supervisor

_FAKE = str(Path(__file__).parent / "data" / "fake_server.py")


@dataclass(frozen=True)
class FakeLayout:
    """An orchestrator and named workers, each with a behaviour that `fake_server.py` knows."""

    workers_by_name: dict[str, str] = field(default_factory=lambda: {"worker": "good"})
    orchestrator_behaviour: str = "good"
    key: str | None = None

    def inside(self, folder: Path) -> str:
        return f"unix:{folder}/orchestrator"

    def orchestrator(self, folder: Path, where: Mapping[str, str] | None = None) -> ProcessSpec:
        arguments = (_FAKE, "orchestrator", str(folder), self.orchestrator_behaviour)
        return ProcessSpec("orchestrator", arguments, announces=True)

    def workers(self, folder: Path) -> list[ProcessSpec]:
        return [
            ProcessSpec(name, (_FAKE, "worker", str(folder), behaviour))
            for name, behaviour in self.workers_by_name.items()
        ]


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[Supervisor]:
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_start_waits_for_every_worker_and_stop_leaves_nothing() -> None:
    messages: list[str] = []
    supervisor = Supervisor(FakeLayout({"one": "good", "two": "good"}), messages.append)
    async with running(supervisor):
        pids = list(supervisor.pids.values())
        assert supervisor.address == f"unix:{supervisor.folder}/orchestrator"
        assert supervisor.folder.stat().st_mode & 0o777 == 0o700
        assert set(supervisor.pids) == {"orchestrator", "one", "two"}
        assert {"one has joined", "two has joined"} <= set(messages)
    assert not any(map(_exists, pids))
    assert not supervisor.folder.exists()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (FakeLayout(orchestrator_behaviour="broken"), "orchestrator: the folder 'nowhere' does not exist"),
        (FakeLayout({"one": "good", "two": "broken"}), "worker: the folder 'nowhere' does not exist"),
    ],
)
async def test_a_process_that_cannot_start_is_an_error_with_its_own_last_line(
    layout: FakeLayout, message: str
) -> None:
    supervisor = Supervisor(layout)
    with pytest.raises(StartupError) as caught:
        await supervisor.start()
    assert str(caught.value) == message
    assert not any(map(_exists, supervisor.pids.values()))
    assert not supervisor.folder.exists()


async def test_a_killed_worker_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Supervisor(FakeLayout())) as supervisor:
        before = supervisor.pids
        os.kill(before["worker"], signal.SIGKILL)
        async with asyncio.timeout(10):
            while supervisor.pids == before:
                await asyncio.sleep(0.02)
        assert _exists(supervisor.pids["worker"])
        assert supervisor.pids["orchestrator"] == before["orchestrator"]
    expected = f"worker (process {before['worker']}) was killed by SIGKILL; starting it again"
    assert expected in caplog.messages


async def test_a_worker_that_keeps_dying_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestartBudget, "first_s", 0.0)
    monkeypatch.setattr(RestartBudget, "limit", 2)
    async with running(Supervisor(FakeLayout({"worker": "dying"}))):
        async with asyncio.timeout(20):
            while not any(record.levelno == logging.ERROR for record in caplog.records):
                await asyncio.sleep(0.02)
    assert caplog.messages[-1] == "worker ended with status 3, too often in a minute to start it again"
    assert sum("starting it again" in message for message in caplog.messages) == 2


async def test_wait_ends_when_the_orchestrator_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RestartBudget, "limit", 0)
    async with running(Supervisor(FakeLayout())) as supervisor:
        os.kill(supervisor.pids["orchestrator"], signal.SIGKILL)
        async with asyncio.timeout(10):
            await supervisor.wait()


async def test_a_process_that_ignores_sigterm_is_killed() -> None:
    async with running(Supervisor(FakeLayout({"worker": "stubborn"}))) as supervisor:
        pids = list(supervisor.pids.values())
    assert not any(map(_exists, pids))


async def test_a_process_that_the_system_cannot_end_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(FakeLayout(workers_by_name={"worker": "stubborn"}))
    await supervisor.start()
    worker = supervisor._children["worker"]
    monkeypatch.setattr("weft.runtime.processes._KILLED_WITHIN_S", 0.0)
    monkeypatch.setattr("asyncio.subprocess.Process.kill", lambda process: None)  # as while its disk hangs
    await supervisor.stop()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"worker (process {worker.pid}) has been killed and does not end"
    ]
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()


async def test_ctrl_c_of_the_terminal_reaches_only_the_parent() -> None:
    async with running(Supervisor(FakeLayout())) as supervisor:
        groups = {os.getpgid(pid) for pid in supervisor.pids.values()}
        assert os.getpgid(0) not in groups


def test_restarts_come_ever_later_and_end() -> None:
    budget = RestartBudget()
    delays = [budget.spend(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, None]
    assert budget.spend(60.5) == 1.6  # the first restart is no longer counted
    assert budget.spend(200.0) == 0.1


def test_a_server_has_a_worker_for_each_model_and_one_for_the_rest(tmp_path: Path) -> None:
    settings = Settings(
        models=[ModelSettings(name="small", path="a"), ModelSettings(name="large", path="b")],
        tools=["shop:price"],
        import_paths=[tmp_path],
    )
    layout = ServerLayout(settings, listen="127.0.0.1:7000")
    configs = [json.loads(spec.arguments[-1]) for spec in layout.workers(tmp_path)]
    assert [config["kinds"] for config in configs] == [["llm"], ["llm"], ["embed", "index"], ["tool"]]
    assert [config["model"]["name"] for config in configs if config["model"]] == ["small", "large"]
    assert {config["orchestrator"] for config in configs} == {f"unix:{tmp_path}/orchestrator"}
    assert len({config["listen"] for config in configs}) == 4
    assert configs[3]["tools"] == ["shop:price"]
    assert str(tmp_path) in layout.workers(tmp_path)[3].environment["PYTHONPATH"]
    served = json.loads(layout.orchestrator(tmp_path).arguments[-1])
    assert served["listen"] == "127.0.0.1:7000"
    assert served["inside"] == f"unix:{tmp_path}/orchestrator"


def test_programs_that_run_as_code_have_a_worker_that_uses_the_server(tmp_path: Path) -> None:
    hosted = HostedPrograms(loader="apps:load", sources={"agent": "app.py:agent"})
    layout = ServerLayout(Settings(tls_ca=tmp_path / "ca.pem"), "127.0.0.1:7000", {"agent": "{}"}, hosted)
    *others, tools = layout.workers(tmp_path)
    configs = [json.loads(spec.arguments[-1]) for spec in (*others, tools)]
    assert configs[-1]["kinds"] == ["tool"]
    assert [config["programs"] for config in configs] == [None, None, hosted.model_dump()]
    assert tools.environment["WEFT_SERVER"] == layout.inside(tmp_path)
    assert tools.environment["WEFT_TLS_CA"] == str(tmp_path / "ca.pem")
    assert not any("WEFT_SERVER" in spec.environment for spec in others)
    document = layout.orchestrator(tmp_path).arguments[-1]
    assert ("tool", "") in expected_engines(OrchestratorConfig.model_validate_json(document))
    assert ("tool", "") not in expected_engines(Settings())


def test_the_workers_of_a_model_share_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    three = ModelSettings(name="m", path="a", workers=3)
    told = ModelSettings(name="n", path="b", workers=2, device="cpu", threads=5)
    layout = ServerLayout(Settings(models=[three, told]))
    specs = layout.workers(tmp_path)[:5]
    models = [json.loads(spec.arguments[-1])["model"] for spec in specs]
    assert [model["device"] for model in models] == ["auto:0", "auto:1", "auto:2", "cpu", "cpu"]
    assert [model["threads"] for model in models] == [2, 2, 2, 5, 5]
    assert len({json.loads(spec.arguments[-1])["listen"] for spec in specs}) == 5
    assert len({spec.name for spec in specs}) == 5


def test_the_processes_of_a_shared_model_share_its_workers_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for workers, threads in ((1, 4), (2, 2)):
        model = ModelSettings(name="m", path="a", workers=workers, tensor_parallel=2)
        specs = ServerLayout(Settings(models=[model])).workers(tmp_path)[:workers]
        found = [json.loads(spec.arguments[-1])["model"] for spec in specs]
        assert [model["device"] for model in found] == ["auto:0", "auto:1"][:workers]
        assert [model["threads"] for model in found] == [threads] * workers


def test_the_key_of_another_server_goes_to_its_worker_alone(tmp_path: Path) -> None:
    model = ModelSettings(name="m", path="a", url="http://h:1/v1", key=SecretStr("hidden"))
    layout = ServerLayout(Settings(models=[model]))
    worker, retrieval = layout.workers(tmp_path)
    assert worker.environment[MODEL_KEY] == "hidden"
    assert MODEL_KEY not in retrieval.environment
    for spec in (layout.orchestrator(tmp_path), worker, retrieval):
        assert "hidden" not in "".join(spec.arguments)


def test_only_a_server_of_its_own_has_a_door_and_nobody_sees_its_key(tmp_path: Path) -> None:
    settings = Settings(http="127.0.0.1:8000", metrics="127.0.0.1:9090", api_key=SecretStr("hidden"))
    served = ServerLayout(settings, listen="127.0.0.1:7000").orchestrator(tmp_path)
    embedded = ServerLayout(settings).orchestrator(tmp_path)
    assert json.loads(served.arguments[-1])["http"] == "127.0.0.1:8000"
    assert json.loads(embedded.arguments[-1])["http"] is None
    assert json.loads(embedded.arguments[-1])["metrics"] is None
    workers = ServerLayout(settings, listen="127.0.0.1:7000").workers(tmp_path)
    assert len(workers) == 2
    for spec in (served, *workers):
        assert "hidden" not in str(spec.arguments)
        assert spec.environment["WEFT_API_KEY"] == "hidden"


def test_the_database_of_the_journal_goes_to_the_orchestrator_alone_unseen(tmp_path: Path) -> None:
    url = "postgresql://weft:hidden@host/runs"
    layout = ServerLayout(Settings(journal=SecretStr(url)), listen="127.0.0.1:7000")
    orchestrator, workers = layout.orchestrator(tmp_path), layout.workers(tmp_path)
    assert orchestrator.environment[JOURNAL] == url
    assert "hidden" not in f"{orchestrator.arguments} {workers}"
    file = ServerLayout(Settings(), listen="127.0.0.1:7000").orchestrator(tmp_path)
    assert file.environment[JOURNAL] == ""  # whatever the variable says that the arguments have overruled


def test_the_database_of_indexes_goes_to_the_workers_that_keep_them_unseen(tmp_path: Path) -> None:
    url = "postgresql://weft:hidden@host/indexes"
    layout = ServerLayout(Settings(indexes=SecretStr(url)), listen="127.0.0.1:7000")
    orchestrator, (model, retrieval) = layout.orchestrator(tmp_path), layout.workers(tmp_path)
    assert retrieval.environment[INDEX_DATABASE] == url
    assert "hidden" not in f"{orchestrator} {model} {retrieval.arguments}"
    _, folder = ServerLayout(Settings()).workers(tmp_path)
    assert folder.environment[INDEX_DATABASE] == ""  # whatever the variable says


async def test_all_that_workers_print_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(Supervisor(FakeLayout({"worker": "talking"}))):
        said = ""
        while said.count("\n") < 2:
            await asyncio.sleep(0.01)
            said += capfd.readouterr().err
    assert said == "worker: one\nworker: two\n"


async def test_a_real_server_stops_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(Supervisor(ServerLayout(Settings(models=[], data=tmp_path)))) as supervisor:
        assert set(supervisor.pids) == {"orchestrator", "worker 'retrieval'"}
    assert capfd.readouterr() == ("", "")


def test_an_embedded_server_listens_in_its_private_folder(tmp_path: Path) -> None:
    orchestrator = ServerLayout(Settings()).orchestrator(tmp_path)
    assert json.loads(orchestrator.arguments[-1])["listen"] == f"unix:{tmp_path}/orchestrator"
    names = [spec.name for spec in ServerLayout(Settings()).workers(tmp_path)]
    assert names == ["worker 'reference'", "worker 'retrieval'"]


def test_graphs_that_no_file_holds_stand_in_the_private_folder(tmp_path: Path) -> None:
    settings = Settings(programs={"p": Path("app.py:p"), "q": Path("q.json")})
    orchestrator = ServerLayout(settings, "127.0.0.1:0", {"p": "{}"}).orchestrator(tmp_path)
    programs = json.loads(orchestrator.arguments[-1])["programs"]
    assert programs["q"] == str(Path("q.json").absolute())
    assert Path(programs["p"]).parent == tmp_path
    assert Path(programs["p"]).read_text() == "{}"
