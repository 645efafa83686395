"""A closed world: entities with invented names, and the facts that relate them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from .schema import KINDS, NAMES, VALUES, Relation

__all__ = ["Entity", "Fact", "Value", "World"]

_NUMBERS: Final = {  # label -> the range of its values, and their unit
    "birth year": (1940, 1975, ""),
    "founding year": (1976, 2015, ""),
    "settlement year": (1700, 1850, ""),
    "launch year": (2000, 2024, ""),
    "weight": (2, 40, " kg"),
    "duration": (6, 48, " months"),
    "employees": (20, 4000, ""),
    "population": (3000, 90000, ""),
    "units sold": (100, 9000, ""),
    "price": (20, 900, " crowns"),
    "budget": (10_000, 400_000, " crowns"),
}


@dataclass(frozen=True, eq=False, slots=True)
class Entity:
    """A named thing. Facts about it live in the world, not here."""

    kind: str
    name: str
    noun: str
    """"the NOUN" refers back to it."""
    pronoun: str
    """it, she or he."""

    @property
    def ref(self) -> str:
        """How the name is written inside a sentence."""
        return f"the {self.name}" if self.kind in ("product", "thing") else self.name


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """What a relation maps an entity to."""

    text: str
    number: int | None = None
    entity: Entity | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Fact:
    """`subject` has `value` for `relation`."""

    subject: Entity
    relation: Relation
    value: Value


class World:
    """Entities and facts, drawn on demand from `rng`. Entities must be there before facts name them."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._roots: set[str] = set()
        self._facts: dict[tuple[Entity, str], Fact] = {}
        self.entities: dict[str, list[Entity]] = {kind: [] for kind in KINDS}

    def new_entity(self, kind: str) -> Entity:
        """Another entity of that kind, with a name that no other has."""
        rng = self._rng
        match kind:
            case "person":
                pronoun = "she" if rng.random() < 0.5 else "he"
                given = NAMES["women" if pronoun == "she" else "men"]
                first = rng.choice(given) if rng.random() < 0.1 else self._root(2)
                entity = Entity(kind, f"{first} {self._root()}", "", pronoun)
            case "company":
                name = self._root()
                if rng.random() < 0.3:
                    name = f"{name} {rng.choice(NAMES['company_suffixes'])}"
                entity = Entity(kind, name, "firm" if rng.random() < 0.5 else "company", "it")
            case "city":
                style = rng.random()
                name = self._root()
                if style < 0.25:
                    name = _word(rng, 1) + rng.choice(NAMES["city_endings"])
                elif style < 0.32:
                    name = f"{rng.choice(NAMES['city_prefixes'])} {name}"
                entity = Entity(kind, name, "city" if rng.random() < 0.5 else "town", "it")
            case "product":
                noun = rng.choice(NAMES["product_nouns"])
                entity = Entity(kind, f"{self._root()} {noun}", noun, "it")
            case "project":
                name = f"Project {self._root()}"
                entity = Entity(kind, name, "project" if rng.random() < 0.5 else "programme", "it")
            case _:
                raise ValueError(f"there is no kind {kind!r}; known: {', '.join(KINDS)}")
        self.entities[kind].append(entity)
        return entity

    def fact(self, subject: Entity, relation: Relation) -> Fact:
        """The fact for this subject and relation, drawn at first use."""
        key = (subject, relation.label)
        if key not in self._facts:
            self._facts[key] = Fact(subject, relation, self._draw(subject, relation))
        return self._facts[key]

    def _draw(self, subject: Entity, relation: Relation) -> Value:
        rng = self._rng
        if relation.label in _NUMBERS:
            low, high, unit = _NUMBERS[relation.label]
            number = rng.randint(low, high)
            return Value(f"{number}{unit}", number)
        match relation.value:
            case kind if kind in self.entities:
                return self._draw_entity(subject, relation)
            case "date":
                day, month = rng.randint(1, 28), rng.choice(VALUES["month"])
                return Value(f"{day} {month} {rng.randint(2021, 2027)}")
            case "province" | "river":
                return Value(self._root())
            case literal:
                return Value(rng.choice(VALUES[literal]))

    def _draw_entity(self, subject: Entity, relation: Relation) -> Value:
        """An entity, if possible one that no other subject has for this relation."""
        taken = {fact.value.entity for fact in self._facts.values() if fact.relation is relation}
        others = [entity for entity in self.entities[relation.value] if entity is not subject]
        entity = self._rng.choice([entity for entity in others if entity not in taken] or others)
        return Value(entity.name, entity=entity)

    def _root(self, syllables: int = 0) -> str:
        """A one-word name that differs from all others in its first three letters."""
        while True:
            root = _word(self._rng, syllables or self._rng.choice((2, 2, 3)))
            if 4 <= len(root) <= 8 and all(root[:3] != other[:3] for other in self._roots):
                self._roots.add(root)
                return root


def _word(rng: Random, syllables: int) -> str:
    """A pronounceable capitalized word."""
    parts = []
    for index in range(syllables):
        parts.append(rng.choice(NAMES["onsets"]))
        parts.append(rng.choice(NAMES["nuclei"]))
        if index % 2 == (syllables + 1) % 2:  # every other syllable may be closed: no long runs of consonants
            parts.append(rng.choice(NAMES["codas"]))
    return "".join(parts).capitalize()
