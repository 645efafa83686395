"""Questions about a corpus, with their answers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, Literal

from .passages import noun_forms
from .schema import ARITHMETIC, KINDS, Arithmetic, Relation
from .world import Entity, Fact

if TYPE_CHECKING:
    from .corpus import Corpus

__all__ = ["NOT_FOUND", "Kind", "Question", "ask", "exam"]

NOT_FOUND: Final = "not found"
"""The answer to what no passage says."""
_OPERATORS: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}

Kind = Literal["single", "two_hop", "absent", "arithmetic"]

_ASKED: Final[dict[Kind, int]] = {"single": 20, "two_hop": 15, "absent": 10, "arithmetic": 15}
_VARIED: Final = 9  # so many two-hop questions differ in their first relation, or in what it leads to


@dataclass(frozen=True)
class Question:
    """A question about a corpus, with the right answer and the passages that hold it."""

    id: str
    kind: Kind
    text: str
    answer: str
    passages: tuple[str, ...]  # ids as in an index: companies.md#3


def ask(rng: Random, relation: Relation, subject: Entity) -> str:
    """A question for the relation of a subject."""
    return rng.choice(relation.questions).format_map(noun_forms(subject.ref))


def exam(corpus: Corpus, rng: Random, size: int) -> list[Question]:
    """The questions about a corpus, `size` times as many as the smallest has."""
    examiner = _Examiner(corpus, rng, size)
    examiner.single()
    examiner.two_hops()
    examiner.absent()
    examiner.arithmetic()
    return examiner.asked


class _Examiner:
    def __init__(self, corpus: Corpus, rng: Random, size: int) -> None:
        self._corpus = corpus
        self._rng = rng
        self._counts = {kind: count * size for kind, count in _ASKED.items()}
        self.asked: list[Question] = []

    def single(self) -> None:
        for fact in self._rng.sample(self._corpus.facts, self._counts["single"]):
            self._add("single", ask(self._rng, fact.relation, fact.subject), fact.value.text, fact)

    def two_hops(self) -> None:
        """Questions for the second relation of what the first leads to; a phrase stands for its name."""
        chains = self._chains()
        self._rng.shuffle(chains)
        used: set[tuple[Relation, str]] = set()
        for first, second in chains:
            shape = (first.relation, second.relation.kind)
            if shape in used and len(used) < _VARIED:
                continue
            used.add(shape)
            phrase = self._rng.choice(first.relation.bridges).format(n=first.subject.ref)
            options = [
                text for text in second.relation.questions if "{p}" not in text
            ]  # clumsy with a phrase
            text = self._rng.choice(options).format_map(noun_forms(phrase))
            self._add("two_hop", text, second.value.text, first, second)
            if not self._lack("two_hop"):
                break

    def absent(self) -> None:
        """Questions about subjects of passages that state other things of them."""
        subjects = [placed.passage.subject for placed in self._corpus.passages]
        while self._lack("absent"):
            subject = self._rng.choice(subjects)
            relations = KINDS[subject.kind].relations.values()
            missing = [relation for relation in relations if not self._corpus.stated(subject, relation)]
            if missing and all(subject.name not in question.text for question in self.asked[-10:]):
                self._add("absent", ask(self._rng, self._rng.choice(missing), subject), NOT_FOUND)

    def arithmetic(self) -> None:
        while self._lack("arithmetic"):
            pattern = self._rng.choice(ARITHMETIC)
            entities = self._corpus.entities(pattern.relation.kind)
            a, b = (
                self._rng.sample(entities, 2) if pattern.operator != "*" else [self._rng.choice(entities)] * 2
            )
            facts = self._corpus.stated(a, pattern.relation), self._corpus.stated(b, pattern.other)
            if facts[0] is None or facts[1] is None:
                continue
            answer = _computed(pattern, facts[0], facts[1])
            if answer is None:
                continue
            text = self._rng.choice(pattern.questions).format(a=a.ref, b=b.ref)
            if all(question.text != text for question in self.asked):
                self._add("arithmetic", text, str(answer), facts[0], facts[1])

    def _chains(self) -> list[tuple[Fact, Fact]]:
        """Two facts, the second about what the first leads to."""
        facts = self._corpus.facts
        return [
            (first, second)
            for first in facts
            if first.value.entity is not None
            for second in facts
            if second.subject is first.value.entity and second.value.entity is not first.subject
        ]

    def _lack(self, kind: Kind) -> bool:
        return sum(question.kind == kind for question in self.asked) < self._counts[kind]

    def _add(self, kind: Kind, text: str, answer: str, *facts: Fact) -> None:
        id = f"q{len(self.asked) + 1:02d}"
        self.asked.append(Question(id, kind, text, answer, self._corpus.sources(*facts)))


def _computed(pattern: Arithmetic, a: Fact, b: Fact) -> int | None:
    """The answer; None for a difference that is not positive."""
    left, right = (b, a) if pattern.swap else (a, b)
    assert left.value.number is not None
    assert right.value.number is not None
    result = _OPERATORS[pattern.operator](left.value.number, right.value.number)
    return None if pattern.operator == "-" and result <= 0 else result
