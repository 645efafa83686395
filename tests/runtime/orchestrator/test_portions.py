"""Folds and maps of many items, through a whole server: others have their turn while they begin."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode
from weft.graph.types import STRINGS

from .test_guessing import asked, refine, writing
from .test_invoke import ASK, request

ITEMS = 1000
BODY = Graph((Node(0, Input("item")), Node(1, ASK.op, {"q": Value(0)})), (Value(1),))
MAPPED = Graph(
    (Node(0, Input("xs", STRINGS)), Node(1, Map(BODY, concurrency=ITEMS), {"items": Value(0)})), (Value(1),)
)


def mapped(items: int = ITEMS) -> Any:
    return request(MAPPED, xs=[str(number) for number in range(items)])


async def sizes(stage: Any, call: asyncio.Future[Any], enough: int) -> list[int]:
    """How many nodes the only run has grown by in each turn of the loop, until it has so many."""
    grown, before = [], 0
    while before < enough:
        await asyncio.sleep(0)
        assert not call.done()
        for run in stage.server.orchestrator.shell.runs.values():
            grown.append(run.record.nodes - before)
            before = run.record.nodes
    return grown


async def test_a_map_all_of_whose_bodies_may_run_begins_a_portion_in_a_turn(stage: Any) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    call = asyncio.ensure_future(stage.stub.Invoke(mapped()))
    grown = await sizes(stage, call, 3 * ITEMS)
    assert max(grown) <= 3 * 192 + 3, "an item, its prompt and what is written"
    worker.gate.set()
    result = await call
    assert json.loads(result.outputs[0].json) == [f"<Q: {number}>" for number in range(ITEMS)]


async def test_a_run_may_end_before_all_of_it_has_begun(stage: Any) -> None:
    call = asyncio.ensure_future(stage.stub.Invoke(mapped()))
    await sizes(stage, call, ITEMS)
    orchestrator = stage.server.orchestrator
    (run,) = orchestrator.shell.runs.values()
    assert run.later
    orchestrator.cancel(run.id, "enough")
    assert (await call).info.state == "cancelled"
    assert run.record.nodes < 3 * ITEMS


@pytest.mark.parametrize("overrides", [{"passes_off": ["guess"]}])
async def test_of_a_fold_no_more_is_there_than_is_ahead(stage: Any, until: Any) -> None:
    worker = stage.workers["w1"]
    worker.text, worker.gated = refine, {Decode}
    call = asyncio.ensure_future(stage.stub.Invoke(asked("x" * ITEMS)))
    await until(lambda: writing(worker) > 0)
    (run,) = stage.server.orchestrator.shell.runs.values()
    await until(lambda: not run.later)
    assert len(run.pending) <= 128 * 3 + 2
    worker.gate.set()
    result = await call
    assert (result.info.state, result.outputs[0].text.text) == ("done", "x")
    assert writing(worker) == ITEMS
