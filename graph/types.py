"""The types of values that flow along the edges of a graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from . import schema as json_schema

__all__ = [
    "BOOLEAN",
    "INTEGER",
    "JSON",
    "NUMBER",
    "PASSAGES",
    "STRINGS",
    "TEXT",
    "TOKENS",
    "VECTORS",
    "Data",
    "Effect",
    "Kv",
    "Text",
    "Type",
    "Vectors",
    "list_type",
]


@dataclass(frozen=True, slots=True)
class Text:
    """A string. What a model wrote carries the token ids that it sampled."""

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True, slots=True)
class Data:
    """A JSON value that conforms to `schema` (canonical JSON text of a JSON Schema)."""

    schema: str = json_schema.ANY

    def __str__(self) -> str:
        shape = json.loads(self.schema)
        return str(shape.get("title") or shape.get("type") or "data").lower()


@dataclass(frozen=True, slots=True)
class Kv:
    """What `model` has read so far: an immutable sequence of tokens, whose keys and values workers cache."""

    model: str

    def __str__(self) -> str:
        return "kv"


@dataclass(frozen=True, slots=True)
class Vectors:
    """A float32 matrix [texts, dimension] of L2-normalized embeddings."""

    def __str__(self) -> str:
        return "vectors"


@dataclass(frozen=True, slots=True)
class Effect:
    """No data, only order: whoever takes it runs after the effect on `resource` that produced it."""

    resource: str

    def __str__(self) -> str:
        return f"effect[{self.resource}]"


Type = Text | Data | Kv | Vectors | Effect

TEXT: Final = Text()
VECTORS: Final = Vectors()
JSON: Final = Data()
BOOLEAN: Final = Data('{"type":"boolean"}')
INTEGER: Final = Data('{"type":"integer"}')
NUMBER: Final = Data('{"type":"number"}')
STRINGS: Final = Data('{"items":{"type":"string"},"type":"array"}')
PASSAGES: Final = Data(
    json_schema.canonical(
        {
            "type": "array",
            "title": "passages",
            "items": {
                "type": "object",
                "title": "passage",
                "properties": {
                    "id": {"type": "string"},
                    "text": {"type": "string"},
                    "score": {"type": "number"},
                    "source": {"type": "string"},
                    "metadata": {"type": "object"},
                },
                "required": ["id", "text"],
            },
        }
    )
)
TOKENS: Final = Data(
    json_schema.canonical(
        {
            "type": "array",
            "title": "tokens",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "text": {"type": "string"},
                    "bytes": {"type": "array", "items": {"type": "integer"}},
                    "logprob": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "top": {"type": "array"},
                },
            },
        }
    )
)
"""Tokens with natural-log probabilities; null for the first of a prompt. `top`: the likeliest there."""


def list_type(item: Type) -> Data:
    """The type of a list of `item`s."""
    match item:
        case Text():
            return STRINGS
        case Data(schema):
            return Data(json_schema.list_of(schema))
        case _:
            return Data(json_schema.list_of(json_schema.ANY))
