"""Programs that run as Python code on a server, asked for by name over HTTP and over gRPC."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from weft import Client
from weft.apps import react
from weft.apps.reference_model.corpus import prepare
from weft.proto import orchestrator_pb2 as pb

from .conftest import Server, eventually, serving, weft

KEY = "secret"
APP = '''
import asyncio
import os
import signal
import sys
from pathlib import Path

from weft import Context, gen, interrupt, program, server_tool, tool
from weft.apps.instructions import EXPAND

Path(f"imported-by-{os.getpid()}").write_text(" ".join(sys.orig_argv))


@program
async def expand(question: str, tokens: int = 64) -> str:
    """Other words for a question."""
    await gen("first of all", max_tokens=2)
    return gen(f"Question: {question}", system=EXPAND, max_tokens=tokens)


@program
async def count(messages: list[dict[str, str]]) -> dict[str, int]:
    context = Context(messages=messages)
    await context.user("?").gen(max_tokens=1)
    return {"messages": len(messages)}


@tool
def shout(text: str) -> str:
    return text.upper()


@program
def loud(question: str) -> str:
    return shout(gen(f"Question: {question}", system=EXPAND, max_tokens=64))


@program
async def broken(question: str) -> str:
    await gen("first of all", max_tokens=2)
    raise ValueError(f"no luck with {question}")


@program
async def hopeless(question: str) -> str:
    return await gen(question * 5000, max_tokens=2)


@program
async def endless(question: str) -> str:
    while question != "Tell":
        await gen(question, max_tokens=900, ignore_eos=True)
    return gen(question, max_tokens=4000, temperature=1.0, ignore_eos=True)


@program
async def asks(question: str) -> str:
    return f"You say {await interrupt(question)}."


meeting = asyncio.Barrier(2)


@program
async def meets(question: str) -> str:
    """Returns when another run of it is under way."""
    await meeting.wait()
    return question


@program
async def delegates(question: str) -> str:
    inner = server_tool("expand", result=str)(question=question)
    return [await inner, await expand.ainvoke(question)][0]


@program
async def dies(question: str) -> str:
    await gen("first of all", max_tokens=2)
    os.kill(os.getpid(), signal.SIGKILL)
'''
PROGRAMS = ("expand", "count", "loud", "broken", "hopeless", "endless", "asks", "meets", "delegates", "dies")
QUESTION = "Who leads Postos Partners?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    (made / "app.py").write_text(APP)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server of these programs, with a key."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    programs = [f"--program={source}" for source in ("react", *(f"app.py:{name}" for name in PROGRAMS))]
    with serving(folder, "--http", "127.0.0.1:0", "--api-key", KEY, *programs) as started:
        started.client = Client(started.address, api_key=KEY)
        prepare(started.client)
        yield started
    monkeypatch.undo()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.http}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(client: openai.OpenAI, model: str, question: str = QUESTION, **options: Any) -> str | None:
    answer = client.chat.completions.create(model=model, messages=said(question), **options)
    content: str | None = answer.choices[0].message.content
    return content


def family(server: Server, program: str) -> tuple[pb.RunInfo, pb.RunInfo]:
    """The last run of a program that was asked for by name, and the run that its code has started."""
    runs = [info for info in server.client.runs() if info.program == program]
    inner = next(info for info in runs if info.parent)
    return next(info for info in runs if info.run == inner.parent), inner


def test_an_agent_is_a_model(server: Server, client: openai.OpenAI) -> None:
    question = "How many more people live in Jezusti than in Hapo?"
    assert ask(client, "react", question) == react.agent.using(server.client)(question)
    assert "react" in [model.id for model in client.models.list()]


def test_the_text_that_it_returns_is_streamed(server: Server, client: openai.OpenAI) -> None:
    whole = ask(client, "expand")
    create = client.chat.completions.create
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(create(model="expand", messages=said(QUESTION), **options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole
    usage = chunks[-1].usage
    assert usage
    outer, inner = family(server, "expand")
    assert (outer.state, inner.state) == ("done", "done")
    assert usage.completion_tokens > 20  # of both texts, which the inner run has had written
    shown = weft(
        "runs", "--server", server.address, env={**os.environ, "WEFT_API_KEY": KEY, "COLUMNS": "200"}
    )
    assert f"expand (in {outer.run})" in shown.stdout, shown.stderr


def test_other_inputs_are_as_those_of_all_programs(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": "Be kind."}, *said("Hello")]
    answer = client.chat.completions.create(model="count", messages=messages)
    assert json.loads(answer.choices[0].message.content or "") == {"messages": 2}
    short = ask(client, "expand", extra_body={"inputs": {"tokens": 3}})
    assert len(short or "") < 20
    with pytest.raises(
        openai.BadRequestError, match="there is no input 'token'; known: 'question', 'tokens'"
    ):
        ask(client, "expand", extra_body={"inputs": {"token": 3}})
    with pytest.raises(openai.BadRequestError, match="input 'tokens' must be integer"):
        ask(client, "expand", extra_body={"inputs": {"tokens": "three"}})
    with pytest.raises(openai.BadRequestError, match="'temperature' cannot be set for program 'expand'"):
        ask(client, "expand", temperature=0.5)


def test_a_program_may_use_tools_of_its_own_process(client: openai.OpenAI) -> None:
    whole = ask(client, "expand")
    assert whole
    assert ask(client, "loud") == whole.upper()


def test_what_its_code_raises_names_program_and_line(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, "broken")
    error: Any = raised.value.body
    assert error["message"] == f"program 'broken' raised ValueError: no luck with {QUESTION}"
    line = APP[: APP.index("raise ValueError")].count("\n") + 1
    assert (error["program"], error["location"]) == ("broken", f"app.py:{line}")
    assert [info.state for info in family(server, "broken")] == ["failed", "failed"]
    with pytest.raises(openai.APIError, match="raised ValueError: no luck with it"):
        list(client.chat.completions.create(model="broken", messages=said("it"), stream=True))


def test_what_a_run_of_it_fails_of_is_what_the_client_hears(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, "hopeless")
    error: Any = raised.value.body
    line = APP[: APP.index("return await gen(question * 5000")].count("\n") + 1
    assert (error["code"], error["location"]) == ("context_length_exceeded", f"app.py:{line}")
    assert "prefill" in error["node"] or "decode" in error["node"]


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_ends_it_down_to_the_engine(
    server: Server, client: openai.OpenAI, stream: bool
) -> None:
    if stream:
        chunks = client.chat.completions.create(model="endless", messages=said("Tell"), stream=True)
        next(chunk for chunk in chunks if chunk.choices[0].delta.content)
        assert [info.state for info in family(server, "endless")] == ["running", "running"]
        chunks.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            ask(client, "endless", "Tell me for ever", timeout=0.2)
    eventually(lambda: {info.state for info in family(server, "endless")} == {"cancelled"})
    eventually(lambda: not server.status().kv_running)
    eventually(lambda: not server.status("tool").running)


def test_a_deadline_holds_for_all_of_it(server: Server) -> None:
    request = pb.SubmitRequest(program="endless", inputs={"question": '"For ever"'}, deadline_s=0.5)
    result = server.client.call(lambda stub: stub.Invoke(request))
    assert (result.info.state, result.fault.code) == ("failed", "timeout")
    eventually(lambda: [info.state for info in family(server, "endless")] == ["failed", "cancelled"])
    eventually(lambda: not server.status().kv_running)


def test_two_runs_go_on_at_the_same_time(client: openai.OpenAI) -> None:
    answers: dict[str, str | None] = {}
    threads = [
        threading.Thread(target=lambda name=name: answers.update({name: ask(client, "meets", name)}))
        for name in ("this", "that")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {"this": "this", "that": "that"}


def test_namespaces_share_nothing_that_models_have_read(client: openai.OpenAI) -> None:
    def cached(salt: str) -> int:
        body = {"cache_salt": salt, "inputs": {"tokens": 2}}
        create = client.chat.completions.create
        usage = create(model="expand", messages=said("What is new?"), extra_body=body).usage
        assert usage
        assert usage.prompt_tokens_details
        return usage.prompt_tokens_details.cached_tokens or 0

    alone, again, elsewhere = cached("one"), cached("one"), cached("other")
    assert again > 20
    assert alone == elsewhere < 5


def test_a_question_to_a_person_is_one_of_the_inner_run(server: Server, client: openai.OpenAI) -> None:
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(ask(client, "asks", "Really?")))
    thread.start()
    eventually(lambda: bool(server.client.runs(state="waiting")))
    (waiting,) = server.client.runs(state="waiting")
    assert json.loads(waiting.waiting[0].value) == "Really?"
    outer, inner = family(server, "asks")
    assert (outer.state, inner.run) == ("running", waiting.run)
    server.client.run(inner.run).resume("yes")
    thread.join(60)
    assert answers == ["You say yes."]


def test_the_other_door_runs_it_by_name_too(server: Server) -> None:
    request = pb.SubmitRequest(program="expand", inputs={"question": json.dumps(QUESTION)})
    result = server.client.call(lambda stub: stub.Invoke(request))
    info = server.client.call(lambda stub: stub.Submit(request))
    assert server.client.run(info.run).result() == result.outputs[0].text.text != ""


def test_what_its_code_starts_is_part_of_its_run(server: Server, client: openai.OpenAI) -> None:
    assert ask(client, "delegates", extra_body={"cache_salt": "mine"}) == ask(client, "expand")
    runs = server.client.runs()
    outer = next(info for info in runs if info.program == "delegates" and not info.parent)
    inner = next(info for info in runs if info.parent == outer.run and info.program == "delegates")
    under = [info for info in runs if info.parent == outer.run and info.program == "expand"]
    assert len(under) == 1
    called = [info for info in runs if info.parent == inner.run]
    assert [info.program for info in called] == ["expand"]


def test_its_code_runs_in_the_tool_worker_alone(folder: Path) -> None:
    names = [file.read_text() for file in folder.glob("imported-by-*")]
    assert any("weft.runtime.worker" in name for name in names)
    assert any("serve" in name for name in names)
    assert not any("weft.runtime.orchestrator" in name for name in names)


def test_a_worker_that_dies_is_named_and_comes_back(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, "dies")
    error: Any = raised.value.body
    assert raised.value.status_code == 503
    assert error["code"] == "worker_lost"
    assert "while it ran %1 tool 'dies', which may have changed something; it is not run again" in str(error)
    eventually(lambda: {info.state for info in family(server, "dies")} == {"failed", "cancelled"})
    assert ask(client, "expand")


def test_a_module_that_cannot_be_imported_keeps_a_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nowhere_at_all\n")
    (tmp_path / "worse.py").write_text(
        "import sys\nfrom weft import program\n\n"
        "if 'weft.runtime.worker.process' in sys.modules:\n    raise OSError('not on this machine')\n\n"
        "@program\nasync def p(q: str) -> str:\n    return q\n"
    )
    command = ("serve", "--listen", "127.0.0.1:0", "--program")
    failed = weft(*command, "bad.py:p", cwd=tmp_path)
    assert failed.returncode != 0
    assert "ModuleNotFoundError: No module named 'nowhere_at_all'" in failed.stderr
    failed = weft(*command, "worse.py:p", cwd=tmp_path)
    assert failed.returncode == 2
    assert "program 'p': 'worse.py:p' cannot be loaded: OSError: not on this machine" in failed.stderr
