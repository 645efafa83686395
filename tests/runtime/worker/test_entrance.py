"""Requests of one turn of the event loop enter an engine together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest

from weft.runtime.config import ModelSettings
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import CancelledError, EngineClosedError, RequestError
from weft.runtime.llm.requests import Event, Failed, PrefillRequest, PromptDone
from weft.runtime.worker.engines.entrance import Entrance
from weft.runtime.worker.engines.llm_loading import load

PROMPTS = [tuple(range(100 * place, 100 * place + 20)) for place in range(1, 6)]


@pytest.fixture
def engine(model_settings: ModelSettings) -> Iterator[LLMEngine]:
    with load(model_settings, 0.0).engine as engine:
        yield engine


def sink(ended: asyncio.Future[Event]) -> Callable[[Sequence[Event]], None]:
    """Puts the event that ends a request into the future, on any thread."""
    loop = asyncio.get_running_loop()

    def take(events: Sequence[Event]) -> None:
        loop.call_soon_threadsafe(ended.set_result, events[-1])

    return take


async def test_what_tasks_ask_for_in_one_turn_is_computed_in_one_step(engine: LLMEngine) -> None:
    entrance = Entrance(engine)

    async def ask(ids: tuple[int, ...]) -> Event:
        ended: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        entrance.submit(PrefillRequest(ids), sink(ended))
        return await ended

    done = await asyncio.gather(*map(ask, PROMPTS))
    assert all(isinstance(event, PromptDone) for event in done)
    assert engine.stats().steps == 1
    assert isinstance(await ask((1, 2, 3)), PromptDone)
    assert engine.stats().steps == 2


async def test_a_request_can_be_cancelled_in_the_turn_in_which_it_was_made(engine: LLMEngine) -> None:
    entrance = Entrance(engine)
    kept, cancelled = (asyncio.get_running_loop().create_future() for _ in range(2))
    entrance.submit(PrefillRequest(PROMPTS[0]), sink(kept))
    entrance.cancel(entrance.submit(PrefillRequest(PROMPTS[1]), sink(cancelled)))
    assert isinstance(await kept, PromptDone)
    failed = await cancelled
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CancelledError)


async def test_bad_requests_are_refused_at_once_and_those_of_a_closed_engine_fail(engine: LLMEngine) -> None:
    entrance = Entrance(engine)
    ended = asyncio.get_running_loop().create_future()
    with pytest.raises(RequestError, match="must not be empty"):
        entrance.submit(PrefillRequest(()), sink(ended))
    entrance.submit(PrefillRequest(PROMPTS[0]), sink(ended))
    engine.close()
    failed = await ended
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, EngineClosedError)
