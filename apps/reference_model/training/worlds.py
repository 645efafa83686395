"""The worlds of the training data: with more sorts of names, values and attributes than those of the demo.

They grow: facts draw their values when first asked for, and the entities that they need.
"""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from random import Random
from typing import Any, Final

from ..world.schema import KINDS, NAMES, VALUES, Kind, Relation
from ..world.world import Entity, Value, World

__all__ = ["OPEN", "THING", "GrowingWorld", "kind_of", "query"]

OPEN: Final[dict[str, Any]] = tomllib.loads(
    (Path(__file__).parent / "open.toml").read_text(encoding="utf-8"),
)
THING: Final = Kind("thing", tuple(OPEN["thing"]["introductions"]), tuple(OPEN["thing"]["fillers"]), {})
"""A sixth kind of entity, with attributes of any name only."""
_PHRASES: Final = OPEN["phrases"]
_RICH: Final = OPEN["names"]


def kind_of(subject: Entity) -> Kind:
    """The phrases and relations of its kind."""
    return THING if subject.kind == THING.name else KINDS[subject.kind]


def query(relation: Relation, name: str) -> str:
    """A search for the value of a relation."""
    return relation.query.format(n=name)


class GrowingWorld(World):
    """Entities and facts, drawn on demand.

    Every third world has attributes of any name beside the fixed ones, unless `open_rate` says otherwise.
    `link_rate` is how often the value of a relation is an entity that is already there.
    """

    def __init__(self, rng: Random, *, link_rate: float = 0.4, open_rate: float = 0.35) -> None:
        super().__init__(rng)
        self.entities[THING.name] = []
        self.link_rate = link_rate
        self.open = rng.random() < open_rate
        self._relations: dict[str, tuple[Relation, ...]] = {}
        self._taken: set[tuple[Relation, Entity]] = set()

    def any_kind(self) -> str:
        """The kind of a random new subject."""
        if self.open and self._rng.random() < 0.3:
            return THING.name
        return self._rng.choice(_KIND_NAMES)

    def relations(self, kind: str) -> tuple[Relation, ...]:
        """The attributes that entities of this kind have in this world."""
        found = self._relations.get(kind)
        if found is None:
            found = self._relations[kind] = _FIXED[kind] + self._open_relations(kind)
        return found

    def new_entity(self, kind: str) -> Entity:
        """Another entity of that kind, with a name that no other has."""
        if kind != THING.name:
            return super().new_entity(kind)
        noun = self._rng.choice(OPEN["thing"]["nouns"])
        entity = Entity(kind, f"{self._root()} {noun.capitalize()}", noun, "it")
        self.entities[kind].append(entity)
        return entity

    def word(self) -> str:
        """A name that nothing else has."""
        return self._root()

    def other_value(self, relation: Relation, avoid: str) -> Value:
        """A fresh value of the right sort that differs from `avoid`."""
        while True:
            if relation.value in self.entities:
                entity = self.new_entity(relation.value)
                return Value(entity.name, entity=entity)
            value = self._literal(relation.value)
            if value.text != avoid:
                return value

    # ---- values

    def _draw(self, subject: Entity, relation: Relation) -> Value:
        if relation.value in self.entities:
            return self._draw_entity(subject, relation)
        return self._literal(relation.value)

    def _draw_entity(self, subject: Entity, relation: Relation) -> Value:
        """A new entity, or one that no other subject has for this relation, so that it names its subject."""
        known = self.entities[relation.value]
        if known and self._rng.random() < self.link_rate:
            entity = self._rng.choice(known)
            if entity is not subject and (relation, entity) not in self._taken:
                self._taken.add((relation, entity))
                return Value(entity.name, entity=entity)
        entity = self.new_entity(relation.value)
        self._taken.add((relation, entity))
        return Value(entity.name, entity=entity)

    def _literal(self, sort: str) -> Value:
        rng = self._rng
        match sort:
            case "year":
                number = rng.randint(1700, 2049)
                return Value(str(number), number)
            case "count":
                number = _number(rng, 2, 6)
                return Value(str(number), number)
            case "price" | "money":
                number = _number(rng, 2, 4) if sort == "price" else _number(rng, 4, 6)
                return Value(f"{number} crowns", number)
            case "weight":
                number = rng.randint(2, 99)
                return Value(f"{number} kg", number)
            case "months":
                number = rng.randint(3, 96)
                return Value(f"{number} months", number)
            case "date":
                return Value(f"{rng.randint(1, 28)} {rng.choice(VALUES['month'])} {rng.randint(1900, 2049)}")
            case "province" | "river":
                return Value(self._root())
            case "phrase":
                return Value(self._phrase())
            case literal if literal in VALUES:
                return Value(rng.choice(VALUES[literal]))
            case unit:
                return _amount(rng, unit.removeprefix("amount:"))

    def _phrase(self) -> str:
        draw = self._rng.random()
        if draw < 0.3:
            return self._root()
        tail = self._rng.choice(OPEN["values"]["tails"])
        return str(tail) if draw < 0.5 else f"{self._rng.choice(OPEN['values']['heads'])} {tail}"

    # ---- attributes of any name

    def _open_relations(self, kind: str) -> tuple[Relation, ...]:
        if not self.open:
            return ()
        fixed = {relation.label for relation in _FIXED[kind]}
        drawn: dict[str, Relation] = {}
        while len(drawn) < (7 if kind == THING.name else 4):
            relation = _open_relation(self._rng, kind)
            if relation.label not in fixed:
                drawn[relation.label] = relation
        return tuple(drawn.values())

    # ---- names

    def _root(self, syllables: int = 0) -> str:
        """A one-word name: most plain, some rich, a few compounds or odd strings of letters."""
        rng = self._rng
        while True:
            style = rng.random()
            if style < 0.08:
                root = rng.choice(_RICH["heads"]) + rng.choice(_RICH["tails"])
            elif style < 0.11:
                root = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 6))).capitalize()
            else:
                count = syllables or (2 if rng.random() < 0.65 else 3)
                root = _word(rng, count, _RICH if style < 0.36 else NAMES)
            if len(root) > 2 and root not in self._roots:
                self._roots.add(root)
                return str(root)


_KIND_NAMES: Final = tuple(KINDS)
_FIXED: Final = {
    **{name: tuple(kind.relations.values()) for name, kind in KINDS.items()},
    THING.name: (),
}


def _word(rng: Random, syllables: int, parts: dict[str, Any]) -> str:
    """A pronounceable capitalized word."""
    choice = rng.choice
    word = ""
    for index in range(syllables):
        word += str(choice(parts["onsets"]) + choice(parts["nuclei"]))
        if index % 2 == (syllables + 1) % 2:  # every other syllable may be closed: no long runs of consonants
            word += str(choice(parts["codas"]))
    return word.capitalize()


def _number(rng: Random, low_digits: int, high_digits: int) -> int:
    """A number with a random count of digits; round numbers are common."""
    digits = rng.randint(low_digits, high_digits)
    number = rng.randrange(10 ** (digits - 1), 10**digits)
    if digits > 2 and rng.random() < 0.5:
        step = 10 ** (digits - 2)
        number = number // step * step
    return number


def _amount(rng: Random, unit: str) -> Value:
    """A number with its unit; now and then with a decimal or a comma for thousands."""
    after = unit if unit == "%" else f" {unit}"
    draw = rng.random()
    if draw < 0.15:
        return Value(f"{rng.randint(1, 99)}.{rng.randint(1, 9)}{after}")
    number = rng.randint(1, 99) if unit == "%" else max(2, _number(rng, 1, 5))
    if draw < 0.3 and number > 999:
        return Value(f"{number:,}{after}")
    return Value(f"{number}{after}", number)


def _open_relation(rng: Random, kind: str) -> Relation:
    """An attribute with a name such as "former treasurer" or "annual fee"."""
    words = OPEN["attributes"]
    sort = rng.choices(("person", "city", "company", "amount", "phrase", "day"), _SORT_WEIGHTS)[0]
    label = rng.choice(words[sort])
    value = sort
    if sort == "amount":
        label, _, unit = label.partition(":")
        value = f"amount:{unit}"
    elif sort == "day":
        value = "year" if "year" in label else "date"
    if rng.random() < 0.4:
        label = f"{rng.choice(words['qualifiers'])} {label}"
    is_entity = value in KINDS
    return Relation(
        kind,
        label,
        value,
        sentences=_labelled("sentences", label),
        clauses=_labelled("clauses", label),
        questions=_labelled("person_questions" if value == "person" else "questions", label),
        query=_PHRASES["query"].replace("{label}", label),
        noun=label if is_entity else "",
        bridges=_labelled("bridges", label) if is_entity else (),
    )


_SORT_WEIGHTS: Final = (25, 12, 10, 23, 15, 15)


def _labelled(phrases: str, label: str) -> tuple[str, ...]:
    return tuple(template.replace("{label}", label) for template in _PHRASES[phrases])
