"""What happens in a run, as its client sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Generic, Literal, cast

from typing_extensions import TypeVar  # with a default from Python 3.13

from weft.proto import orchestrator_pb2 as pb

__all__ = [
    "Emitted",
    "Event",
    "Interrupted",
    "NodeChanged",
    "NodePhase",
    "RunFinished",
    "RunStarted",
    "RunState",
    "TextAdded",
    "ToolEnded",
    "ToolStarted",
    "ValueKnown",
    "event_of",
]

NodePhase = Literal["queued", "started", "done", "failed", "cancelled"]
RunState = Literal["running", "waiting", "done", "failed", "cancelled"]

R = TypeVar("R", default=Any)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The server has accepted the run."""

    at: float  # seconds since the run began, as in all events
    run: str
    program: str


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A primitive has come into another phase."""

    at: float
    node: int  # in the server's numbering, which traces use too
    label: str
    phase: NodePhase
    worker: str
    error: str  # empty unless it failed
    op: str  # decode, tool, search, ...
    name: str  # that the program gives it


@dataclass(frozen=True, slots=True)
class TextAdded:
    """A model has written more: of the result, or of a text that has a name. Typed values are JSON."""

    at: float
    text: str
    node: int  # which writes the text; that of a `gen` in a `map` or a loop is another one each time
    name: str  # that the program gives it
    result: bool  # the program returns the text
    again: bool  # what came of this node before does not count: a worker was lost, and the text is another


@dataclass(frozen=True, slots=True)
class ValueKnown:
    """A value that an async program waits for is there."""

    at: float
    value: str  # %3, or %3.1


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool, of this process or of the server, has been given arguments."""

    at: float
    node: int
    tool: str
    arguments: dict[str, Any]  # as JSON data


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool has returned or failed; one that is tried again starts again."""

    at: float
    node: int
    tool: str
    result: Any  # as JSON data; None if it failed
    error: str  # empty unless it failed


@dataclass(frozen=True, slots=True)
class Emitted:
    """A tool or an async program of this process has called `emit`."""

    at: float
    value: Any


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run asks a person; `Run.resume` answers."""

    at: float
    node: int
    label: str
    value: Any  # what the person is to see, as JSON data
    type: str  # of the answer, as JSON Schema
    name: str  # that the program gives the question


@dataclass(frozen=True, slots=True)
class RunFinished(Generic[R]):
    """The run is over."""

    at: float
    state: RunState
    seconds: float
    error: str  # empty if it is done
    result: R | None = None  # what the program returns, if it is done


Event = (
    RunStarted
    | NodeChanged
    | TextAdded
    | ValueKnown
    | ToolStarted
    | ToolEnded
    | Emitted
    | Interrupted
    | RunFinished[R]
)


def event_of(message: pb.RunEvent) -> Event[Any] | None:
    """The event of a message; None for kinds that this version does not know, and for requests to clients.

    It has not the result of the program, which may have to be made of what the run gives.
    """
    at = message.at_s
    match message.WhichOneof("event"):
        case "started":
            return RunStarted(at, message.run, message.started.program)
        case "node":
            node = message.node
            phase = cast(NodePhase, node.phase)
            error = node.fault.message
            return NodeChanged(at, node.node, node.label, phase, node.worker, error, node.op, node.name)
        case "delta":
            delta = message.delta
            returned = delta.HasField("value")  # as a client asks for no other text
            return TextAdded(at, delta.text, delta.node, delta.name, returned, delta.again)
        case "known":
            value = message.known.value
            return ValueKnown(at, f"%{value.node}.{value.output}" if value.output else f"%{value.node}")
        case "tool_started":
            started = message.tool_started
            return ToolStarted(at, started.node, started.tool, json.loads(started.arguments))
        case "tool_ended":
            ended = message.tool_ended
            result = json.loads(ended.json) if ended.HasField("json") else None
            return ToolEnded(at, ended.node, ended.tool, result, ended.fault.message)
        case "interrupted":
            asked = message.interrupted
            return Interrupted(at, asked.node, asked.label, json.loads(asked.value), asked.type, asked.name)
        case "finished":
            info = message.finished.info
            error = message.finished.fault.message
            return RunFinished(at, cast(RunState, info.state), info.seconds, error)
        case _:
            return None
