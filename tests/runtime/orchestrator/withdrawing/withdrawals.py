"""What tests of withdrawals have in common: growing runs, and what is said in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from weft.graph.codec import encode_graph, encode_value
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Input, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import TEXT, Type
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2

from ..test_run_stream import Conversation, ask

NOTE, SAY = Tool("note", TEXT), Generate((Message("raw", ("Q: ", Slot("q"))),))
_MARKERS = count(100)
LISTED = JsonSchema('{"type": "array", "items": {"type": "string"}}')


def extend(
    *nodes: Node,
    wanted: Iterable[int] = (),
    withdrawn: Iterable[int] = (),
    outside: dict[Value, Type] | None = None,
) -> pb.RunRequest:
    """New nodes, and what of the program's values it waits for from now on, or no longer."""
    increment = pb.Extend(
        increment=encode_graph(Graph(nodes, (), outside=outside or {})),
        wanted=[encode_value(Value(number)) for number in wanted],
        withdrawn=[encode_value(Value(number)) for number in withdrawn],
    )
    return pb.RunRequest(extend=increment)


CACHED = Node(0, Generate((Message("raw", ("hello",)),), cache=True))


async def growing(stage: Any, batch: str = "", tools: Sequence[str] = ()) -> Conversation:
    """A growing run, of a batch perhaps, that may call these tools here."""
    talk = Conversation(stage.stub)
    submit = pb.SubmitRequest(batch=batch)
    await talk.say(pb.RunRequest(start=pb.Start(submit=submit, grows=True, tools=tools)))
    return talk


def noting(number: int, operand: int | None = None) -> Node:
    args = {} if operand is None else {"x": Value(operand)}
    return Node(number, NOTE, args, "noting", "app.py:7")


def each(number: int, listed: int, op: Tool, concurrency: int) -> Node:
    """This for every item of a list."""
    inside = Graph((Node(0, Input("item", TEXT)), Node(1, op, {"x": Value(0)})), (Value(1),))
    return Node(number, Map(inside, concurrency), {"items": Value(listed)}, "each", "app.py:9")


async def answer(talk: Conversation, call: pb.ToolCall) -> None:
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=call.attempt, json='"noted"')))


async def refuse(talk: Conversation, call: pb.ToolCall) -> None:
    fault = value_pb2.Fault(code="tool_failed", message="no")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=call.attempt, fault=fault)))


async def withdraw(talk: Conversation, number: int) -> None:
    """Wait for a value no longer; done when the orchestrator has seen that."""
    marker = next(_MARKERS)
    await talk.say(extend(Node(marker, Const("1")), wanted=[marker], withdrawn=[number]))
    while (await talk.next("known")).value.node != marker:
        pass


def cancels(worker: Any) -> list[int]:
    """The decodes that a worker was told to stop."""
    written = set(decodes(worker))
    return [node for command in worker.commands for node in command.cancel.nodes if node in written]


def decodes(worker: Any) -> list[int]:
    """The decodes that a worker was given."""
    return [node.id for node in worker.nodes() if isinstance(node.op, Decode)]


async def give_up(talk: Conversation, worker: Any, until: Any) -> None:
    """Ask for a text, 0, wait for it no longer while it is written, and let its worker write what follows."""
    await talk.say(extend(ask(0), wanted=[0]))
    await until(lambda: decodes(worker))
    await withdraw(talk, 0)
    await until(lambda: cancels(worker) == decodes(worker))
    worker.gate.set()
