"""Advice on contexts, over gRPC: what it saves, and that nothing else depends on it."""

from __future__ import annotations

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.sampling import Sampling
from weft.graph.values import TextValue
from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings
from weft.runtime.worker.engines.llm import LlmEngine

from .conftest import Link, StartWorker

POOL = 400
STORY = "The canteen is open to the public at noon. Its founder is Kroham Bekis. "


def call(number: int, text: str, **args: Value) -> tuple[Node, Node]:
    """Reads a text, and writes eight tokens."""
    read = Node(number, Prefill("reference", (Fixed(text),)), args)
    return read, Node(number + 1, Decode("reference", Sampling(max_tokens=8)), {"kv": Value(number)})


@pytest.fixture
async def llm(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    return await start_worker(LlmEngine(model_settings.model_copy(update={"kv_tokens": POOL}), profile_s=0))


async def crowd(llm: Link) -> int:
    """Other runs, one after another, that need all of the pool; the tokens that they read."""
    read = 0
    for number in range(4):
        run = f"other {number}"
        await llm.run(*call(1, f"{number} " + STORY * 7), run=run)
        read += (await llm.done(2, run)).timing.computed_tokens
    return read


async def turn(llm: Link, run: str, pins: list[worker_pb2.KvPin]) -> tuple[str, worker_pb2.Timing]:
    """A turn of a run, many others, and its next turn; what that one has written, and how."""
    await llm.send(flush=worker_pb2.Flush())
    await llm.run(*call(1, STORY), run=run)
    await llm.done(2, run)
    await llm.send(batch=worker_pb2.Batch(pins=pins))
    assert await crowd(llm) > POOL
    await llm.run(*call(3, " Who founded it?", kv=Value(2)), run=run)
    text = (await llm.results(4, run))[1]
    assert isinstance(text, TextValue)
    return text.text, (await llm.done(4, run)).timing


def pin(run: str, seconds: float, key: str = "%2", begins_seconds: float = 0.0) -> worker_pb2.KvPin:
    return worker_pb2.KvPin(run=run, key=key, seconds=seconds, begins_seconds=begins_seconds)


@pytest.mark.parametrize("begins_seconds", [0.0, 50.0])
async def test_a_context_that_is_pinned_outlives_others_and_texts_are_the_same(
    llm: Link, begins_seconds: float
) -> None:
    expected, plain = await turn(llm, "a", [])
    text, pinned = await turn(llm, "b", [pin("b", 60.0, begins_seconds=begins_seconds)])
    assert text == expected
    assert plain.cached_tokens < pinned.cached_tokens
    assert pinned.computed_tokens < plain.computed_tokens
    await llm.status(kv_pins_met=pinned.cached_tokens, kv_pins_broken=0)


@pytest.mark.parametrize("pins", [[pin("a", -1.0)], [pin("a", 60.0, "%7")], [pin("nobody", 60.0)]])
async def test_late_and_wrong_advice_is_none(llm: Link, pins: list[worker_pb2.KvPin]) -> None:
    expected, plain = await turn(llm, "z", [])
    text, advised = await turn(llm, "a", pins)
    assert (text, advised.computed_tokens) == (expected, plain.computed_tokens)


async def kept(llm: Link, name: str, dead: list[str], *, own: bool = True) -> int:
    """The tokens left of one run after a second, whose context is released, and a third that needs room.

    What they read comes after they have written, so that it is their `own`; or before.
    """
    await llm.send(flush=worker_pb2.Flush())
    for number, length in ((1, 5), (2, 5), (3, 8)):
        run, text = f"{name} {number}", STORY * length
        await llm.run(*call(1, f"{number} " if own else f"{number} {text}"), run=run)
        await llm.run(*call(3, text if own else " And?", kv=Value(2)), run=run)
        await llm.done(4, run)
        if number == 2:
            keys = [f"%{node}" for node in range(1, 5)]
            await llm.send(release=worker_pb2.Release(run=run, keys=keys, dead=dead))
    await llm.run(*call(5, " And?", kv=Value(4)), run=f"{name} 1")
    return (await llm.done(6, f"{name} 1")).timing.cached_tokens


async def test_what_is_dead_goes_before_what_was_used_earlier(llm: Link) -> None:
    assert await kept(llm, "alive", []) < await kept(llm, "dead", ["%4"])


async def test_a_prompt_does_not_die_with_what_has_been_written_behind_it(llm: Link) -> None:
    alive, dead = [await kept(llm, str(keys), keys, own=False) for keys in ([], ["%4"])]
    assert dead - alive < 40, "what is dead is only what it wrote, twice, and a few tokens between"
    assert dead < await kept(llm, "its own", ["%4"])
