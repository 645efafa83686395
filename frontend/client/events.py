"""What happens in a run, as its client sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from weft.proto import orchestrator_pb2 as pb

__all__ = [
    "Event",
    "Interrupted",
    "NodeChanged",
    "NodePhase",
    "RunFinished",
    "RunStarted",
    "RunState",
    "TextAdded",
    "ToolCalled",
    "ValueKnown",
    "event_of",
]

NodePhase = Literal["queued", "started", "done", "failed", "cancelled"]
RunState = Literal["running", "waiting", "done", "failed", "cancelled"]


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


@dataclass(frozen=True, slots=True)
class TextAdded:
    """A model has written more of a text that is streamed."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class ValueKnown:
    """A value that an async program waits for is there."""

    at: float
    value: str  # %3, or %3.1


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool in this process was asked for."""

    at: float
    tool: str
    arguments: str  # JSON object


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run asks a person; `Run.resume` answers."""

    at: float
    node: int
    label: str
    value: Any  # what the person is to see, as JSON data
    type: str  # of the answer, as JSON Schema


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over."""

    at: float
    state: RunState
    seconds: float
    error: str  # empty if it is done


Event = RunStarted | NodeChanged | TextAdded | ValueKnown | ToolCalled | Interrupted | RunFinished


def event_of(message: pb.RunEvent) -> Event | None:
    """The event of a message; None for kinds that this version does not know."""
    at = message.at_s
    match message.WhichOneof("event"):
        case "started":
            return RunStarted(at, message.run, message.started.program)
        case "node":
            node = message.node
            phase = cast(NodePhase, node.phase)
            return NodeChanged(at, node.node, node.label, phase, node.worker, node.fault.message)
        case "delta":
            return TextAdded(at, message.delta.text)
        case "known":
            value = message.known.value
            return ValueKnown(at, f"%{value.node}.{value.output}" if value.output else f"%{value.node}")
        case "tool":
            return ToolCalled(at, message.tool.tool, message.tool.arguments)
        case "interrupted":
            asked = message.interrupted
            return Interrupted(at, asked.node, asked.label, json.loads(asked.value), asked.type)
        case "finished":
            info = message.finished.info
            error = message.finished.fault.message
            return RunFinished(at, cast(RunState, info.state), info.seconds, error)
        case _:
            return None
