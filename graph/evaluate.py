"""The operations that need no engine: the orchestrator computes them itself, in microseconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from . import schema
from .errors import EvaluationError, TooLargeError
from .merging import merge
from .ops.base import Op
from .ops.common import Const, Equals, Format, Forward, Gather, Order, Parse, Project
from .ops.optimized import Element, Merge, Slice
from .prompt import Slot
from .types import Text
from .values import EFFECT, Datum, Json, TextValue, plain, render, strip

__all__ = ["EvaluationError", "evaluate", "lift"]

_SHOWN = 200  # characters of a text that an error quotes
_ITEM = 32  # characters that an item of a list or an object counts for, besides its texts


def lift(value: Any) -> Datum:
    """JSON data as a value at run time: strings are texts."""
    return TextValue(value) if isinstance(value, str) else Json(value)


def evaluate(op: Op, args: Mapping[str, Datum], most: float = math.inf) -> tuple[Datum, ...]:
    """The results of a `host` operation. Raises EvaluationError.

    TooLargeError: it would make a text, a list or an object of more than `most` characters. What is gathered
    counts written out, because a value that takes another one twice doubles it, and lists of lists are cheap
    only until somebody writes them.
    """
    match op:
        case Const():
            return (lift(json.loads(op.value)),)
        case Format():
            return (TextValue(_text(op, args, most)),)
        case Project():
            return (lift(_project(plain(args["value"]), op.key, op.default)),)
        case Gather():
            return (_gather(op, args, most),)
        case Parse():
            return (_parse(op, args["text"]),)
        case Equals():
            return (Json(plain(args["a"]) == plain(args["b"])),)
        case Order():
            return (EFFECT,)
        case Forward():
            return (_forward(op, args["value"]),)
        case Element():
            return (lift(_element(op, plain(args["text"]))),)
        case Slice():
            return (Json(_items(plain(args["value"]))[op.start : op.stop]),)
        case Merge():
            return merge(op, args)
        case _:
            raise TypeError(f"{op.label()} is not an operation of the orchestrator")


def _text(op: Format, args: Mapping[str, Datum], most: float) -> str:
    parts: list[str] = []
    for part in op.parts:
        parts.append(_part(part, args))
        most -= len(parts[-1])
        if most < 0:
            raise TooLargeError
    return "".join(parts)


def _part(part: str | Slot, args: Mapping[str, Datum]) -> str:
    return part if isinstance(part, str) else strip(render(args[part.name]), part.strip)


def _project(value: Any, key: str | int, default: str | None = None) -> Any:
    if isinstance(key, int):
        if not isinstance(value, list):
            raise EvaluationError(f"there is no item {key} in {_quote(value)}: it is not a list")
        if not -len(value) <= key < len(value):
            raise EvaluationError(f"there is no item {key} in a list of {len(value)}")
        return value[key]
    if default is not None and isinstance(value, dict) and key not in value:
        return json.loads(default)
    if not isinstance(value, dict) or key not in value:
        raise EvaluationError(f"there is no field {key!r} in {_quote(value)}")
    return value[key]


def _element(op: Element, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise EvaluationError(f"the model's text is not JSON ({problem}): {_quote(text)}") from None
    for depth, key in enumerate(op.path, 1):
        value = _project(value, key, op.default if depth == len(op.path) else None)
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise EvaluationError(f"a list is needed, not {_quote(value)}")
    return value


def _gather(op: Gather, args: Mapping[str, Datum], most: float) -> Datum:
    gathered: Any
    if op.form == "object":
        gathered = {name: plain(value) for name, value in args.items()}
    else:
        gathered = [plain(args[str(index)]) for index in range(len(args))]
    _expect_small(gathered, most)
    return Json(gathered)


def _expect_small(value: Any, most: float) -> None:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            most -= len(item)
        elif isinstance(item, (list, dict)):
            most -= _ITEM * len(item)
            left += item.values() if isinstance(item, dict) else item
        if most < 0:
            raise TooLargeError


def _parse(op: Parse, text: Datum) -> Datum:
    written = plain(text)
    try:
        value = json.loads(written)
        schema.check(value, op.type.schema, "the value")
    except ValueError as problem:
        raise EvaluationError(
            f"the model's text does not give a value of the declared type ({problem}): {_quote(written)}"
        ) from None
    return lift(value)


def _forward(op: Forward, value: Datum) -> Datum:
    if isinstance(op.type, Text) and not isinstance(value, TextValue):
        raise EvaluationError(f"expected a text, got {_quote(plain(value))}")
    return value


def _quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
