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

from .test_run_stream import Conversation, finish
from .test_withdrawing import LISTED, extend


def written(read: str) -> str:
    """What a model writes after a prompt: a list if that is asked for."""
    return '["a", "b", "c"]' if read.startswith("list") else f"<{read}>"


class Wavering:
    """Asks for things, withdraws them and asks again, as `choose` has it."""

    def __init__(self, talk: Conversation, choose: random.Random) -> None:
        self.talk = talk
        self.choose = choose
        self.types: dict[Value, Type] = {}
        self.wanted: set[Value] = set()
        self.known: set[Value] = set()
        self.calls: list[pb.ToolCall] = []

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
        await self.talk.say(extend(node, outside=outside))

    def node(self, number: int) -> Node:
        """Few prompts, so that much is equal."""
        choose = self.choose
        lists = [value for value, kind in self.types.items() if kind == STRINGS]
        texts = [value for value, kind in self.types.items() if kind == TEXT]
        kind = choose.choice(("text", "text", "list", "map", "note", "look"))
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
        if kind in ("note", "look"):
            return Node(number, Tool(kind, TEXT, pure=kind == "look"), args)
        slots = [Slot(name) for name in args]
        return Node(number, Generate((Message("raw", ("a text", *slots)),)), args)

    def is_list(self, node: Node) -> bool:
        return isinstance(node.op, Map) or (isinstance(node.op, Generate) and node.op.type == STRINGS)

    async def want(self) -> None:
        await self.ask(self.choose.sample(sorted(self.types), min(len(self.types), 2)))

    async def ask(self, values: list[Value]) -> None:
        self.wanted.update(values)
        await self.talk.say(extend(wanted=[value.node for value in values]))

    async def withdraw(self) -> None:
        if self.wanted:
            value = self.choose.choice(sorted(self.wanted))
            self.wanted.discard(value)
            await self.talk.say(extend(withdrawn=[value.node]))

    async def answer(self) -> None:
        if self.calls:
            call = self.calls.pop(self.choose.randrange(len(self.calls)))
            answer = pb.ToolAnswer(node=call.node, attempt=call.attempt, json=json.dumps(call.arguments))
            await self.talk.say(pb.RunRequest(tool=answer))


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_awaited_in_the_end_is_there(stage: Any, until: Any, seed: int) -> None:
    worker, choose = stage.workers["w1"], random.Random(seed)
    worker.gated, worker.text = {Decode}, written
    talk = Conversation(stage.stub)
    start = pb.Start(submit=pb.SubmitRequest(), grows=True, tools=["note", "look"])
    await talk.say(pb.RunRequest(start=start))
    program = Wavering(talk, choose)
    listening = asyncio.create_task(program.listen())
    for _ in range(40):
        await program.step()
        if choose.random() < 0.2:
            worker.gate.set()
        await asyncio.sleep(choose.choice((0, 0, 0.002)))
        worker.gate.clear()
    worker.gate.set()
    await program.ask(sorted(program.types))
    while not program.known >= program.types.keys():
        await program.answer()
        await asyncio.sleep(0.002)
    await talk.say(finish("done"))
    while not listening.done():
        await program.answer()
        await asyncio.sleep(0.002)
    assert talk.seen[-1].finished.info.state == "done"
