"""Workers that have KV from each other, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.prompt import Fixed
from weft.graph.sampling import Sampling
from weft.graph.values import Json, TextValue
from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.access import Access
from weft.runtime.config import ModelSettings
from weft.runtime.worker.engines.llm import LlmEngine

from .conftest import Link, StartWorker

FIRMS = (f"[{n}] Firm {n} was founded in {1900 + n} in Fiba by Kroham Bekis." for n in range(1, 40))
PASSAGES = "\n".join(FIRMS)
QUESTION = Fixed("\n\nQuestion: Who?<|end|><|assistant|>", trusted=True)
BEGINNING = Fixed(f"<|bos|><|user|>Passages:\n{PASSAGES}", trusted=True)
READ = Node(1, Prefill("reference", (BEGINNING,)))
ASKED = Node(2, Prefill("reference", (QUESTION,)), {"kv": Value(1)})
WRITE = Node(3, Decode("reference", Sampling(max_tokens=24)), {"kv": Value(2)})


@pytest.fixture
async def reader(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    """A worker that has read the passages."""
    link = await start_worker(LlmEngine(model_settings, profile_s=0))
    await link.run(READ, run="reader")
    assert (await link.done(1, "reader")).timing.computed_tokens > 1000
    return link


@pytest.fixture
async def writer(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    return await start_worker(LlmEngine(model_settings, profile_s=0))


def source(link: Link, wait_s: float = 60.0) -> worker_pb2.KvSource:
    return worker_pb2.KvSource(address=link.info.address, wait_s=wait_s)


async def text_of(link: Link, run: str = "r") -> str:
    text = (await link.results(3, run))[1]
    assert isinstance(text, TextValue)
    return text.text


async def timings(link: Link, run: str = "r") -> list[worker_pb2.Timing]:
    return [(await link.done(node, run)).timing for node in (1, 2, 3)]


async def test_a_worker_takes_what_another_has_read(reader: Link, writer: Link) -> None:
    await writer.run(READ, ASKED, WRITE, source=source(reader))
    await writer.run(READ, ASKED, WRITE, run="alone", namespace="alone")
    assert await text_of(writer) == await text_of(writer, "alone")
    fetched, alone = await timings(writer), await timings(writer, "alone")
    assert sum(timing.fetched_tokens for timing in fetched) > 1000
    assert sum(timing.fetch for timing in fetched) > 0
    assert sum(timing.computed_tokens for timing in fetched) < 40
    assert sum(timing.fetched_tokens for timing in alone) == 0
    assert sum(timing.computed_tokens for timing in alone) > 1000


@pytest.mark.parametrize(("key", "fetches"), [("k", True), ("another", False), (None, False)])
async def test_where_the_server_has_a_key_workers_fetch_with_it(
    start_worker: StartWorker, model_settings: ModelSettings, key: str | None, fetches: bool
) -> None:
    reader = await start_worker(LlmEngine(model_settings, profile_s=0), key="k")
    await reader.run(READ, run="reader")
    await reader.done(1, "reader")
    writer = await start_worker(LlmEngine(model_settings, profile_s=0, access=Access(key)))
    await writer.run(READ, ASKED, WRITE, source=source(reader))
    assert (sum(timing.fetched_tokens for timing in await timings(writer)) > 1000) is fetches


async def test_a_decode_that_reads_its_prompt_has_it_fetched(reader: Link, writer: Link) -> None:
    whole = Node(2, Prefill("reference", (BEGINNING, QUESTION)))
    await writer.run(whole, WRITE, source=source(reader))
    decoded = (await writer.done(3)).timing
    assert decoded.fetched_tokens > 1000
    assert decoded.cached_tokens >= decoded.fetched_tokens
    assert (await writer.done(2)).timing.fetched_tokens == 0


async def test_a_score_has_its_prompt_fetched(reader: Link, writer: Link) -> None:
    choose = Node(3, Score("reference", ("yes", "no"), "mean"), {"kv": Value(1)})
    await writer.run(READ, choose, source=source(reader))
    await writer.run(READ, choose, run="alone", namespace="alone")
    assert (await writer.done(3)).timing.fetched_tokens > 1000
    chosen, scores = await writer.results(3)
    alone, expected = await writer.results(3, "alone")
    assert chosen == alone
    assert isinstance(scores, Json)
    assert isinstance(expected, Json)
    assert scores.value == pytest.approx(expected.value, abs=1e-4)


async def test_tasks_that_come_together_fetch_once(reader: Link, writer: Link) -> None:
    for run in "abcd":
        await writer.run(READ, ASKED, WRITE, run=run, source=source(reader))
    fetched = [timing.fetched_tokens for run in "abcd" for timing in await timings(writer, run)]
    assert len([tokens for tokens in fetched if tokens]) == 1


async def test_who_has_no_source_waits_for_what_is_coming(reader: Link, writer: Link) -> None:
    await writer.run(READ, ASKED, WRITE, source=source(reader))
    await writer.run(READ, ASKED, WRITE, run="late")
    assert await text_of(writer) == await text_of(writer, "late")
    both = [*await timings(writer), *await timings(writer, "late")]
    assert sum(timing.computed_tokens for timing in both) < 80


async def test_namespaces_stay_apart(reader: Link, writer: Link) -> None:
    await writer.run(READ, ASKED, WRITE, namespace="other", source=source(reader))
    assert sum(timing.fetched_tokens for timing in await timings(writer)) == 0


async def test_a_source_that_is_gone_costs_nothing(writer: Link, tmp_path: Path) -> None:
    nobody = worker_pb2.KvSource(address=f"unix:{tmp_path}/nobody.sock", wait_s=1.0)
    await writer.run(READ, ASKED, WRITE, source=nobody)
    await writer.run(READ, ASKED, WRITE, run="alone", namespace="alone")
    assert await text_of(writer) == await text_of(writer, "alone")


async def test_other_weights_are_not_mixed(
    reader: Link, start_worker: StartWorker, model_settings: ModelSettings
) -> None:
    half = model_settings.model_copy(update={"dtype": "bfloat16"})
    other = await start_worker(LlmEngine(half, profile_s=0))
    assert other.info.engines[0].llm.kv_layout != reader.info.engines[0].llm.kv_layout
    await other.run(READ, ASKED, WRITE, source=source(reader))
    assert sum(timing.fetched_tokens for timing in await timings(other)) == 0


@pytest.mark.parametrize("change", [{"model": "other"}, {"layout": "other"}, {"layout": ""}])
async def test_what_cannot_be_used_is_refused(reader: Link, change: dict[str, str]) -> None:
    layout = reader.info.engines[0].llm.kv_layout
    asked: dict[str, Any] = {"model": "reference", "layout": layout, "ids": [1, 2, 3]} | change
    async with grpc.aio.insecure_channel(reader.info.address) as channel:
        call = worker_pb2_grpc.WorkerStub(channel).FetchKv(worker_pb2.FetchKvRequest(**asked))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


Lend = Callable[[worker_pb2.FetchKvRequest, Any], AsyncIterator[worker_pb2.KvPart]]


@asynccontextmanager
async def lender(folder: Path, lend: Lend) -> AsyncIterator[str]:
    """A worker of which others can have KV, and nothing else; its address."""
    fetch = grpc.unary_stream_rpc_method_handler(
        lend,
        request_deserializer=worker_pb2.FetchKvRequest.FromString,
        response_serializer=worker_pb2.KvPart.SerializeToString,
    )
    service = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name
    server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0)])  # it may be silent for long
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"FetchKv": fetch}),))
    address = f"unix:{folder}/lender.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def just(*parts: worker_pb2.KvPart) -> Lend:
    """Send these parts, whatever is asked for, and then break off."""

    async def lend(request: worker_pb2.FetchKvRequest, context: Any) -> AsyncIterator[worker_pb2.KvPart]:
        for part in parts:
            yield part
        await context.abort(grpc.StatusCode.INTERNAL, "broken off")

    return lend


def part(first: int, tokens: int, size: int, waited_s: float = 0.0) -> worker_pb2.KvPart:
    keys = values = bytes(size)
    return worker_pb2.KvPart(first=first, tokens=tokens, keys=keys, values=values, waited_s=waited_s)


@pytest.mark.parametrize("waited_s", [0.0, 1000.0], ids=["it was there", "it was being read"])
async def test_asking_is_a_part_of_what_fetching_took_but_not_waiting(
    writer: Link, tmp_path: Path, waited_s: float
) -> None:
    size = 10 * writer.info.engines[0].llm.kv_token_bytes // 2
    async with lender(tmp_path, just(part(0, 10, size, waited_s))) as address:
        await writer.run(READ, ASKED, WRITE, source=worker_pb2.KvSource(address=address, wait_s=1.0))
        (fetched,) = [timing for timing in await timings(writer) if timing.fetched_tokens]
    assert fetched.fetched_tokens == 10
    assert (fetched.fetch > 0) == (waited_s == 0)
    assert fetched.queued > 0 or waited_s == 0


@pytest.mark.parametrize(
    "parts",
    [[], [part(0, 10, 7)], [part(0, 0, 0)], [part(500, 1, 4096)], [part(0, 1_000_000, 4096)]],
    ids=["none", "wrong size", "empty", "a gap", "longer than the prompt"],
)
async def test_nonsense_is_left(writer: Link, tmp_path: Path, parts: list[worker_pb2.KvPart]) -> None:
    async with lender(tmp_path, just(*parts)) as address:
        await writer.run(READ, ASKED, WRITE, source=worker_pb2.KvSource(address=address, wait_s=1.0))
        await writer.run(READ, ASKED, WRITE, run="alone", namespace="alone")
        assert await text_of(writer) == await text_of(writer, "alone")
    assert sum(timing.fetched_tokens for timing in await timings(writer)) == 0


async def test_who_needs_little_of_what_is_coming_does_not_wait_for_it(writer: Link, tmp_path: Path) -> None:
    """All that these prompts have in common is there already."""
    await writer.run(READ, run="before")
    await writer.done(1, "before")
    asked = asyncio.Event()

    async def silent(request: worker_pb2.FetchKvRequest, context: Any) -> AsyncIterator[worker_pb2.KvPart]:
        asked.set()
        await asyncio.Event().wait()
        yield worker_pb2.KvPart()

    more = Node(2, Prefill("reference", (Fixed("Whoever. " * 60), QUESTION)), {"kv": Value(1)})
    async with lender(tmp_path, silent) as address:
        nobody = worker_pb2.KvSource(address=address, wait_s=600.0)
        await writer.run(READ, more, WRITE, run="waits", source=nobody)
        await asked.wait()
        await writer.run(READ, ASKED, WRITE)
        assert await text_of(writer)


async def test_cancelling_ends_a_fetch(writer: Link, tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(request: worker_pb2.FetchKvRequest, context: Any) -> AsyncIterator[worker_pb2.KvPart]:
        asked.set()
        await asyncio.Event().wait()
        yield worker_pb2.KvPart()

    async with lender(tmp_path, silent) as address:
        await writer.run(READ, ASKED, WRITE, source=worker_pb2.KvSource(address=address, wait_s=600.0))
        await asked.wait()
        await writer.send(cancel=worker_pb2.Cancel(run="r"))
        await writer.status(running=0, waiting=0, kv_running=0)
