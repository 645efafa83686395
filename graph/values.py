"""Values at run time, and their textual form in prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .prompt import Strip
from .types import Data, Effect, Kv, Text, Type, Vectors

__all__ = [
    "EFFECT",
    "Datum",
    "EffectValue",
    "Json",
    "KvValue",
    "Segment",
    "TextValue",
    "VectorsValue",
    "fits",
    "plain",
    "render",
    "strip",
]


@dataclass(frozen=True, slots=True)
class TextValue:
    """A text. If a model wrote it, `ids` are the tokens it sampled for the first `covered` characters."""

    text: str
    ids: tuple[int, ...] = ()
    tokenizer: str = ""  # fingerprint of the tokenizer that the ids belong to
    covered: int = 0


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value as Python's json module gives it."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class VectorsValue:
    """Embeddings: float32 [texts, dimension]."""

    array: NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorsValue) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash(self.array.tobytes())


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of what a model has read: the ids, where the text has them, else the text in its context."""

    text: TextValue
    trusted: bool = False
    strip: Strip = ""


@dataclass(frozen=True, slots=True)
class KvValue:
    """What a model has read so far; `segments` says it in full, for a worker that does not hold `key`."""

    key: str
    segments: tuple[Segment, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class EffectValue:
    """That an effect has happened."""


EFFECT: Final = EffectValue()

Datum = TextValue | Json | VectorsValue | KvValue | EffectValue

_KINDS: Final[dict[type[Type], tuple[type, ...]]] = {
    Text: (TextValue,),
    Data: (Json, TextValue, VectorsValue),
    Vectors: (VectorsValue,),
    Kv: (KvValue,),
    Effect: (EffectValue,),
}


def fits(datum: Datum, kind: Type) -> bool:
    """Whether a value of this representation can stand where `kind` was promised."""
    return isinstance(datum, _KINDS[type(kind)])


def plain(datum: Datum) -> Any:
    """The value as JSON data: texts as strings, vectors as lists of numbers."""
    match datum:
        case TextValue():
            return datum.text
        case Json():
            return datum.value
        case VectorsValue():
            return datum.array.tolist()
        case _:
            raise TypeError(f"a {type(datum).__name__} is not data")


def render(datum: Datum) -> str:
    """How a value reads in a prompt.

    Texts as they are; numbers, booleans and null as JSON; passages as ``[1] text`` lines; other lists one
    item a line; objects as JSON.
    """
    return _render(plain(datum))


def strip(text: str, edges: Strip) -> str:
    """The text without white space at the `edges`, or as the string of a JSON text has it."""
    match edges:
        case "escaped":
            return json.dumps(text, ensure_ascii=False)[1:-1]
        case "left":
            return text.lstrip()
        case "right":
            return text.rstrip()
        case "both":
            return text.strip()
        case _:
            return text


def _render(value: Any) -> str:
    match value:
        case str():
            return value
        case list() if value and all(_is_passage(item) for item in value):
            return "\n".join(f"[{number}] {item['text']}" for number, item in enumerate(value, 1))
        case list():
            return "\n".join(_render(item) for item in value)
        case dict() if _is_passage(value):
            return str(value["text"])
        case _:
            return json.dumps(value, ensure_ascii=False)


def _is_passage(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text"), str) and {"id", "score"} <= value.keys()
