"""What a workload is, the world that it asks about, and the steps that many of them have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, Final

from weft.apps.instructions import ANSWER, BRIEF, COMBINE, REFINE
from weft.apps.reference_model.world import Corpus, Question
from weft.apps.reference_model.world.passages import Passage
from weft.apps.reference_model.world.questions import ask as worded

from .language import Ask, Plan

__all__ = [
    "Case",
    "Numbered",
    "Paper",
    "Sizes",
    "Workload",
    "World",
    "brief",
    "cited",
    "combined",
    "from_passages",
    "refined",
]

Paper = str
"""The paper that a workload is from: Teola, Parrot, SGLang or Helium."""


@dataclass(frozen=True)
class Case:
    """The inputs of one run, and the right result where the reference model knows the task."""

    inputs: Mapping[str, Any]
    answer: Any = None


@dataclass(frozen=True)
class Sizes:
    """How many times as large as the reference model's sizes something is."""

    passages: int = 1
    """Of each passage of a prompt that shows some; those of an index stay as long as they are."""
    texts: int = 1
    found: int = 1
    """Results of each search."""

    def __str__(self) -> str:
        return f"passages x {self.passages}, texts x {self.texts}, results of a search x {self.found}"


@dataclass(frozen=True)
class Workload:
    """A plan, and what it is run with."""

    name: str
    paper: Paper
    shape: str
    """What calls what, in one line."""
    plan: Plan
    cases: Callable[[World, int], list[Case]]
    """So many cases of a world, each different."""
    papers: Sizes = Sizes()
    """The sizes that the paper has."""


@dataclass(frozen=True)
class Numbered:
    """A question, the passages that a prompt shows (the last may continue the one before), and the answer."""

    question: str
    passages: tuple[str, ...]
    answer: str
    place: int
    """Of the passage that holds the answer, from 1."""

    @property
    def text(self) -> str:
        """The passages as a prompt shows them."""
        return "\n".join(f"[{number}] {text}" for number, text in enumerate(self.passages, 1))

    @property
    def cited(self) -> str:
        """The answer as the model is taught to give it."""
        return f"{self.answer} [{self.place}]"


_SIZE: Final = 2  # of the corpus: 120 passages


class World:
    """A world made from a seed, and what can be asked about it."""

    def __init__(self, seed: int, length: int = 1) -> None:
        """`length`: passages in each passage of `opening`, for prompts as long as the papers' are."""
        self.corpus = Corpus(seed, size=_SIZE)
        self._seed = seed
        self._length = length

    def longer(self, times: int) -> World:
        """The same world with passages of so many times as many."""
        return World(self._seed, self._length * times)

    def rng(self, name: str) -> Random:
        """Chance for one workload, independent of which others are run."""
        return Random(f"{self._seed} {name}")

    @cached_property
    def single(self) -> Sequence[Question]:
        """Questions that one passage answers."""
        return [question for question in self.corpus.questions if question.kind == "single"]

    def look_ups(self, rng: Random, count: int) -> list[tuple[str, str]]:
        """So many different questions that one passage answers, those of `single` first, and the answers."""
        first = rng.sample(self.single, min(count, len(self.single)))
        found = {question.text: question.answer for question in first}
        for fact in rng.sample(self.corpus.facts, len(self.corpus.facts)):
            if len(found) < count:
                found.setdefault(worded(rng, fact.relation, fact.subject), fact.value.text)
        return list(found.items())

    @cached_property
    def _passages(self) -> list[Passage]:
        return [placed.passage for placed in self.corpus.passages if not placed.passage.continues]

    @cached_property
    def opening(self) -> list[Passage]:
        """The passages that name what they are about, so that each can be read alone."""
        found, rng, more = self._passages, self.rng("length"), self._length - 1
        return [
            replace(passage, text=" ".join([passage.text, *(p.text for p in rng.choices(found, k=more))]))
            for passage in found
        ]

    def document(self, rng: Random, parts: int) -> list[str]:
        """The parts of a text; those that are longer than a passage go on differently in each text."""
        passages = [passage.text for passage in rng.sample(self._passages, parts)]
        more = self._length - 1
        return [
            " ".join([first, *(passage.text for passage in rng.choices(self._passages, k=more))])
            for first in passages
        ]

    def numbered(self, rng: Random, count: int) -> Numbered:
        """A question about one of `count` passages."""
        passages = rng.sample(self.opening, count)
        place = rng.randrange(count)
        fact = rng.choice(passages[place].facts)
        question = worded(rng, fact.relation, fact.subject)
        return Numbered(question, tuple(passage.text for passage in passages), fact.value.text, place + 1)

    def numbered_many(self, rng: Random, count: int, questions: int) -> list[Numbered]:
        """Several questions about the same passages."""
        passages = rng.sample(self.opening, count)
        texts = tuple(passage.text for passage in passages)
        asked: list[Numbered] = []
        for place in rng.choices(range(count), k=questions):
            fact = rng.choice(passages[place].facts)
            question = worded(rng, fact.relation, fact.subject)
            asked.append(Numbered(question, texts, fact.value.text, place + 1))
        return asked


# ---- steps


def brief(name: str, context: str, question: str = "{question}") -> Ask:
    """The answer from one context, in a few words."""
    return Ask(name, (("system", BRIEF), ("user", f"Context:\n{context}\n\nQuestion: {question}")), 24)


def from_passages(name: str, passages: str, question: str = "{question}", system: str = ANSWER) -> Ask:
    """The answer from numbered passages, with its citation."""
    return Ask(name, (("system", system), ("user", f"Passages:\n{passages}\n\nQuestion: {question}")), 24)


def cited(name: str, messages: Sequence[tuple[str, str]], tokens: int) -> Ask:
    """A turn of a conversation that began with numbered passages."""
    return Ask(name, (("system", ANSWER), *messages), tokens)


def refined(name: str, previous: str, passage: str) -> Ask:
    """The answer after one more passage."""
    prompt = f"Question: {{question}}\nPrevious answer: {previous}\nNew passage: {passage}"
    return Ask(name, (("system", REFINE), ("user", prompt)), 24)


def combined(name: str, parts: Sequence[str]) -> Ask:
    """One answer of several."""
    listed = "\n".join(f"- {part}" for part in parts)
    return Ask(
        name, (("system", COMBINE), ("user", f"Question: {{question}}\nPartial answers:\n{listed}")), 24
    )
