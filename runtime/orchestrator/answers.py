"""What clients' tools and people answer, checked against what was promised."""

from __future__ import annotations

import json
from typing import Any

from weft.graph import schema
from weft.graph.ops.common import Tool
from weft.graph.types import Data, Type
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.scheduler.faults import Fault

__all__ = ["bad_result", "persons_answer", "tool_result"]


def persons_answer(text: str, kind: Type) -> Any:
    """The answer that a JSON text says. Raises ValueError if it cannot be sent, or is of another type."""
    try:
        value = schema.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the answer holds half of a surrogate pair, which is no text") from None
    except ValueError as problem:
        raise ValueError(f"the answer is not JSON: {problem}") from None
    _check_type(value, kind, "the answer")
    return value


def tool_result(op: Tool, answer: pb.ToolAnswer) -> Any:
    """What the tool returned. Raises ValueError if it is not what the tool promises, or if it raised."""
    if answer.WhichOneof("outcome") != "json":
        raise ValueError("the answer has no result")
    value = json.loads(answer.json)
    _check_type(value, op.result, "the result")
    return value


def _check_type(value: Any, kind: Type, what: str) -> None:
    """Raise ValueError unless the JSON data is of the type."""
    if isinstance(kind, Data):
        schema.check(value, kind.schema, what)
    elif not isinstance(value, str):
        raise ValueError(f"{what} must be a text, not {json.dumps(value)[:80]}")


def bad_result(op: Tool, problem: Exception) -> Fault:
    """That a tool did not keep its promise."""
    return Fault("tool_failed", f"tool {op.tool!r} returned what it does not promise: {problem}")
