"""The engine of a model that an OpenAI-compatible server runs, by a server that does as told."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill, Score, Weigh
from weft.graph.prompt import Fixed
from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex, Sampling
from weft.graph.values import Datum, TextValue, plain
from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.worker.engines.base import HeldKv, Outcome, StartError, Stream, Task
from weft.runtime.worker.engines.upstream import client
from weft.runtime.worker.engines.upstream.engine import UpstreamEngine
from weft.runtime.worker.faults import TaskError

from .conftest import MODEL_FOLDER, StartWorker
from .upstream_server import CUT, WAIT, FakeServer, Reply, completion, events, refusal, running

TOKENIZER = Tokenizer.from_folder(MODEL_FOLDER)
SCHEMA = JsonSchema('{"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}')


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSES_S", (0.0, 0.0))


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with running(FakeServer()) as started:
        yield started


def settings(server: FakeServer, **more: Any) -> ModelSettings:
    more = {"name": "reference", "wait_s": 0.0, "url": server.url, **more}
    return ModelSettings(path=str(MODEL_FOLDER), **more)


def engine_of(server: FakeServer, key: str = "", **more: Any) -> UpstreamEngine:
    return UpstreamEngine(settings(server, **more), server.url, key=key)


@pytest.fixture
async def engine(server: FakeServer) -> AsyncIterator[UpstreamEngine]:
    made = engine_of(server)
    await made.start()
    yield made
    await made.stop()


class Run:
    """A run that has read a text."""

    def __init__(self, engine: UpstreamEngine, text: str = "Who founded Hipujas?") -> None:
        self.engine = engine
        self.text = text
        self.deltas: list[str] = []
        self.namespace = ""

    async def of(self, op: Any, stream: Stream = Stream.TEXT) -> Outcome:
        read = Node(0, Prefill("reference", (Fixed(self.text),)))
        (kv,) = (await self.engine.execute(Task("r", read), {}, self.deltas.append)).results
        task = Task("r", Node(1, op, {"kv": Value(0)}), stream=stream, namespace=self.namespace)
        return await self.engine.execute(task, {"kv": kv}, self.deltas.append)

    async def decoded(
        self, constraint: Constraint | None = None, logprobs: int | None = None, **sampling: Any
    ) -> Outcome:
        return await self.of(Decode("reference", Sampling(**sampling), constraint, logprobs))


def text_of(datum: Datum) -> TextValue:
    assert isinstance(datum, TextValue)
    return datum


def with_ids(*texts: str, eos: bool = True) -> Reply:
    """A stream as vLLM writes it when it is asked for ids."""
    made: list[dict[str, Any]] = [
        {"choices": [{"text": text, "token_ids": TOKENIZER.encode_continuation(text)}]} for text in texts
    ]
    end = [min(TOKENIZER.eos_ids)] if eos else []
    made.append({"choices": [{"text": "", "token_ids": end, "finish_reason": "stop"}]})
    return Reply([*(f"data: {json.dumps(event)}\n\n" for event in made), "data: [DONE]\n\n"])


# ---- what is written


async def test_a_text_comes_in_pieces_with_what_it_took(server: FakeServer, engine: UpstreamEngine) -> None:
    usage = {"completion_tokens": 4, "prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}
    server.answer = lambda body: events("Kroham", " Bekis", usage=usage)
    run = Run(engine)
    outcome = await run.decoded(max_tokens=20)
    kv, text = outcome.results
    assert text == TextValue("Kroham Bekis")
    assert run.deltas == ["", "Kroham", " Bekis"]
    prompt = TOKENIZER.encode(run.text, bos=True)
    assert isinstance(kv, HeldKv)
    assert list(kv.context.ids()) == TOKENIZER.encode(f"{run.text}Kroham Bekis", bos=True)
    timing = outcome.timing
    assert (timing.prompt_tokens, timing.cached_tokens) == (len(prompt), 5)
    assert (timing.computed_tokens, timing.generated_tokens) == (len(prompt) - 5, 4)
    assert timing.finish == "stop"
    (body,) = server.bodies
    assert body["prompt"] == prompt
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("reference", 20, 0.0)
    assert body["stream"] is True
    assert "seed" not in body  # the likeliest tokens need none


async def test_only_what_is_wanted_is_passed_on(server: FakeServer, engine: UpstreamEngine) -> None:
    pieces = ('["a', '", "b', '"]')
    server.answer = lambda body: events(*pieces) if body.get("stream") else completion("".join(pieces))
    for stream, deltas in (
        (Stream.NONE, [""]),
        (Stream.PARTS, ["", '["a", "b', '"]']),
        (Stream.TEXT, ["", '["a', '", "b', '"]']),
    ):
        run = Run(engine)
        outcome = await run.of(Decode("reference"), stream)
        assert text_of(outcome.results[1]).text == "".join(pieces)
        assert run.deltas == deltas
        assert server.bodies[-1].get("stream", False) is (stream is not Stream.NONE)
        assert (outcome.timing.prefill > 0) is (stream is not Stream.NONE)  # else nothing tells where it ends


async def test_ids_of_a_text_are_kept_and_ends_are_not(server: FakeServer, engine: UpstreamEngine) -> None:
    server.answer = lambda body: with_ids("Kroham", " Bekis")
    text = text_of((await Run(engine).decoded()).results[1])
    ids = (*TOKENIZER.encode_continuation("Kroham"), *TOKENIZER.encode_continuation(" Bekis"))
    assert text == TextValue("Kroham Bekis", ids, TOKENIZER.fingerprint, len("Kroham Bekis"))


async def test_ids_that_do_not_spell_the_text_are_not_believed(
    server: FakeServer, engine: UpstreamEngine
) -> None:
    ids = TOKENIZER.encode_continuation("Kroham")
    wrong = {"choices": [{"text": "Kroham B", "token_ids": [*ids, ids[0]], "finish_reason": "stop"}]}
    server.answer = lambda body: Reply([f"data: {json.dumps(wrong)}\n\ndata: [DONE]\n\n"])
    assert text_of((await Run(engine).decoded()).results[1]) == TextValue(
        "Kroham B", tuple(ids), TOKENIZER.fingerprint, len("Kroham")
    )


async def test_a_stop_string_ends_a_text_even_if_its_server_writes_on(
    server: FakeServer, engine: UpstreamEngine
) -> None:
    server.answer = lambda body: events("One\nQu", "estion: two", finish="length")
    run = Run(engine)
    outcome = await run.decoded(stop=("\nQuestion:",))
    assert text_of(outcome.results[1]).text == "One"
    assert run.deltas == ["", "One"]
    assert outcome.timing.finish == "stop"
    server.answer = lambda body: events("One\nQu")
    assert text_of((await Run(engine).decoded(stop=("\nQuestion:",))).results[1]).text == "One\nQu"


async def test_events_hold_every_kind_of_line_end(server: FakeServer, engine: UpstreamEngine) -> None:
    event = json.dumps({"choices": [{"text": "a\u2028b\x85c"}]}, ensure_ascii=False)
    last = json.dumps({"choices": [{"text": "", "finish_reason": "stop"}]})
    server.answer = lambda body: Reply(
        [f": ping\r\n\r\ndata: {event}\r\n\r\ndata:{last}\n\ndata: [DONE]\n\n"]
    )
    assert text_of((await Run(engine).decoded()).results[1]).text == "a\u2028b\x85c"


async def test_tokens_come_with_their_probabilities(server: FakeServer, engine: UpstreamEngine) -> None:
    ids = TOKENIZER.encode_continuation("Kroham")
    rivals = {f"token_id:{token}": -0.5 for token in ids} | {"token_id:9": -0.25, "token_id:8": -3.0}
    weighed = {"token_logprobs": [-0.5] * len(ids), "top_logprobs": [rivals] * len(ids)}
    choice = {"text": "Kroham", "token_ids": ids, "logprobs": weighed, "finish_reason": "length"}
    server.answer = lambda body: Reply([f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"])
    tokens = plain((await Run(engine).decoded(logprobs=1)).results[2])
    assert [token["id"] for token in tokens] == ids
    assert [(rival["id"], rival["logprob"]) for rival in tokens[0]["top"]] == [(9, -0.25)]
    assert (server.bodies[0]["logprobs"], server.bodies[0]["return_tokens_as_token_ids"]) == (1, True)


async def test_namespaces_keep_apart_what_is_read(server: FakeServer, engine: UpstreamEngine) -> None:
    server.answer = lambda body: events("")
    run = Run(engine)
    await run.decoded()
    run.namespace = "tenant"
    await run.decoded(temperature=1.0, seed=2**40 + 3)
    assert "cache_salt" not in server.bodies[0]
    assert server.bodies[1]["cache_salt"] == "tenant"
    assert server.bodies[1]["seed"] == 3


@pytest.mark.parametrize(
    ("constraint", "text"),
    [(SCHEMA, '{"year": 1987}'), (Regex("[0-9]+"), "42"), (Choices(("yes", "no")), "no")],
)
async def test_what_conforms_is_taken(
    server: FakeServer, engine: UpstreamEngine, constraint: Constraint, text: str
) -> None:
    server.answer = lambda body: events(text)
    assert text_of((await Run(engine).decoded(constraint)).results[1]).text == text


@pytest.mark.parametrize(
    ("constraint", "text", "message"),
    [
        (SCHEMA, '{"year": "x"}', r"it\.year must be integer.*the server has not held it"),
        (SCHEMA, "Sure! {}", "the server has not held it"),
        (Regex("[0-9]+"), "4 or 2", "does not match"),
        (Choices(("yes", "no")), "maybe", "'maybe' is none of its choices"),
    ],
)
async def test_what_does_not_conform_is_an_error(
    server: FakeServer, engine: UpstreamEngine, constraint: Constraint, text: str, message: str
) -> None:
    server.answer = lambda body: events(text)
    with pytest.raises(TaskError, match=message) as caught:
        await Run(engine).decoded(constraint)
    assert (caught.value.code, caught.value.retryable) == ("invalid", False)


async def test_a_form_that_did_not_fit_says_so(server: FakeServer, engine: UpstreamEngine) -> None:
    server.answer = lambda body: events('{"year": 19', finish="length")
    with pytest.raises(TaskError, match="raise max_tokens"):
        await Run(engine).decoded(SCHEMA)


# ---- what is weighed


async def test_choices_are_scored_by_what_the_prompt_is_worth(
    server: FakeServer, engine: UpstreamEngine
) -> None:
    good = TOKENIZER.encode_continuation(" yes")

    def answer(body: Any) -> Reply:
        ids = body["prompt"]
        value = -0.5 if ids[-len(good) :] == good else -2.0
        return completion(logprobs={"token_logprobs": [None, *[value] * len(ids)]})  # and one is written

    server.answer = answer
    outcome = await Run(engine, "Is it?").of(Score("reference", (" no", " yes")))
    assert plain(outcome.results[0]) == " yes"
    assert plain(outcome.results[1]) == [-2.0, -0.5]
    assert [(body["echo"], body["max_tokens"], body["logprobs"]) for body in server.bodies] == [
        (True, 1, 1)
    ] * 2
    probed = await Run(engine, "Is it?").of(Weigh("reference", start=0))
    count = len(TOKENIZER.encode("Is it?", bos=True))
    assert plain(probed.results[0]) == count
    assert [token["logprob"] for token in plain(probed.results[1])] == [None, *[-2.0] * (count - 1)]


async def test_a_server_that_weighs_no_prompts_is_a_clear_fault(
    server: FakeServer, engine: UpstreamEngine
) -> None:
    server.answer = lambda body: completion("x")
    with pytest.raises(TaskError, match="does not return the log-probabilities of a prompt"):
        await Run(engine).of(Score("reference", ("a", "b")))


# ---- what goes wrong


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "message"),
    [
        (refusal(400, "bad regex"), "invalid", False, "answers 400: bad regex"),
        (refusal(401, "who?"), "invalid", False, "answers 401: who.; set 'key'"),
        (refusal(404, "no such model"), "not_found", False, "no such model"),
        (refusal(400, "maximum context length is 8"), "too_large", False, "maximum context length"),
        (refusal(400, "n", type="exceed_context_size_error"), "too_large", False, "400"),
        (refusal(429), "internal", True, "429"),
        (refusal(503, "loading"), "internal", True, "503: loading"),
        (Reply(["<h1>Bad Gateway</h1>"], 502), "internal", True, "502: <h1>Bad Gateway"),
        (Reply(["<html>Welcome to nginx</html>\n"]), "internal", False, "not OpenAI's API: '<html>Welcome"),
        (Reply(["data: {oops\n\n"]), "internal", False, "not OpenAI's API: '{oops'"),
        (Reply(['data: {"error": {"message": "out of memory"}}\n\n']), "internal", True, "out of memory"),
        (events("a", finish="abort"), "internal", True, "ended its answer with 'abort'"),
        (Reply([*events("a").pieces[:1], CUT]), "internal", True, "was lost: RemoteProtocolError"),
        (Reply(events("a").pieces[:1]), "internal", True, "broke off"),
        (Reply(["data: [DONE]\n\n"]), "internal", True, "without saying why"),
    ],
)
async def test_failures_are_told_apart(
    server: FakeServer, engine: UpstreamEngine, reply: Reply, code: str, retryable: bool, message: str
) -> None:
    server.answer = lambda body: reply
    with pytest.raises(TaskError, match=message) as caught:
        await Run(engine).decoded()
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


async def test_a_busy_server_is_asked_again(server: FakeServer, engine: UpstreamEngine) -> None:
    replies = [refusal(429), refusal(503), events("at last")]
    server.answer = lambda body: replies[len(server.bodies) - 1]
    assert text_of((await Run(engine).decoded()).results[1]).text == "at last"


async def test_a_prompt_that_cannot_fit_is_not_sent(server: FakeServer) -> None:
    engine = engine_of(server, context_length=8)
    await engine.start()
    with pytest.raises(TaskError, match=r"the context of model 'reference' holds 8; shorten") as caught:
        await Run(engine, "word " * 9).decoded()
    assert caught.value.code == "too_large"
    assert server.bodies == []
    server.answer = lambda body: events("x")
    await Run(engine, "Hi").decoded(max_tokens=100)
    assert server.bodies[0]["max_tokens"] + len(server.bodies[0]["prompt"]) == 8
    await engine.stop()


async def test_a_cancelled_task_hangs_up(server: FakeServer, engine: UpstreamEngine) -> None:
    server.answer = lambda body: Reply([*events("a").pieces[:1], WAIT])
    run = Run(engine)
    task = asyncio.create_task(run.decoded())
    while "a" not in run.deltas:
        await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.hung_up.wait(), 30)


async def test_a_timeout_hangs_up(start_worker: StartWorker, server: FakeServer) -> None:
    worker = await start_worker(engine_of(server))
    server.answer = lambda body: Reply([WAIT])
    read = Node(0, Prefill("reference", (Fixed("Hi"),)))
    await worker.run(read, Node(1, Decode("reference"), {"kv": Value(0)}), timeout_s=0.05)
    assert (await worker.fault(1)).code == "timeout"
    await asyncio.wait_for(server.hung_up.wait(), 30)


async def test_no_more_requests_than_allowed_are_under_way(server: FakeServer) -> None:
    engine = engine_of(server, max_running=2)
    await engine.start()
    server.answer = lambda body: Reply([*events("a").pieces[:1], WAIT])
    runs = [Run(engine) for _ in range(5)]
    tasks = [asyncio.create_task(run.decoded()) for run in runs]
    while sum("a" in run.deltas for run in runs) < 2:
        await asyncio.sleep(0.001)
    assert len(server.bodies) == 2
    server.answer = lambda body: events("b")
    for task, run in zip(tasks, runs, strict=True):
        if "a" in run.deltas:
            task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, Outcome) for outcome in done) == 3
    await engine.stop()


async def test_a_server_that_goes_and_comes_back_is_used_again(server: FakeServer) -> None:
    lasting = FakeServer(answer=lambda body: events("here"))
    async with running(lasting):
        engine = engine_of(lasting)
        await engine.start()
        assert text_of((await Run(engine).decoded()).results[1]).text == "here"
    with pytest.raises(TaskError, match="was lost") as caught:
        await Run(engine).decoded()
    assert caught.value.retryable
    async with running(lasting, int(lasting.url.rpartition(":")[2].partition("/")[0])):
        assert text_of((await Run(engine).decoded()).results[1]).text == "here"
    await engine.stop()


# ---- the start


async def test_the_worker_says_what_it_fronts(start_worker: StartWorker, server: FakeServer) -> None:
    worker = await start_worker(engine_of(server, key="sk-secret", max_running=7))
    (info,) = worker.info.engines
    assert (info.kind, info.model, info.capacity) == ("llm", "reference", 7)
    assert info.detail == f"reference at {server.url} (vllm)"
    assert (info.llm.context_length, info.llm.kv_slots) == (4096, 0)
    assert info.llm.tokenizer == TOKENIZER.fingerprint
    assert info.llm.chat_template
    assert not info.llm.HasField("profile")
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer sk-secret"}
    assert "secret" not in str(worker.info)
    assert isinstance(info, worker_pb2.EngineInfo)


async def test_a_server_may_start_late() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = FakeServer(url=f"http://127.0.0.1:{port}/v1")
    engine = engine_of(server, wait_s=60.0)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0.1)
    assert not starting.done()
    async with running(server, port):
        await asyncio.wait_for(starting, 30)
    await engine.stop()


async def test_no_server_is_one_clear_line() -> None:
    server = FakeServer(url="http://127.0.0.1:9/v1")
    with pytest.raises(StartError, match=r"^model 'reference': no server answers at http://127.0.0.1:9/v1 w"):
        await engine_of(server).start()


async def test_another_path_is_one_clear_line(server: FakeServer) -> None:
    server.url = server.url.removesuffix("/v1")
    server.models = []
    server.refuses = refusal(404)
    with pytest.raises(StartError, match=r"there is no http://127.0.0.1:\d+/models; .* ends with /v1"):
        await engine_of(server).start()


async def test_a_refused_key_is_one_clear_line(server: FakeServer) -> None:
    server.refuses = refusal(401, "wrong key")
    with pytest.raises(StartError, match="answers 401: wrong key; set 'key'") as caught:
        await engine_of(server, key="sk-secret").start()
    assert "secret" not in str(caught.value)


async def test_the_model_is_found_by_name_or_as_the_only_one(server: FakeServer) -> None:
    card = {"owned_by": "sglang", "max_model_len": 99}
    server.models = [{"id": "org/Big", **card}, {"id": "hash", "kind": "embedder"}]
    engine = engine_of(server)
    await engine.start()
    assert engine.info().detail.startswith("org/Big at ")
    assert engine.info().llm.context_length == 99
    server.models.append({"id": "org/Small", **card})
    with pytest.raises(
        StartError, match="has no model 'reference'; set served_as to one of: 'org/Big', 'org/Sm"
    ):
        await engine_of(server).start()
    other = engine_of(server, served_as="org/Small")
    await other.start()
    assert other.info().detail.startswith("org/Small at ")
    with pytest.raises(StartError, match="has no model 'else'"):
        await engine_of(server, served_as="else").start()


@pytest.mark.parametrize(
    "reply",
    [
        Reply([json.dumps({"choices": [{"text": "Th qck"}]})]),
        Reply([json.dumps({"choices": [], "usage": {"prompt_tokens": 3}})]),
    ],
)
async def test_the_tokenizer_of_another_model_is_found_out(server: FakeServer, reply: Reply) -> None:
    server.trial = reply
    with pytest.raises(StartError, match="must be the tokenizer of its model 'reference'"):
        await engine_of(server).start()


async def test_the_length_of_a_context_comes_from_the_server_or_the_folder(server: FakeServer) -> None:
    for card, length in (({"meta": {"n_ctx": 512}}, 512), ({}, 4096)):
        server.models = [{"id": "reference", **card}]
        engine = engine_of(server)
        await engine.start()
        assert engine.info().llm.context_length == length


def test_a_worker_that_fronts_a_server_does_without_torch() -> None:
    code = (
        "import sys, weft.runtime.worker.process, weft.runtime.worker.engines.upstream.engine; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
