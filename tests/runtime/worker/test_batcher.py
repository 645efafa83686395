from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from weft.runtime.worker.batcher import Batched, Batcher


class Machine:
    """Squares numbers, one batch at a time, while its gate is open; refuses negative ones."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        assert self.gate.wait(10)
        self.batches.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {min(items)}")
        return [item * item for item in items]


@asynccontextmanager
async def batcher_of(machine: Machine, limit: int = 8) -> AsyncIterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(machine, limit=limit, name="test")
    batcher.start()
    yield batcher
    machine.gate.set()
    await batcher.stop()


async def _queued_behind(
    batcher: Batcher[int, int], machine: Machine, items: Sequence[int]
) -> list[Batched[int] | BaseException]:
    """The results of items that were queued while the batch [0] was being computed."""
    machine.gate.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0.01)
    machine.gate.set()
    await first
    return list(await asyncio.gather(*others, return_exceptions=True))


def _computed(found: Sequence[Batched[int] | BaseException]) -> list[Batched[int]]:
    """The same results, if none of them is an error."""
    computed = [one for one in found if not isinstance(one, BaseException)]
    assert len(computed) == len(found)
    return computed


async def test_what_is_queued_together_is_computed_together() -> None:
    machine = Machine()
    async with batcher_of(machine, limit=3) as batcher:
        found = await _queued_behind(batcher, machine, [1, 2, 3, 4])
    assert machine.batches == [[0], [1, 2, 3], [4]]
    computed = _computed(found)
    assert [(one.result, one.timing.batch) for one in computed] == [(1, 3), (4, 3), (9, 3), (16, 1)]
    assert all(one.timing.queued > 0 for one in computed)


async def test_a_bad_item_fails_alone() -> None:
    machine = Machine()
    async with batcher_of(machine) as batcher:
        found = await _queued_behind(batcher, machine, [2, -1, 3])
        assert (await batcher.submit(5)).result == 25
    assert isinstance(found[1], ValueError)
    assert str(found[1]) == "negative: -1"
    assert [one.result for one in _computed([found[0], found[2]])] == [4, 9]
    assert machine.batches == [[0], [2, -1, 3], [2], [-1], [3], [5]]


async def test_a_cancelled_item_is_left_out() -> None:
    machine = Machine()
    async with batcher_of(machine) as batcher:
        machine.gate.clear()
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.01)
        second, third = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        await asyncio.sleep(0.01)
        first.cancel()
        second.cancel()
        machine.gate.set()
        assert (await third).result == 4
    assert machine.batches == [[0], [2]]


async def test_stopping_cancels_what_is_queued_or_computed() -> None:
    machine = Machine()
    async with batcher_of(machine) as batcher:
        machine.gate.clear()
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(3)]
        await asyncio.sleep(0.01)
        await batcher.stop()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_too_few_results_are_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [], limit=8, name="broken")
    batcher.start()
    with pytest.raises(RuntimeError, match="gave 0 results for a batch of 1"):
        await batcher.submit(1)
    await batcher.stop()
