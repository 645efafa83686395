"""A corpus about one closed world, and questions about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Final

from weft import Document

from .passages import Passage, write_passage
from .questions import Question, exam
from .schema import KINDS, Relation
from .world import Entity, Fact, World

__all__ = ["Corpus", "Placed"]

_COUNTS: Final = {"company": 11, "person": 13, "city": 9, "product": 12, "project": 8}
_CONTINUED: Final = {"company": 2, "person": 1, "city": 1, "product": 2, "project": 1}
_TOPICS: Final = {
    "company": "companies",
    "person": "people",
    "city": "cities",
    "product": "products",
    "project": "projects",
}


@dataclass(frozen=True)
class Placed:
    """A passage, and where it stands: `companies.md#3` is the third paragraph of that document."""

    id: str
    passage: Passage


class Corpus:
    """Sixty passages about 53 entities, a document for each kind of them.

    Whoever is mentioned has a passage.

    `size` is how many times as much there is of everything.
    """

    def __init__(self, seed: int, *, size: int = 1) -> None:
        self._rng = rng = Random(seed)
        rng.random()  # in training it decided whether a world has further attributes; this one has none
        self._size = size
        self._world = World(rng)
        self._where: dict[tuple[Entity, str], tuple[str, ...]] = {}  # the passages needed for a fact
        self.passages: list[Placed] = []
        for kind, count in _COUNTS.items():
            for _ in range(count * size):
                self._world.new_entity(kind)
        for kind, count in _COUNTS.items():
            continued = set(rng.sample(range(count * size), _CONTINUED[kind] * size))
            for number, subject in enumerate(self._world.entities[kind]):
                self._write(subject, continued=number in continued)

    @property
    def facts(self) -> list[Fact]:
        """What the passages state, in their order."""
        return [fact for placed in self.passages for fact in placed.passage.facts]

    @property
    def subjects(self) -> list[Entity]:
        """What the passages are about, in their order."""
        return list(dict.fromkeys(placed.passage.subject for placed in self.passages))

    def about(self, subject: Entity) -> list[Placed]:
        """The passages about a subject: one, or one and what continues it."""
        return [placed for placed in self.passages if placed.passage.subject is subject]

    def documents(self) -> list[Document]:
        """A document for each topic, as markdown."""
        return [Document(f"{topic}.md", self._text(kind), f"{topic}.md") for kind, topic in _TOPICS.items()]

    @cached_property
    def questions(self) -> list[Question]:
        """Sixty questions (times `size`): by one look-up, by two, unanswerable, and by computing."""
        return exam(self, self._rng, self._size)

    def entities(self, kind: str) -> list[Entity]:
        """The entities of a kind."""
        return self._world.entities[kind]

    def fact(self, subject: Entity, relation: Relation) -> Fact:
        """A fact of the world, whether a passage states it or not."""
        return self._world.fact(subject, relation)

    def stated(self, subject: Entity, relation: Relation) -> Fact | None:
        """The fact, if a passage states it."""
        return self._world.fact(subject, relation) if (subject, relation.label) in self._where else None

    def sources(self, *facts: Fact) -> tuple[str, ...]:
        """The ids of the passages that have to be read for these facts."""
        needed = [id for fact in facts for id in self._where[fact.subject, fact.relation.label]]
        return tuple(dict.fromkeys(needed))

    # ---- passages

    def _write(self, subject: Entity, *, continued: bool) -> None:
        relations = list(KINDS[subject.kind].relations.values())
        self._rng.shuffle(relations)
        named = self._add(subject, relations[: self._rng.choice((3, 4, 4))], ())
        if continued:
            self._add(subject, relations[4 : 4 + self._rng.choice((2, 3))], (named,))

    def _add(self, subject: Entity, relations: list[Relation], before: tuple[str, ...]) -> str:
        facts = [self._world.fact(subject, relation) for relation in relations]
        fillers = max(1, 5 - len(facts))
        passage = write_passage(self._rng, subject, facts, continues=bool(before), fillers=fillers)
        number = sum(placed.passage.subject.kind == subject.kind for placed in self.passages) + 1
        id = f"{_TOPICS[subject.kind]}.md#{number}"
        self.passages.append(Placed(id, passage))
        for fact in facts:
            self._where[subject, fact.relation.label] = (*before, id)
        return id

    def _text(self, kind: str) -> str:
        texts = [placed.passage.text for placed in self.passages if placed.passage.subject.kind == kind]
        return "\n\n".join([f"# {_TOPICS[kind].capitalize()}", *texts]) + "\n"
