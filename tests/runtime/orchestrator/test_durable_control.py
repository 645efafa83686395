"""Maps, loops and lists of a run that outlives the server go on where they were."""

from __future__ import annotations

import asyncio
import json

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Format, Input, Interrupt, Search, Tool
from weft.graph.ops.control import Loop, Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import BOOLEAN, INTEGER, TEXT, Data

from .conftest import EchoWorker, Servers
from .restarts import ran, raw, submit, waits, worker
from .test_interrupt import outcome, resume

ITEM = Graph(
    (
        Node(0, Input(Map.ITEM, TEXT)),
        Node(1, Tool("send", TEXT, where="server"), {"text": Value(0)}),
        Node(2, Interrupt(TEXT), {"value": Value(1)}),
        Node(3, Format((Slot("a"), "; ", Slot("b"))), {"a": Value(1), "b": Value(2)}),
    ),
    (Value(3),),
    "item",
)
TEXTS = Data('{"items":{"type":"string"},"type":"array"}')
MAPPED = (
    Node(0, Input("q")),
    Node(1, Input("items", TEXTS, '["a", "a", "b"]')),
    Node(2, Map(ITEM), {"items": Value(1)}),
)


async def test_bodies_of_a_map_go_on_each_with_its_own(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, MAPPED)
    while len(asked := (await waits(stage, run)).waiting) < 3:
        await asyncio.sleep(0.005)
    assert ran(first, Tool) == 3
    await resume(stage, run, "second", node=asked[1].node)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    while len(asked := (await waits(stage, run)).waiting) < 2:
        await asyncio.sleep(0.005)
    await resume(stage, run, "first", node=asked[0].node)
    await resume(stage, run, "third")
    result = await outcome(stage, run)
    assert json.loads(result.outputs[0].json) == ["send(a); first", "send(a); second", "send(b); third"]
    assert not second.nodes()


LISTED = (
    Node(0, Input("q")),
    Node(
        1,
        Generate(raw("List ", Slot("q")), type=TEXTS, constraint=JsonSchema(TEXTS.schema)),
        {"q": Value(0)},
    ),
    Node(
        2,
        Map(
            Graph(
                (
                    Node(0, Input(Map.ITEM, TEXT)),
                    Node(1, Const("1", INTEGER)),
                    Node(2, Search("handbook"), {"query": Value(0), "k": Value(1)}),
                    Node(3, Tool("send", TEXT, "server"), {"about": Value(2), "text": Value(0)}),
                    Node(4, Interrupt(TEXT), {"value": Value(3)}),
                    Node(5, Format((Slot("a"), "; ", Slot("b"))), {"a": Value(3), "b": Value(4)}),
                ),
                (Value(5),),
                "item",
            )
        ),
        {"items": Value(1)},
    ),
)
"""What is done with an item is worth beginning before the list is complete."""


async def write(worker: EchoWorker, run: str, text: str) -> None:
    """Let the one decode that a worker has write, and not end."""
    while not ran(worker, Decode):
        await asyncio.sleep(0.005)
    tasks = [task for fragment in worker.fragments() for task in fragment.tasks]
    (decode,) = [t for t, node in zip(tasks, worker.nodes(), strict=True) if isinstance(node.op, Decode)]
    await worker.write(run, decode, text)


async def test_items_that_a_model_was_still_writing_are_not_sent_twice(servers: Servers) -> None:
    """Life one stops when two items of a list have closed, and the tools have been called for both."""
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Decode}
    run = await submit(stage, LISTED)
    await write(first, run, '["a", "b", ')
    while len((await waits(stage, run)).waiting) < 2:
        await asyncio.sleep(0.005)
    assert ran(first, Tool) == 2
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    second.text = lambda read: '["a", "b", "c"]'
    while len(asked := (await waits(stage, run)).waiting) < 3:
        await asyncio.sleep(0.005)
    for question in asked:
        await resume(stage, run, "yes", node=question.node)
    result = await outcome(stage, run)
    assert json.loads(result.outputs[0].json) == [f"send([1] from handbook, {item}); yes" for item in "abc"]
    assert (ran(second, Decode), ran(second, Tool)) == (1, 1)


async def test_items_that_come_otherwise_the_second_time_end_the_run(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Decode}
    run = await submit(stage, LISTED)
    await write(first, run, '["a", "b", ')
    await waits(stage, run)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    second.text = lambda read: '["z"]'
    assert "the server ended after it had begun this tool" in (await outcome(stage, run)).fault.message
    assert not ran(second, Tool)


TURN = Graph(
    (
        Node(0, Input(Loop.STATE, TEXT)),
        Node(1, Const('"again"')),
        Node(2, Tool("send", TEXT, where="server"), {"text": Value(1)}),
        Node(3, Interrupt(BOOLEAN), {"value": Value(2)}),
        Node(4, Format((Slot("a"), Slot("b"))), {"a": Value(0), "b": Value(2)}),
    ),
    (Value(4), Value(3)),
    "turn",
)


async def test_turns_of_a_loop_are_told_apart(servers: Servers) -> None:
    nodes = (Node(0, Input("q")), Node(1, Loop(TURN, 5), {"state": Value(0)}))
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, nodes)
    await waits(stage, run)
    await resume(stage, run, False)
    await waits(stage, run)
    assert ran(first, Tool) == 2
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    await waits(stage, run)
    assert not second.nodes()
    await resume(stage, run, False)
    await waits(stage, run)
    await resume(stage, run, True)
    assert (await outcome(stage, run)).outputs[0].text.text == "x" + 3 * "send(again)"
    assert ran(second, Tool) == 1
