"""What is checked before a run starts, so that callers' mistakes are told at once and cost nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import grpc

from weft.graph import schema
from weft.graph.codec import decode_graph, from_json
from weft.graph.deployment import every_node
from weft.graph.errors import GraphError
from weft.graph.evaluate import lift
from weft.graph.ir import Graph, Node
from weft.graph.ops.common import Embed, Input
from weft.graph.types import Text
from weft.graph.values import Datum
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.scheduler.faults import Fault

from .fleet import Fleet

__all__ = [
    "DoorError",
    "check_names",
    "in_full",
    "invalid",
    "not_begun",
    "program_text",
    "read_graph",
    "read_inputs",
    "unwritten",
]


_CODES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
}


class DoorError(Exception):
    """A request is refused: the gRPC status, and a message that names the mistake and the remedy."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def fault(self) -> Fault:
        """What it is to a run that has begun."""
        return Fault(_CODES[self.status], str(self))

    @classmethod
    def not_found(cls, message: str) -> Self:
        """What the request names does not exist."""
        return cls(grpc.StatusCode.NOT_FOUND, message)


def read_graph(
    request: pb.SubmitRequest | pb.ExplainRequest, programs: Mapping[str, Path], max_characters: int
) -> Graph:
    """The graph that a request gives or names. Raises DoorError."""
    source = request.WhichOneof("source")
    try:
        match source:
            case "graph":
                return decode_graph(request.graph)
            case "graph_json":
                return from_json(request.graph_json, max_characters=max_characters)
            case "program":
                text = program_text(request.program, programs)
                return from_json(text, max_characters=max_characters)
            case _:
                raise invalid("a request must give a graph, graph_json or the name of a program")
    except GraphError as problem:
        raise invalid(str(problem)) from None


def program_text(name: str, programs: Mapping[str, Path]) -> str:
    """The JSON text of a program that the settings register. Raises DoorError."""
    if name not in programs:
        known = ", ".join(sorted(map(repr, programs))) or "none"
        raise DoorError.not_found(f"unknown program {name!r}; known: {known}")
    try:
        return programs[name].read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DoorError.not_found(
            f"the graph of program {name!r} cannot be read ({problem}); see `programs` in the settings"
        ) from None


def in_full(request: pb.SubmitRequest, programs: Mapping[str, Path]) -> pb.SubmitRequest:
    """The request with the graph of a program that it names, which may be another one tomorrow.

    Raises DoorError.
    """
    if request.WhichOneof("source") != "program":
        return request
    full = pb.SubmitRequest()
    full.CopyFrom(request)
    full.graph_json = program_text(request.program, programs)
    return full


def read_inputs(graph: Graph, given: Mapping[str, str]) -> dict[str, Datum]:
    """The values of the graph's inputs, from JSON texts and defaults. Raises DoorError."""
    inputs = {node.op.name: node for node in graph if isinstance(node.op, Input)}
    unknown = sorted(set(given) - set(inputs))
    if unknown:
        known = ", ".join(sorted(map(repr, inputs))) or "none"
        raise invalid(f"there is no input {unknown[0]!r}; known: {known}")
    return {name: _read_input(node, given.get(name)) for name, node in inputs.items()}


def _read_input(node: Node, text: str | None) -> Datum:
    op = node.op
    assert isinstance(op, Input)
    text = op.default if text is None else text
    if text is None:
        raise invalid(f"{node.where()}: input {op.name!r} ({op.type}) is missing and has no default")
    try:
        value = schema.loads(text)
        if "\\u" in text:  # an escape: what is no text comes in no other way
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise invalid(f"input {op.name!r} is nested too deeply") from None
    except UnicodeEncodeError:
        raise invalid(f"input {op.name!r} holds half of a surrogate pair, which is no text") from None
    except json.JSONDecodeError as problem:
        hint = "; a text stands in quotes" if isinstance(op.type, Text) else ""
        raise invalid(f"input {op.name!r} is not JSON{hint}: {problem}") from None
    except ValueError as problem:
        raise invalid(f"input {op.name!r}: {problem}") from None
    try:
        _check_input(op, value)
    except ValueError as problem:
        raise invalid(str(problem)) from None
    return lift(value)


def _check_input(op: Input, value: Any) -> None:
    if isinstance(op.type, Text):
        if not isinstance(value, str):
            shown = json.dumps(value)[:80]
            raise ValueError(f"input {op.name!r} must be a text, that is a JSON string, not {shown}")
        return
    schema.check(value, getattr(op.type, "schema", schema.ANY), f"input {op.name!r}")


def check_names(graph: Graph, fleet: Fleet, client_tools: Collection[str], indexes: Collection[str]) -> None:
    """Refuse a graph that needs what is neither the server's, nor the client's, nor made by the run itself.

    `indexes`: those that the run fills. Raises DoorError.
    """
    for node in every_node(graph):
        if node.op.dialect == "primitive" and node.op.kind != "host":
            raise invalid(
                f"{node.where()}: {node.op.label()} is made by the server; write it as generate, select, "
                "ingest or search"
            )
    missing = fleet.missing(graph)
    if missing:
        node, kind = missing
        remedy = f"start one with `weft worker --kind {kind} --connect ADDRESS`"
        if kind == "tool":
            remedy += (
                ", which reads `tools` and `programs` of its configuration, or let a @tool of the program do "
                "the work"
            )
        message = f"{node.where()}: no worker offers {kind!r}; {remedy}"
        raise DoorError(grpc.StatusCode.UNAVAILABLE, message)
    for node in every_node(graph):
        if isinstance(node.op, Embed) and node.op.model and node.op.model not in fleet.embedders:
            known = ", ".join(map(repr, fleet.embedders))
            raise invalid(f"{node.where()}: unknown embedder {node.op.model!r}; known: {known}")
    try:
        deployment = fleet.deployment
        replace(deployment, indexes=deployment.indexes.union(indexes)).check(graph, client_tools)
    except GraphError as problem:
        raise invalid(str(problem)) from None


def invalid(message: str) -> DoorError:
    """A request that cannot be served as it is."""
    return DoorError(grpc.StatusCode.INVALID_ARGUMENT, message)


def unwritten(message: str) -> DoorError:
    """Something is not in the journal that should be; once its disk takes writes again, it can be."""
    return DoorError(grpc.StatusCode.UNAVAILABLE, message)


def not_begun(problem: Exception) -> DoorError:
    """A run cannot be kept over a restart, so that it is not accepted."""
    return unwritten(f"the run was not begun: {problem}")
