"""What the text of a decode must conform to, from the Python type that is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from weft.graph.enforceable import refusal
from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex
from weft.graph.types import TEXT, Data, Type

from .errors import TraceError
from .location import located
from .pytypes import PyType, py_type, text_options

__all__ = ["Wanted", "wanted"]


@dataclass(frozen=True)
class Wanted:
    """What a decode is to give: the type in the graph, the type in Python, and what holds the model to it."""

    kind: Type
    pytype: PyType
    constraint: Constraint | None = None


def wanted(annotation: Any, regex: str | None, choices: Sequence[str] | None) -> Wanted:
    """What `gen(type=..., regex=..., choices=...)` asks for. Raises TraceError where they contradict."""
    if regex is not None and choices is not None:
        raise TraceError(located("gen() takes regex or choices, not both"))
    if annotation is not str and (regex is not None or choices is not None):
        given = "regex" if regex is not None else "choices"
        raise TraceError(located(f"gen() takes {given} with type=str only: the type is a constraint itself"))
    if regex is not None:
        return Wanted(TEXT, py_type(str), _regex(regex))
    if choices is not None:
        return _choices(choices)
    return Wanted(TEXT, py_type(str)) if annotation is str else _typed(annotation)


def _typed(annotation: Any) -> Wanted:
    if isinstance(annotation, dict):
        remedy = "a JSON Schema as Annotated[dict[str, Any], pydantic.WithJsonSchema(schema)]"
        raise TraceError(located(f"gen() takes a Python type, not a dict; write {remedy}"))
    pytype = py_type(annotation)
    options = text_options(annotation)
    if options is not None:
        return Wanted(TEXT, pytype, Choices(options))
    remedy = ""
    try:
        schema = pytype.schema("validation")
        reason = refusal(json.loads(schema), exact=True)
    except TypeError as problem:
        reason = str(problem)
        remedy = (
            "; use str, int, float, bool, a Literal, an Enum, a list, a dict, a dataclass, a TypedDict or a "
            "pydantic model"
        )
    if reason is not None:
        raise TraceError(located(f"gen() cannot make a {pytype.name}: {reason}{remedy}"))
    return Wanted(Data(schema), pytype, JsonSchema(schema))


def _regex(pattern: str) -> Regex:
    if not isinstance(pattern, str):
        raise TraceError(located(f"regex must be a text, not {pattern!r}"))
    try:
        re.compile(pattern)
    except re.error as problem:
        raise TraceError(located(f"regex {pattern!r} is not a regular expression: {problem}")) from None
    return Regex(pattern)


def _choices(options: Sequence[str]) -> Wanted:
    strings = check_choices(options)
    return Wanted(TEXT, py_type(Literal[strings]), Choices(strings))


def check_choices(options: Sequence[Any]) -> tuple[str, ...]:
    """The choices of `gen` or `select`: constant strings, not empty, each once. Raises TraceError."""
    if isinstance(options, str) or not all(_is_choice(option) for option in options):
        raise TraceError(located(f"choices must be a list of strings, not {options!r}"))
    texts = tuple(map(str.__str__, options))
    try:
        Choices(texts)
    except ValueError as problem:
        raise TraceError(located(str(problem))) from None
    if "" in texts:
        raise TraceError(located("a choice must not be empty"))
    return texts


def _is_choice(option: object) -> bool:
    """Whether it is a string, or a member of an enum of strings."""
    return type(option) is str or (isinstance(option, str) and isinstance(option, Enum))
