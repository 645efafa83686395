"""The values that retrieval passes around: documents, their chunks, and the passages that a search finds.

All three travel as plain JSON objects whose keys are the field names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Chunk", "Document", "JsonScalar", "Metadata", "Passage"]

JsonScalar = str | int | float | bool | None
Metadata = Mapping[str, JsonScalar]


@dataclass(frozen=True, slots=True)
class Document:
    """One text as it was given, before it is cut into chunks."""

    id: str
    text: str
    source: str = ""
    metadata: Metadata = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, object]:
        """The document as a JSON object."""
        return {"id": self.id, "text": self.text, "source": self.source, "metadata": dict(self.metadata)}

    @classmethod
    def from_json(cls, value: object) -> Document:
        """The document that `to_json` gave; `ValueError` names the field that is missing or wrong.

        `source` and `metadata` may be left out.
        """
        fields = _Fields("document", value, {"id", "text", "source", "metadata"})
        return cls(fields.name("id"), fields.text("text"), fields.text("source", ""), fields.metadata())


@dataclass(frozen=True, slots=True)
class Chunk:
    """One part of a document: what an index stores and finds."""

    id: str
    """`DOCUMENT#POSITION`, e.g. `companies.md#3`."""
    document: str
    """The id of the document."""
    text: str
    source: str
    position: int
    """Place among the chunks of its document, from 1."""
    metadata: Metadata = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, object]:
        """The chunk as a JSON object."""
        return {
            "id": self.id,
            "document": self.document,
            "text": self.text,
            "source": self.source,
            "position": self.position,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, value: object) -> Chunk:
        """The chunk that `to_json` gave; `ValueError` names the field that is missing or wrong."""
        fields = _Fields("chunk", value, {"id", "document", "text", "source", "position", "metadata"})
        return cls(
            id=fields.name("id"),
            document=fields.name("document"),
            text=fields.text("text"),
            source=fields.text("source", ""),
            position=fields.position(),
            metadata=fields.metadata(),
        )


@dataclass(frozen=True, slots=True)
class Passage:
    """One finding of a search."""

    id: str
    text: str
    score: float
    """Higher is better; comparable only within one ranking (its unit depends on who ranked)."""
    source: str = ""
    metadata: Metadata = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, object]:
        """The passage as programs see it: `id`, `text`, `score`, `source`, `metadata`."""
        return {
            "id": self.id,
            "text": self.text,
            "score": self.score,
            "source": self.source,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, value: object) -> Passage:
        """The passage that `to_json` gave; `ValueError` names the field that is missing or wrong."""
        fields = _Fields("passage", value, {"id", "text", "score", "source", "metadata"})
        return cls(
            id=fields.name("id"),
            text=fields.text("text"),
            score=fields.score(),
            source=fields.text("source", ""),
            metadata=fields.metadata(),
        )


class _Fields:
    """Checked access to the members of a JSON object; every error names the kind and the field."""

    def __init__(self, kind: str, value: object, known: set[str]) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"a {kind} must be a JSON object, not {_kind(value)}")
        unknown = sorted(str(key) for key in value if key not in known)
        if unknown:
            raise ValueError(f"{kind} has no field {unknown[0]!r} (fields: {', '.join(sorted(known))})")
        self._kind = kind
        self._value = value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; `default` stands in for one that is left out, `None` means it must be there."""
        if name not in self._value and default is not None:
            return default
        value = self._required(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        return value

    def name(self, name: str) -> str:
        """A string that is not empty."""
        value = self.text(name)
        if not value:
            raise ValueError(f"{self._kind}.{name} must not be empty")
        return value

    def score(self) -> float:
        """The finite number `score`."""
        value = self._required("score")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong("score", "a finite number", value)
        return float(value)

    def position(self) -> int:
        """The positive integer `position`."""
        value = self._required("position")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong("position", "an integer from 1", value)
        return value

    def metadata(self) -> dict[str, JsonScalar]:
        """The object `metadata`, whose values are scalars; empty if left out."""
        value = self._value.get("metadata", {})
        if not isinstance(value, Mapping):
            raise self._wrong("metadata", "an object", value)
        return {self._key(key): self._scalar(key, item) for key, item in value.items()}

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise ValueError(f"{self._kind}.metadata has the key {key!r}; keys must be strings")
        return key

    def _scalar(self, key: object, item: object) -> JsonScalar:
        if item is None or isinstance(item, str | int) or (isinstance(item, float) and math.isfinite(item)):
            return item
        raise self._wrong(f"metadata[{key!r}]", "a string, finite number, boolean or null", item)

    def _required(self, name: str) -> object:
        if name not in self._value:
            raise ValueError(f"{self._kind}.{name} is missing")
        return self._value[name]

    def _wrong(self, name: str, wanted: str, value: object) -> ValueError:
        return ValueError(f"{self._kind}.{name} must be {wanted}, not {_kind(value)}")


def _kind(value: object) -> str:
    if isinstance(value, bool | int | float) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"
