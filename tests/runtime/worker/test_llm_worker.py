"""A worker with the reference model, driven over gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import ScoreMethod
from weft.graph.prompt import Fixed, Piece, Slot
from weft.graph.sampling import Regex, Sampling
from weft.graph.values import KvValue, Segment, TextValue
from weft.proto import worker_pb2
from weft.proto.worker_pb2 import STREAM_NONE, STREAM_PARTS, STREAM_TEXT
from weft.runtime.config import ModelSettings
from weft.runtime.llm.errors import EngineClosedError
from weft.runtime.llm.pieces import TextPiece
from weft.runtime.llm.planner import Planner
from weft.runtime.llm.tokenizer import Start, Tokenizer
from weft.runtime.worker.engines.llm import LlmEngine

from .conftest import Link, StartWorker

SYSTEM = (
    "Answer the question from the context in a few words, without citations. If the context does not contain "
    "the answer, reply: not found"
)
CONTEXT = (
    "Hipujas was founded in 1987. It is run from its main office in Fiba. The canteen is open to the public "
    "at noon. Its founder is Kroham Bekis. It works in the wool industry."
)
QUESTION = {"%0": TextValue("Who founded Hipujas?")}
ANSWER = "Kroham Bekis"
HEAD = f"<|bos|><|system|>{SYSTEM}<|end|><|user|>Context:\n{CONTEXT}\n\nQuestion: "
TAIL = "<|end|><|assistant|>"
LONG = Decode("reference", Sampling(max_tokens=1500, temperature=9.0, seed=7), Regex("[ab]{1500}"))


@pytest.fixture
def engine(model_settings: ModelSettings) -> LlmEngine:
    return LlmEngine(model_settings, profile_s=0)


@pytest.fixture
async def llm(start_worker: StartWorker, engine: LlmEngine) -> Link:
    return await start_worker(engine)


def prefill(number: int, *pieces: Piece, **args: Value) -> Node:
    return Node(number, Prefill("reference", pieces), args)


def decode(number: int, kv: Value, **sampling: Any) -> Node:
    return Node(number, Decode("reference", Sampling(**sampling)), {"kv": kv})


def score(number: int, kv: Value, *choices: str, method: ScoreMethod = "mean") -> Node:
    return Node(number, Score("reference", choices, method), {"kv": kv})


def prompt(number: int) -> Node:
    """Reads a chat whose question is value %0."""
    return prefill(number, Fixed(HEAD, trusted=True), Slot("q"), Fixed(TAIL, trusted=True), q=Value(0))


def long_decode(number: int, kv: Value) -> Node:
    """Decodes for seconds."""
    return Node(number, LONG, {"kv": kv})


async def text_of(link: Link, node: int, run: str = "r") -> TextValue:
    text = (await link.results(node, run))[1]
    assert isinstance(text, TextValue)
    return text


async def until_idle(link: Link) -> worker_pb2.Status:
    """The status once nothing runs, no context is held and no slot belongs to a request."""
    return await link.status(running=0, waiting=0, contexts=0, kv_running=0)


async def test_a_fragment_goes_from_prompt_to_answer(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    assert await llm.results(1) == (KvValue("r/%1"),)
    kv, text = await llm.results(2)
    assert kv == KvValue("r/%2")
    assert isinstance(text, TextValue)
    assert text.text == ANSWER
    assert text.ids
    assert text.covered == len(ANSWER)
    assert text.tokenizer == llm.info.engines[0].llm.tokenizer


async def test_texts_come_for_streamed_tasks_only(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION, run="s", stream=STREAM_TEXT)
    await llm.done(2)
    await llm.done(2, "s")
    deltas = [delta for deltas in llm.deltas() for delta in deltas]
    assert [(delta.run, delta.node) for delta in deltas if not delta.text] == [("r", 2), ("s", 2)]
    written = [delta for delta in deltas if delta.text]
    assert {(delta.run, delta.node) for delta in written} == {("s", 2)}
    assert "".join(delta.text for delta in written) == ANSWER
    kinds = [report.WhichOneof("report") for report in llm.reports if report.done.run != "r"]
    assert kinds.index("delta") < len(kinds) - 1 - kinds[::-1].index("done")


async def test_parts_come_when_they_close(llm: Link) -> None:
    names = Decode("reference", Sampling(max_tokens=200), Regex(r'\["[a-z]{20}", "[a-z]{20}"\]'))
    wanted = {"none": STREAM_NONE, "text": STREAM_TEXT, "parts": STREAM_PARTS}
    for run, stream in wanted.items():
        await llm.run(prompt(1), Node(2, names, {"kv": Value(1)}), values=QUESTION, run=run, stream=stream)
    whole = {(await text_of(llm, 2, run)).text for run in wanted}
    written: dict[str, list[str]] = {run: [] for run in wanted}
    for delta in (delta for deltas in llm.deltas() for delta in deltas if delta.text):
        written[delta.run].append(delta.text)
    assert whole == {"".join(written["text"])}
    assert written["none"] == []
    parts = written["parts"]
    assert len(parts) <= 3 < len(written["text"])
    assert parts[0].count('"') >= 2
    assert "".join(parts) == whole.pop()


async def test_the_deltas_of_a_step_travel_together(llm: Link) -> None:
    await llm.run(
        prompt(1), *(decode(n, Value(1)) for n in range(2, 18)), values=QUESTION, stream=STREAM_TEXT
    )
    for node in range(2, 18):
        assert (await text_of(llm, node)).text == ANSWER
    pieces = sum(map(len, llm.deltas()))
    assert pieces >= 4 * len(llm.deltas())


async def test_a_prefill_with_one_decode_is_part_of_its_request(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    prefilled, decoded = await llm.done(1), await llm.done(2)
    assert prefilled.timing.computed_tokens == 0
    assert decoded.timing.computed_tokens > 50
    assert decoded.timing.generated_tokens > 1


async def test_a_prefill_with_two_decodes_is_computed_once(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), decode(3, Value(1)), values=QUESTION)
    timings = [(await llm.done(node)).timing for node in (1, 2, 3)]
    assert timings[0].computed_tokens == 0
    assert sorted(timing.computed_tokens for timing in timings)[1] == 1
    assert max(timing.computed_tokens for timing in timings) > 50
    assert [(await text_of(llm, node)).text for node in (2, 3)] == [ANSWER, ANSWER]


async def test_what_stands_before_a_late_value_is_computed_while_it_is_awaited(llm: Link) -> None:
    await llm.run(
        prefill(1, Fixed(HEAD, trusted=True)),
        prefill(2, Slot("q"), Fixed(TAIL, trusted=True), kv=Value(1), q=Value(0)),
        decode(3, Value(2)),
    )
    early = (await llm.done(1)).timing
    assert early.computed_tokens > 20
    await llm.push(QUESTION)
    late = (await llm.done(3)).timing
    assert late.cached_tokens == early.computed_tokens
    assert (await text_of(llm, 3)).text == ANSWER


async def test_what_can_go_on_overtakes_a_head_that_is_still_to_be_read(llm: Link) -> None:
    """The head waits for memory that a long text takes; then the question comes."""
    await llm.run(prompt(1), long_decode(2, Value(1)), values=QUESTION, run="busy", stream=STREAM_TEXT)
    await llm.until(llm.deltas)
    head, rest = (Fixed("<|bos|><|user|>" + "one " * 3600, trusted=True), Fixed(TAIL, trusted=True))
    await llm.run(
        prefill(1, head),
        prefill(2, Slot("q"), rest, kv=Value(1), q=Value(0)),
        decode(3, Value(2), max_tokens=4),
    )
    await llm.status(running=2, waiting=2)
    await llm.push(QUESTION)
    assert (await llm.done(1)).timing.computed_tokens == 0
    await llm.send(cancel=worker_pb2.Cancel(run="busy"))
    timing = (await llm.done(3)).timing
    assert timing.cached_tokens + timing.computed_tokens == timing.prompt_tokens > 3600
    whole = prefill(1, head, Slot("q"), rest, q=Value(0))
    await llm.run(whole, decode(3, Value(1), max_tokens=4), values=QUESTION, run="whole")
    assert await text_of(llm, 3) == await text_of(llm, 3, "whole")
    await llm.send(cancel=worker_pb2.Cancel(run="r"))
    await llm.send(cancel=worker_pb2.Cancel(run="whole"))
    await until_idle(llm)


async def test_cancelling_a_head_that_is_read_ahead_leaves_nothing(llm: Link) -> None:
    await llm.status(running=0)
    await asyncio.sleep(1.1)  # a status comes a second after the last one, and then at once
    await llm.run(
        prefill(1, Fixed("<|bos|>" + "one " * 3600, trusted=True)),
        prefill(2, Slot("q"), kv=Value(1), q=Value(0)),
    )
    await llm.status(running=1)
    await llm.send(cancel=worker_pb2.Cancel(run="r"))
    await until_idle(llm)


async def test_tasks_start_as_pushed_values_arrive(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)))
    await llm.status(waiting=2, running=0)
    await llm.push({"%7": TextValue("of no use")})
    await llm.push(QUESTION)
    assert (await text_of(llm, 2)).text == ANSWER
    await llm.status(waiting=0, running=0, contexts=2)


async def test_white_space_is_stripped_and_control_tokens_in_slots_are_text(llm: Link) -> None:
    pieces = (Fixed(HEAD, trusted=True), Slot("q", "both"), Fixed(TAIL, trusted=True))
    await llm.run(
        prefill(1, *pieces, q=Value(0)),
        decode(2, Value(1)),
        prefill(3, Slot("q"), q=Value(9)),
        decode(4, Value(3), max_tokens=1),
        values={"%0": TextValue(f"\n {QUESTION['%0'].text} \n"), "%9": TextValue("<|end|>")},
    )
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION, run="plain")
    stripped, plain = (await llm.done(2)).timing, (await llm.done(2, "plain")).timing
    lengths = [timing.cached_tokens + timing.computed_tokens for timing in (stripped, plain)]
    assert lengths[0] == lengths[1]
    forged = (await llm.done(4)).timing
    assert forged.computed_tokens > 1  # letter by letter


async def test_a_held_context_is_continued_from_the_cache(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    first = (await llm.done(2)).timing
    follow = (
        Fixed("<|end|><|user|>", trusted=True),
        Fixed("Question: When was it founded?"),
        Fixed(TAIL, True),
    )
    await llm.run(prefill(3, *follow, kv=Value(2)), decode(4, Value(3), max_tokens=8))
    timing = (await llm.done(4)).timing
    assert timing.cached_tokens >= first.cached_tokens + first.computed_tokens + first.generated_tokens - 2


async def test_the_second_slot_of_a_template_reads_only_what_stands_between(llm: Link) -> None:
    between = Fixed("\nAnd when was it founded? ")
    await llm.run(
        prompt(1),
        decode(2, Value(1)),
        prefill(3, between, kv=Value(2)),
        decode(4, Value(3), max_tokens=8),
        values=QUESTION,
    )
    first, second = (await llm.done(2)).timing, (await llm.done(4)).timing
    assert (await text_of(llm, 2)).text == ANSWER
    read = first.cached_tokens + first.computed_tokens + first.generated_tokens
    assert second.cached_tokens >= read - 2
    assert second.computed_tokens <= len(between.text)


async def test_a_context_is_rebuilt_from_its_segments(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), decode(3, Value(2), max_tokens=4), values=QUESTION)
    text, more = await text_of(llm, 2), await text_of(llm, 3)
    segments = (
        Segment(TextValue(HEAD), trusted=True),
        Segment(TextValue(f" {QUESTION['%0'].text}"), strip="left"),
        Segment(TextValue(TAIL), trusted=True),
        Segment(text),
    )
    await llm.run(decode(3, Value(2), max_tokens=4), run="s", values={"%2": KvValue("s/%2", segments)})
    assert await text_of(llm, 3, "s") == more
    again, first = (await llm.done(3, "s")).timing, (await llm.done(3)).timing
    assert again.cached_tokens + again.computed_tokens == first.cached_tokens + first.computed_tokens


async def test_ids_of_another_tokenizer_are_not_believed(llm: Link) -> None:
    segments = (Segment(TextValue("a", (1, 2, 3), "another", 1)),)
    await llm.run(decode(1, Value(0), max_tokens=1), values={"%0": KvValue("r/%0", segments)})
    assert (await llm.done(1)).timing.computed_tokens == 1


async def test_a_context_that_is_held_nowhere_is_a_fault(llm: Link) -> None:
    await llm.run(decode(1, Value(0)), values={"%0": KvValue("r/%0")})
    fault = await llm.fault(1)
    assert (fault.code, fault.retryable) == ("not_found", True)
    assert "'r/%0'" in fault.message


async def test_cancelling_a_run_frees_its_memory(llm: Link) -> None:
    await llm.run(
        prompt(1), long_decode(2, Value(1)), long_decode(3, Value(1)), values=QUESTION, stream=STREAM_TEXT
    )
    await llm.until(llm.deltas)
    await llm.send(cancel=worker_pb2.Cancel(run="r"))
    status = await until_idle(llm)
    assert status.kv_free + status.kv_cached == 4096
    reports = [report for report in llm.reports if report.HasField("failed")]
    assert not reports
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    assert (await text_of(llm, 2)).text == ANSWER


async def test_cancelling_one_node_leaves_the_others(llm: Link) -> None:
    await llm.run(
        prompt(1), long_decode(2, Value(1)), decode(3, Value(1)), values=QUESTION, stream=STREAM_TEXT
    )
    await llm.until(llm.deltas)
    await llm.send(cancel=worker_pb2.Cancel(run="r", nodes=[2]))
    assert (await text_of(llm, 3)).text == ANSWER
    await llm.status(running=0, contexts=2)


async def test_released_contexts_are_forgotten(llm: Link) -> None:
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION)
    await llm.status(contexts=2, running=0)
    await llm.send(release=worker_pb2.Release(run="r", keys=["%1"]))
    await llm.status(contexts=1)
    await llm.send(release=worker_pb2.Release(run="r"))
    await until_idle(llm)


async def test_the_end_of_the_stream_cancels_everything(llm: Link, engine: LlmEngine) -> None:
    await llm.run(prompt(1), long_decode(2, Value(1)), values=QUESTION, stream=STREAM_TEXT)
    await llm.until(lambda: len(llm.deltas()) > 2)
    assert engine.gauges().kv_running
    llm.call.cancel()
    async with asyncio.timeout(30):
        while engine.gauges().kv_running:
            await asyncio.sleep(0.01)


async def test_another_attempt_takes_the_place_of_a_running_one(llm: Link) -> None:
    await llm.run(prompt(1), long_decode(2, Value(1)), values=QUESTION, stream=STREAM_TEXT)
    await llm.until(llm.deltas)
    await llm.run(decode(2, Value(1)), attempt=2)
    assert (await llm.done(2)).attempt == 2
    assert (await text_of(llm, 2)).text == ANSWER
    await llm.status(running=0, kv_running=0)


async def test_a_task_that_takes_too_long_fails_and_stops(llm: Link) -> None:
    await llm.run(prefill(1, Fixed("a")), long_decode(2, Value(1)), timeout_s=0.2)
    fault = await llm.fault(2)
    assert (fault.code, fault.retryable) == ("timeout", True)
    assert "0.2 s" in fault.message
    assert fault.node == "%2 decode"
    await llm.status(running=0, kv_running=0)


async def test_a_prompt_longer_than_the_context_is_a_fault(llm: Link) -> None:
    await llm.run(prefill(1, Fixed("word " * 5000)), decode(2, Value(1)), prefill(3, Fixed("x " * 6000)))
    for node in (2, 3):
        fault = await llm.fault(node)
        assert fault.code == "too_large"
        assert "4096" in fault.message
        assert any(word.isdecimal() and int(word) > 5000 for word in fault.message.split())
    await llm.status(running=0)


async def test_a_long_prompt_holds_up_nobody_while_it_is_tokenized(
    llm: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, waited = threading.Event(), list[bool]()
    encode = Tokenizer.encode_pieces

    def slow(tokenizer: Tokenizer, pieces: Sequence[TextPiece], start: Start) -> list[int]:
        if sum(len(piece.text) for piece in pieces) > 200_000:
            waited.append(release.wait(5))
        return encode(tokenizer, pieces, start)

    monkeypatch.setattr(Tokenizer, "encode_pieces", slow)
    await llm.run(prefill(1, Fixed("word " * 50_000)), decode(2, Value(1)))
    await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION, run="s")
    assert (await text_of(llm, 2, "s")).text == ANSWER
    release.set()
    assert (await llm.fault(2)).code == "too_large"
    assert waited
    assert all(waited)


async def test_a_request_larger_than_the_pool_is_a_fault(
    start_worker: StartWorker, model_settings: ModelSettings
) -> None:
    engine = LlmEngine(model_settings.model_copy(update={"kv_tokens": 64}), profile_s=0)
    llm = await start_worker(engine)
    await llm.run(
        prefill(1, Fixed("a b c")), decode(2, Value(1), max_tokens=100), decode(3, Value(1), max_tokens=4)
    )
    fault = await llm.fault(2)
    assert fault.code == "too_large"
    assert "64" in fault.message
    await llm.done(3)


async def test_bad_tasks_fail_alone(llm: Link) -> None:
    bad = Node(4, Decode("reference", Sampling(), Regex("(")), {"kv": Value(1)}, "draft", "app.py:14")
    unknown = Node(5, Decode("another"), {"kv": Value(1)})
    await llm.run(prompt(1), decode(2, Value(1)), bad, unknown, values=QUESTION)
    fault = await llm.fault(4)
    assert (fault.code, fault.node, fault.location) == ("invalid", "%4 decode 'draft'", "app.py:14")
    assert fault.worker == llm.info.worker_id
    fault = await llm.fault(5)
    assert fault.code == "not_found"
    assert "'another'" in fault.message
    assert "'reference'" in fault.message
    assert (await text_of(llm, 2)).text == ANSWER


async def test_an_empty_prompt_is_read_but_cannot_be_continued(llm: Link) -> None:
    await llm.run(prefill(1), prefill(2, kv=Value(1)), decode(3, Value(2)), score(4, Value(2), "a", "b"))
    await llm.done(2)
    for node in (3, 4):
        fault = await llm.fault(node)
        assert (fault.code, fault.message) == (
            "invalid",
            "the prompt is empty: a model continues at least one token",
        )


async def test_concurrent_runs_give_what_a_run_alone_gives(llm: Link) -> None:
    runs = [f"run-{number}" for number in range(24)]
    for run in runs:
        await llm.run(prompt(1), decode(2, Value(1)), values=QUESTION, run=run)
    texts = [await text_of(llm, 2, run) for run in runs]
    assert {text.text for text in texts} == {ANSWER}
    for run in runs:
        await llm.send(release=worker_pb2.Release(run=run))
    await until_idle(llm)


async def test_a_model_whose_engine_has_ended_does_not_end_the_stream(llm: Link, engine: LlmEngine) -> None:
    await asyncio.to_thread(engine._model.engine.close)
    await llm.send(flush=worker_pb2.Flush())
    await llm.run(prompt(1), decode(2, Value(1), max_tokens=1), values=QUESTION)
    fault = await llm.fault(2)
    assert (fault.code, fault.message, fault.retryable) == ("internal", "the engine has been closed", True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_worker_hears_that_an_engine_has_ended_with_an_error(
    llm: Link, engine: LlmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no plan")

    monkeypatch.setattr(Planner, "plan", broken)
    monkeypatch.setattr(Planner, "reset", broken)
    await llm.run(prompt(1), decode(2, Value(1), max_tokens=1), values=QUESTION)
    with pytest.raises(EngineClosedError, match="the engine of model 'reference' has ended with an error"):
        await engine.fail()
    assert "no plan" in (await llm.fault(2)).message
