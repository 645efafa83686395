"""What goes wrong stays small: workers that die, clients that leave, runs that are cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from weft import Client, Context, ProgramError, gen, program, tool
from weft.apps.reference_model.corpus import questions

from .conftest import WEFT, Server, eventually, serving

LONG = 1500


@program
def ramble(topic: str) -> str:
    """A long text that does not repeat itself, so that there is time to interfere."""
    return gen(f"Passage: {topic}", max_tokens=LONG, regex=f"[ab]{{{LONG}}}", temperature=9.0, seed=7)


@program
def brief(topic: str) -> str:
    """A short text."""
    return gen(f"Question: {topic}", max_tokens=8)


def llm_workers(client: Client) -> dict[str, int]:
    """The process ids of the workers with a language model."""
    return {
        worker.worker_id: worker.pid
        for worker in client.describe().workers
        if any(engine.kind == "llm" for engine in worker.engines)
    }


def started(server: Server) -> bool:
    """Whether a worker is computing for a run."""
    return bool(server.status().running)


def test_cancelling_a_run_frees_its_kv(server: Server) -> None:
    run = ramble.using(server.client).submit("rivers")
    eventually(lambda: started(server))
    run.cancel()
    assert run.status == "cancelled"
    eventually(lambda: not server.status().running)
    status = server.status()
    assert (status.kv_running, status.contexts, status.waiting) == (0, 0, 0)
    with pytest.raises(ProgramError, match="cancelled"):
        run.result()


def test_a_client_that_disconnects_has_its_run_cancelled(server: Server) -> None:
    client = Client(server.address)
    ramble.using(client).submit("rivers")
    eventually(lambda: started(server))
    client.close()
    eventually(lambda: not server.status().running)
    assert server.client.runs(limit=1)[0].state == "cancelled"


def test_a_detached_run_survives_its_client(server: Server) -> None:
    client = Client(server.address)
    run = brief.using(client).submit("rivers", detached=True)
    client.close()
    assert server.client.run(run.id).result() == brief.using(server.client)("rivers")


def test_a_killed_client_has_its_run_cancelled(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from weft import gen, program\n\n@program\ndef ramble() -> str:\n"
        f"    return gen('Passage: x', max_tokens={LONG}, regex='[ab]{{{LONG}}}', temperature=9.0)\n"
    )
    process = subprocess.Popen(
        [*WEFT, "run", f"{script}:ramble", "--server", server.address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: started(server))
    process.kill()
    process.wait()
    eventually(lambda: not server.status().running)


def test_work_of_a_killed_worker_goes_on_elsewhere(own_server: Server) -> None:
    (first,) = llm_workers(own_server.client).values()
    command = [*WEFT, "worker", "--kind", "llm", "--connect", own_server.address]
    second = subprocess.Popen(command, env={**os.environ, "WEFT_PROFILE_S": "0"})
    try:
        eventually(lambda: len(llm_workers(own_server.client)) == 2, within_s=60)
        runs = [ramble.using(own_server.client).submit(topic) for topic in ("rivers", "hills")]
        eventually(lambda: all(_running(own_server, pid) for pid in llm_workers(own_server.client).values()))
        os.kill(first, signal.SIGKILL)
        texts = [run.result(timeout=120) for run in runs]
        eventually(lambda: _replaced(own_server, first), within_s=60)
        again = [ramble.using(own_server.client)(topic) for topic in ("rivers", "hills")]
        assert texts == again
    finally:
        second.terminate()
        assert second.wait(20) == 0


def _replaced(server: Server, pid: int) -> bool:
    """Whether there are two workers again, and this one, of which the end may be heard of late, is none."""
    workers = llm_workers(server.client).values()
    return len(workers) == 2 and pid not in workers


def _running(server: Server, pid: int) -> bool:
    info = server.client.describe()
    worker = next(worker for worker in info.workers if worker.pid == pid)
    return bool(info.status[worker.worker_id].running)


def test_work_of_the_only_worker_goes_on_when_that_has_been_started_again(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        (first,) = llm_workers(server.client).values()
        run = ramble.using(server.client).submit("rivers")
        eventually(lambda: started(server))
        os.kill(first, signal.SIGKILL)
        assert run.result(timeout=120) == ramble.using(server.client)("rivers")


def test_without_another_worker_the_run_fails_in_time_and_names_the_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_SCHEDULER__GRACE_S", "3")
    with serving(tmp_path) as server:
        ((name, pid),) = llm_workers(server.client).items()
        run = ramble.using(server.client).submit("rivers")
        eventually(lambda: started(server))
        supervisor = server.process.pid
        os.kill(supervisor, signal.SIGSTOP)  # so that nobody starts the worker again
        try:
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ProgramError, match=name):
                run.result(timeout=30)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        eventually(lambda: bool(llm_workers(server.client)), within_s=60)
        assert brief.using(server.client)("rivers")


@tool
def broken(city: str) -> str:
    """Raises."""
    raise LookupError(f"no such city: {city}")


@tool(timeout=0.5)
def hanging(city: str) -> str:
    """Hangs."""
    time.sleep(30)
    return city


@program
def call_broken(city: str) -> str:
    """Calls a tool that raises."""
    return gen(f"Weather: {broken(city)}")


@program
def call_hanging(city: str) -> str:
    """Calls a tool that hangs."""
    return gen(f"Weather: {hanging(city)}")


def test_a_tool_that_raises_says_what_and_where(server: Server) -> None:
    with pytest.raises(ProgramError, match=r"LookupError.*no such city: Oz") as caught:
        call_broken.using(server.client)("Oz")
    assert "test_failures.py" in str(caught.value)


def test_a_tool_that_hangs_is_given_up(server: Server) -> None:
    with pytest.raises(ProgramError, match=r"0\.5 s"):
        call_hanging.using(server.client)("Oz")


def test_a_prompt_longer_than_the_context_is_refused_and_the_server_lives(server: Server) -> None:
    with pytest.raises(ProgramError, match="4096"):
        brief.using(server.client)("river " * 5000)
    assert brief.using(server.client)("rivers")


@program
async def two_turns(question: str) -> str:
    """A conversation: the second turn goes on from the first reply."""
    chat = Context(system="You are a helpful assistant.").user(question)
    first = await chat.gen(max_tokens=24)
    assert first
    return await chat.user("And when?").gen(max_tokens=8)


def test_the_next_turn_reads_only_what_is_new(server: Server) -> None:
    question = "Tell me about " + ", ".join(q.text for q in questions()[:8])
    run = two_turns.using(server.client).submit(question)
    run.result()
    decodes = [
        event["args"]
        for event in run.trace()["traceEvents"]
        if " decode" in event["name"] and "args" in event
    ]
    first, second = sorted(decodes, key=lambda args: args["node"])
    assert first["computed_tokens"] > 80
    assert second["cached_tokens"] >= first["computed_tokens"] + first["generated_tokens"] - 1
    assert second["computed_tokens"] <= 10


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        pids = [worker.pid for worker in server.client.describe().workers]
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
