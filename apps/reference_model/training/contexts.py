"""Contexts: passages about one world, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Literal

from ..world.schema import Relation
from ..world.world import Entity, Fact
from .passages import Text, write
from .worlds import THING, GrowingWorld

__all__ = ["Context", "Length", "build", "count_of_facts"]

Length = Literal["usual", "short", "long"]
"""Of passages: short ones state one fact, long ones have it among many sentences that state none."""


class Context:
    """Passages with their numbers for citations, and what they state.

    Of a fact that two of them state differently, the later one counts.
    """

    def __init__(self, world: GrowingWorld, texts: Sequence[Text], numbers: Sequence[int] = ()) -> None:
        self.world = world
        self.texts = list(texts)
        self.numbers = list(numbers) or list(range(1, len(texts) + 1))
        self._stated: dict[tuple[Entity, str], tuple[Fact, int]] = {}
        for index, text in enumerate(texts):
            for fact in text.facts:
                self._stated[fact.subject, fact.relation.label] = fact, index
        self.facts = [fact for fact, _ in self._stated.values()]
        self.subjects = list(dict.fromkeys(text.subject for text in texts if text.facts))

    def index(self, fact: Fact) -> int:
        """The place of the passage that states it."""
        return self._stated[fact.subject, fact.relation.label][1]

    def number(self, fact: Fact) -> int:
        """The number by which the passage that states it is cited."""
        return self.numbers[self.index(fact)]

    def text(self, fact: Fact) -> Text:
        """The passage that states it."""
        return self.texts[self.index(fact)]

    def states(self, subject: Entity, label: str) -> bool:
        """Whether some passage states this attribute of the subject."""
        return (subject, label) in self._stated

    def unstated(self, subject: Entity) -> list[Relation]:
        """The attributes of the subject that no passage states."""
        return [r for r in self.world.relations(subject.kind) if not self.states(subject, r.label)]

    def numbered(self, separator: str = "\n") -> str:
        """The passages with their numbers; those of one number are one passage of several lines."""
        lines: list[str] = []
        last = None
        for number, text in zip(self.numbers, self.texts, strict=True):
            lines.append(text.text if number == last else f"[{number}] {text.text}")
            last = number
        return separator.join(lines)

    def two_hops(self) -> list[tuple[Fact, Fact]]:
        """Facts of two passages, the second about what the first leads to."""
        by_subject: dict[Entity, list[Fact]] = {}
        for fact in self.facts:
            by_subject.setdefault(fact.subject, []).append(fact)
        return [
            (first, second)
            for first in self.facts
            if first.value.entity is not None
            for second in by_subject.get(first.value.entity, ())
            if self.number(second) != self.number(first)
        ]


def count_of_facts(rng: Random) -> int:
    """How many facts a passage states."""
    return rng.choice((1, 2, 3, 3, 4, 4, 5))


def build(
    rng: Random,
    passages: int,
    *,
    anaphora: float = 0.25,
    chain: float = 0.5,
    open_rate: float = 0.35,
    focus: float = 0.3,
    length: Length = "usual",
    joined: float = 0.0,
) -> Context:
    """A world, and so many passages about it.

    `anaphora` is how often a passage is followed by one that continues it without naming the subject,
    `chain` how often a new subject is an entity that another passage mentions, as two-hop questions need it,
    `focus` how often the context keeps to few kinds and attributes, as what a search finds does: its
    passages are easily confused. In a share of the contexts, some are `joined` to the one before them, under
    one number, as pages of a search that show more than one paragraph.
    """
    return _Builder(rng, anaphora, chain, open_rate, focus, length).context(passages, joined)


class _Builder:
    def __init__(
        self,
        rng: Random,
        anaphora: float,
        chain: float,
        open_rate: float,
        focus: float,
        length: Length,
    ) -> None:
        self._rng = rng
        self._anaphora = anaphora
        self._chain = chain
        self._length = length
        self._world = GrowingWorld(rng, open_rate=open_rate)
        self._focused = rng.random() < focus
        self._kinds = [kind for kind in self._world.entities if kind != THING.name]
        if self._focused:
            self._world.link_rate = 0.75
            self._kinds = rng.sample(self._kinds, rng.randint(1, 3))
        self._preferred: dict[str, list[Relation]] = {}
        self._stated: dict[Entity, set[str]] = {}
        self._mentioned: list[Entity] = []
        self._groups: list[list[Text]] = []  # passages that must stay side by side, in their order
        self._written = 0

    def context(self, passages: int, joined: float) -> Context:
        rng = self._rng
        while self._written < passages:
            subject = self._subject()
            if subject is None:
                continue
            group = [self._write(subject)]
            self._groups.append(group)
            if self._written < passages and rng.random() < self._anaphora:
                self._continue(group, subject)
        rng.shuffle(self._groups)
        ordered = [text for group in self._groups for text in group]
        numbers = rng.sample(range(1, 100), len(ordered)) if rng.random() < 0.08 else []
        if joined and rng.random() < joined:
            numbers = list(accumulate((rng.random() < 0.5 for _ in ordered[1:]), initial=1))
        return Context(self._world, ordered, numbers)

    def _subject(self) -> Entity | None:
        rng = self._rng
        fresh = [entity for entity in self._mentioned if entity not in self._stated]
        if fresh and rng.random() < self._chain:
            return rng.choice(fresh)
        if self._stated and rng.random() < 0.08:  # a second passage that names its subject
            subject = rng.choice(list(self._stated))
            return subject if len(self._unstated(subject)) > 1 else None
        thing = self._world.open and rng.random() < 0.3
        return self._world.new_entity(THING.name if thing else rng.choice(self._kinds))

    def _continue(self, group: list[Text], subject: Entity) -> None:
        rng = self._rng
        roles = [
            (fact.relation.noun, fact.value.entity)
            for fact in group[0].facts
            if fact.relation.value == "person" and subject.kind != "person"
            if fact.value.entity is not None and fact.value.entity not in self._stated
        ]
        if roles and rng.random() < 0.4:
            role, person = rng.choice(roles)
            group.append(self._write(person, group[0], role))
        elif self._unstated(subject):
            group.append(self._write(subject, group[0]))

    def _unstated(self, subject: Entity) -> list[Relation]:
        done = self._stated.get(subject, ())
        relations: Sequence[Relation] = self._world.relations(subject.kind)
        if self._focused:
            if subject.kind not in self._preferred:
                self._preferred[subject.kind] = self._rng.sample(relations, min(4, len(relations)))
            relations = self._preferred[subject.kind]
        return [relation for relation in relations if relation.label not in done]

    def _write(self, subject: Entity, antecedent: Text | None = None, role: str = "") -> Text:
        rng = self._rng
        options = self._unstated(subject)
        wanted = {"usual": count_of_facts(rng), "short": 1, "long": rng.randint(1, 2)}[self._length]
        count = min(wanted, len(options))
        facts = [self._world.fact(subject, relation) for relation in rng.sample(options, count)]
        self._stated.setdefault(subject, set()).update(fact.relation.label for fact in facts)
        self._mentioned += [fact.value.entity for fact in facts if fact.value.entity is not None]
        other = None
        if rng.random() < 0.08:
            same = [entity for entity in self._world.entities[subject.kind] if entity is not subject]
            other = rng.choice(same) if same else None
        self._written += 1
        return write(
            rng,
            subject,
            facts,
            form="name" if antecedent is None else "role" if role else "generic",
            antecedent=antecedent,
            role=role,
            other=other,
            fillers={"usual": None, "short": rng.randint(0, 1), "long": rng.randint(6, 12)}[self._length],
        )
