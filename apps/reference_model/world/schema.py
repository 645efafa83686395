"""What can be said in a world: kinds of entities, their relations, and the phrases for them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["ARITHMETIC", "KINDS", "NAMES", "VALUES", "Arithmetic", "Kind", "Relation"]


@dataclass(frozen=True, eq=False, slots=True)
class Relation:
    """One attribute that entities of a kind have; `phrases.toml` explains the templates."""

    kind: str
    """Of the subject."""
    label: str
    value: str
    """The kind of an entity, or a sort of literal such as `year`."""
    sentences: tuple[str, ...]
    clauses: tuple[str, ...]
    """Modifiers for an opening sentence."""
    questions: tuple[str, ...]
    query: str
    """A search for the value."""
    noun: str = ""
    """Of an entity's relation: "the NOUN of X" names the value."""
    reverse_questions: tuple[str, ...] = ()
    """Given the value, these ask for the subject."""
    bridges: tuple[str, ...] = ()
    """Noun phrases for the value."""


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """One sort of entity."""

    name: str
    introductions: tuple[str, ...]
    fillers: tuple[str, ...]
    """Sentences that state no fact."""
    relations: Mapping[str, Relation]


@dataclass(frozen=True, eq=False, slots=True)
class Arithmetic:
    """Questions that are answered by combining two numbers."""

    relation: Relation
    """Looked up for {a}."""
    other: Relation
    """Looked up for {b}; for a product, for {a} again."""
    operator: str
    questions: tuple[str, ...]
    swap: bool = False
    """{b} is the first operand."""


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _kind(name: str, table: dict[str, Any]) -> Kind:
    relations = {
        label: Relation(kind=name, label=label, **_tuples(fields))
        for label, fields in table["relations"].items()
    }
    return Kind(name, tuple(table["introductions"]), tuple(table["fillers"]), relations)


def _arithmetic(table: dict[str, Any]) -> Arithmetic:
    relations = KINDS[table["kind"]].relations
    return Arithmetic(
        relations[table["relation"]],
        relations[table["other"]],
        table["operator"],
        tuple(table["questions"]),
        table.get("swap", False),
    )


_PHRASES: Final = _read("phrases.toml")
_WORDS: Final = _read("words.toml")

KINDS: Final[dict[str, Kind]] = {
    name: _kind(name, table) for name, table in _PHRASES.items() if name != "arithmetic"
}
ARITHMETIC: Final = tuple(map(_arithmetic, _PHRASES["arithmetic"]))
NAMES: Final[dict[str, Any]] = _WORDS["names"]
VALUES: Final[dict[str, list[str]]] = _WORDS["values"]
"""The values of literals that are chosen from a list."""
