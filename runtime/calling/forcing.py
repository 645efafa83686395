"""The constraint under which a model calls a tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from weft.graph.sampling import JsonSchema

__all__ = ["one_call_of"]


def one_call_of(functions: Mapping[str, Mapping[str, Any]]) -> JsonSchema:
    """What forces one call, `{"name": "…", "arguments": {…}}`, from the schemas of arguments by name."""
    definitions: dict[str, Any] = {}
    calls = []
    for number, (name, parameters) in enumerate(functions.items()):
        place = f"tool{number}"
        definitions[place] = _moved(parameters, f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{place}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return JsonSchema(json.dumps({**schema, "$defs": definitions}, ensure_ascii=False))


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to its own root pointing to where it stands now."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: place + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for key, value in schema.items()
    }
