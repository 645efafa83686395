"""A program that cannot make up its mind: whatever it withdraws, what it awaits in the end it gets."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from weft.graph.codec import decode_value
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import STRINGS, TEXT, Type
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2

from ..test_run_stream import Conversation, finish
from .withdrawals import LISTED, extend

STEPS = 40
FAILING = [f"fail{number}" for number in range(STEPS)]


def written(read: str) -> str:
    """What a model writes after a prompt: a list if that is asked for."""
    return '["a", "b", "c"]' if read.startswith("list") else f"<{read}>"


class Wavering:
    """Asks for things, withdraws them and asks again, as `choose` has it; some tools fail once withdrawn."""

    def __init__(self, talk: Conversation, choose: random.Random) -> None:
        self.talk = talk
        self.choose = choose
        self.types: dict[Value, Type] = {}
        self.wanted: set[Value] = set()
        self.known: set[Value] = set()
        self.calls: list[pb.ToolCall] = []
        self.doomed: set[Value] = set()  # what such a tool would give
        self.withdrawn: set[Value] = set()
        self.failed: set[Value] = set()

    async def begin(self, start: pb.Start) -> None:
        """Start the run."""
        await self.talk.say(pb.RunRequest(start=start))
        self.listening = asyncio.create_task(self.listen())

    async def listen(self) -> None:
        """Take in what comes, until the run is over."""
        async for event in self.talk.events():
            if event.HasField("known"):
                self.known.add(decode_value(event.known.value))
            elif event.HasField("tool"):
                self.calls.append(event.tool)

    async def step(self) -> None:
        """Something happens."""
        steps = (self.grow, self.want, self.withdraw, self.withdraw, self.answer)
        await self.choose.choice(steps)()

    async def grow(self) -> None:
        node = self.node(len(self.types))
        outside = {value: self.types[value] for value in node.args.values()}
        self.types[Value(node.id)] = STRINGS if self.is_list(node) else TEXT
        if isinstance(node.op, Tool) and node.op.tool in FAILING:
            self.doomed.add(Value(node.id))
        await self.talk.say(extend(node, outside=outside))

    def node(self, number: int) -> Node:
        """Few prompts, so that much is equal."""
        choose = self.choose
        lists = [value for value, kind in self.types.items() if kind == STRINGS]
        texts = [value for value, kind in self.types.items() if kind == TEXT and value not in self.doomed]
        kind = choose.choice(("text", "text", "list", "map", "note", "look", "fail"))
        args = {"x": choose.choice(texts)} if texts and choose.random() < 0.6 else {}
        if kind == "list":
            return Node(
                number, Generate((Message("raw", (f"list {number % 2}",)),), STRINGS, constraint=LISTED)
            )
        if kind == "map" and lists:
            item = choose.choice((("a text",), ("of ", Slot("x"))))
            write = Node(1, Generate((Message("raw", item),)), {"x": Value(0)} if len(item) > 1 else {})
            call = Node(1, Tool("note", TEXT), {"x": Value(0)})
            body = Graph((Node(0, Input("item", TEXT)), choose.choice((write, write, call))), (Value(1),))
            return Node(number, Map(body, choose.choice((0, 1))), {"items": choose.choice(lists)})
        if kind in ("note", "look", "fail"):
            name = FAILING[number] if kind == "fail" else kind
            return Node(number, Tool(name, TEXT, pure=kind == "look"), args)
        slots = [Slot(name) for name in args]
        text = Generate((Message("raw", ("a text", *slots)),), cache=choose.random() < 0.3)
        return Node(number, text, args)

    def is_list(self, node: Node) -> bool:
        return isinstance(node.op, Map) or (isinstance(node.op, Generate) and node.op.type == STRINGS)

    async def want(self) -> None:
        there = sorted(self.types.keys() - self.failed)
        await self.ask(self.choose.sample(there, min(len(there), 2)))

    async def ask(self, values: list[Value]) -> None:
        self.wanted.update(values)
        self.withdrawn.difference_update(values)
        await self.talk.say(extend(wanted=[value.node for value in values]))

    async def withdraw(self) -> None:
        if self.wanted:
            value = self.choose.choice(sorted(self.wanted))
            self.wanted.discard(value)
            self.withdrawn.add(value)
            await self.talk.say(extend(withdrawn=[value.node]))

    async def answer(self) -> None:
        if self.calls:
            call = self.calls.pop(self.choose.randrange(len(self.calls)))
            answer = pb.ToolAnswer(node=call.node, attempt=call.attempt, json=json.dumps(call.arguments))
            value = Value(FAILING.index(call.tool)) if call.tool in FAILING else None
            if value in self.withdrawn:
                answer.fault.CopyFrom(value_pb2.Fault(code="tool_failed", message="broke"))
                self.failed.add(value)
            await self.talk.say(pb.RunRequest(tool=answer))

    async def end(self) -> pb.RunResult:
        """Await everything but what fails, return, and answer what is asked meanwhile; the outcome."""
        lasting = self.types.keys() - self.doomed
        await self.ask(sorted(lasting))
        while not self.known >= lasting:
            await self.answer()
            await asyncio.sleep(0.002)
        await self.talk.say(finish("done"))
        while not self.listening.done():
            await self.answer()
            await asyncio.sleep(0.002)
        return self.talk.seen[-1].finished


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("seed", range(12))
async def test_what_is_awaited_in_the_end_is_there(stage: Any, seed: int, together: int) -> None:
    """Alone, and in a batch, of which one computes what others wait for."""
    worker, choose = stage.workers["w1"], random.Random(seed)
    worker.gated, worker.text = {Decode}, written
    submit = pb.SubmitRequest(batch="b" if together > 1 else "")
    start = pb.Start(submit=submit, grows=True, tools=["note", "look", *FAILING])
    programs = [Wavering(Conversation(stage.stub), choose) for _ in range(together)]
    for program in programs:
        await program.begin(start)
    for _ in range(STEPS):
        for program in programs:
            await program.step()
        if choose.random() < 0.2:
            worker.gate.set()
        await asyncio.sleep(choose.choice((0, 0, 0.002)))
        worker.gate.clear()
    worker.gate.set()
    for outcome in await asyncio.gather(*(program.end() for program in programs)):
        assert outcome.info.state == "done", outcome.fault
    assert not stage.server.orchestrator.results._flights
