"""The form that an answer must have, as clients ask for it."""

from __future__ import annotations

import json
from typing import Any, Final

from weft.graph import schema as json_schema
from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex

from .bodies import ResponseFormat, StructuredOutputs
from .errors import ApiError

__all__ = ["form_of", "structure_of"]

_ANY_OBJECT: Final = JsonSchema('{"type": "object"}')


def form_of(form: ResponseFormat) -> Constraint | None:
    """What `response_format` asks for. Raises ApiError."""
    if form.type == "text":
        return None
    if form.type == "json_object":
        return _ANY_OBJECT
    if form.json_schema is None:
        param = "response_format.json_schema"
        raise ApiError(400, f"{param!r} is missing", param=param, code="missing_required_parameter")
    return _schema(form.json_schema.schema_, "response_format.json_schema.schema")


def structure_of(asked: StructuredOutputs) -> Constraint | None:
    """What `structured_outputs` asks for. Raises ApiError."""
    if len(asked.model_fields_set) > 1:
        message = f"pass one of {', '.join(type(asked).model_fields)}".replace("json_", "json")
        raise ApiError(400, f"'structured_outputs': {message}", param="structured_outputs")
    if asked.regex is not None:
        return Regex(asked.regex)
    if asked.choice is not None:
        try:
            return Choices(tuple(asked.choice))
        except ValueError as problem:
            param = "structured_outputs.choice"
            raise ApiError(400, f"{param!r}: {problem}", param=param) from None
    return None if asked.json_ is None else _schema(asked.json_, "structured_outputs.json")


def _schema(given: dict[str, Any] | str, param: str) -> JsonSchema:
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    try:
        json_schema.parse(text)
    except ValueError as problem:
        raise ApiError(400, f"{param!r}: {problem}", param=param) from None
    return JsonSchema(text)
