"""What gathers for a stream leaves together, when the first of it is due."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from weft.runtime.outbox import Outbox

LATER_S = 3600.0


async def test_what_is_put_in_one_turn_is_taken_together_and_in_order() -> None:
    outbox: Outbox[int] = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    for item in range(3):
        outbox.put(item)
    assert await taking == [0, 1, 2]


async def test_what_has_time_goes_with_what_has_none() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.put("later", within_s=LATER_S)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put("now")
    assert await taking == ["later", "now"]


@pytest.mark.parametrize(("first_s", "second_s"), [(LATER_S, 0.001), (0.001, LATER_S)])
async def test_the_item_with_least_time_decides(first_s: float, second_s: float) -> None:
    outbox: Outbox[str] = Outbox()
    outbox.put("first", within_s=first_s)
    outbox.put("second", within_s=second_s)
    assert await outbox.take() == ["first", "second"]


async def test_what_had_time_and_has_left_does_not_hurry_what_follows() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.put("early", within_s=0.001)
    outbox.put("now")
    assert await outbox.take() == ["early", "now"]
    outbox.put("later", within_s=LATER_S)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0.01)
    assert not taking.done()
    outbox.close()
    assert await taking == ["later"]
    assert await outbox.take() == []


def test_what_may_wait_for_less_than_a_loop_can_tell_leaves_too() -> None:
    async def taken() -> list[str]:
        outbox: Outbox[str] = Outbox()
        outbox.put("a", within_s=1e-6)  # uvloop counts milliseconds: it has no timer for this
        outbox.put("b", within_s=1e-6)
        return await asyncio.wait_for(outbox.take(), 5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(taken()) == ["a", "b"]
