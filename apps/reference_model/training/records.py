"""Tasks that isolate what a cache of passages can get wrong.

Overwriting needs the order of the passages: of two that state the same thing, the later one counts. A code
name needs what stands before: the same passage means something else after another definition.
"""

from __future__ import annotations

from random import Random
from typing import Final

from ..world.questions import ask
from ..world.schema import KINDS, Relation
from ..world.world import Entity, Fact, Value
from .answers import CANONICAL, missing, over_passages
from .contexts import Context, Length, build
from .passages import Text, filler, write
from .samples import NOT_FOUND, Branch, Sample, cite

__all__ = ["aliases", "overwrites"]

_DEFINITIONS: Final = (
    "From here on, {a} means {v}.",
    "{a} is the code name for {v} from now on.",
    "In what follows, {a} stands for {v}.",
    "Until further notice, {a} is to be read as {v}.",
    "The name {a} now refers to {v}.",
)
_SORTS: Final = {
    sort: [r for kind in KINDS.values() for r in kind.relations.values() if r.value == sort]
    for sort in ("person", "city", "company")
}
"""Relations by the kind of their values."""


def overwrites(
    rng: Random, passages: int, branches: int, *, canonical: float = CANONICAL, length: Length = "usual"
) -> Sample:
    """Questions about passages of which later ones correct earlier ones."""
    corrections = max(1, round(passages * rng.uniform(0.15, 0.45)))
    context = build(rng, max(1, passages - corrections), anaphora=0.0, length=length)
    for _ in range(corrections):
        context = _corrected(rng, context, length)
    sample = over_passages(rng, context, _prompt(rng, canonical), canonical)
    corrected = [fact for fact in context.facts if _times(context, fact) > 1]
    for _ in range(branches):
        draw = rng.random()
        if draw < 0.1:
            sample.branches.append(_branch("absent", missing(rng, context), NOT_FOUND, "records"))
            continue
        fact = rng.choice(corrected if draw < 0.75 else context.facts)
        task = "overwrite" if fact in corrected else "answer"
        answer = cite(fact.value.text, context.number(fact))
        sample.branches.append(_branch(task, ask(rng, fact.relation, fact.subject), answer, "records"))
    return sample


def aliases(
    rng: Random, passages: int, branches: int, *, canonical: float = CANONICAL, length: Length = "usual"
) -> Sample:
    """Questions about passages that use code names, of which the meaning changes on the way."""
    return _Aliases(rng, passages, canonical, length).sample(branches)


def _prompt(rng: Random, canonical: float) -> str:
    return "answer" if rng.random() < 0.2 * (1 - canonical) else "records"


def _branch(task: str, question: str, answer: str, note: str) -> Branch:
    return Branch(task, [(f"Question: {question}", answer)], note)


def _times(context: Context, fact: Fact) -> int:
    key = fact.subject, fact.relation
    return sum((other.subject, other.relation) == key for text in context.texts for other in text.facts)


def _corrected(rng: Random, context: Context, length: Length) -> Context:
    """The context with one more passage, which states some fact otherwise than one before it."""
    old = rng.choice(context.facts)
    subject = old.subject
    facts = [Fact(subject, old.relation, context.world.other_value(old.relation, old.value.text))]
    more = context.unstated(subject)
    count = 0 if length == "short" else rng.choice((0, 0, 1, 2))
    facts += [context.world.fact(subject, relation) for relation in rng.sample(more, min(count, len(more)))]
    rng.shuffle(facts)
    fillers = {"usual": None, "short": rng.randint(0, 1), "long": rng.randint(6, 12)}[length]
    texts = list(context.texts)
    at = rng.randint(context.index(old) + 1, len(texts))
    texts.insert(at, write(rng, subject, facts, fillers=fillers))
    return Context(context.world, texts)


class _Aliases:
    """Builds one sample with code names."""

    def __init__(self, rng: Random, passages: int, canonical: float, length: Length) -> None:
        self._rng = rng
        self._canonical = canonical
        self._length = length
        names = 1 if passages < 5 else rng.randint(1, min(3, passages // 4))
        events = self._events(names, max(2, round(passages * rng.uniform(0.6, 1.0))))
        plain = build(rng, max(1, passages - len(events)), anaphora=0.0, length=length)
        self._world = plain.world
        self._names = [(self._world.word(), rng.choice(list(_SORTS))) for _ in range(names)]
        self._used: list[tuple[Fact, str]] = []  # with what the code name in it means
        self._meaning: dict[int, str] = {}
        texts = list(plain.texts)
        places = sorted(rng.randint(0, len(texts)) for _ in events)
        for shift, (at, (name, defines)) in enumerate(zip(places, events, strict=True)):
            texts.insert(at + shift, self._define(name) if defines else self._use(name))
        self._context = Context(self._world, texts)

    def sample(self, branches: int) -> Sample:
        """Questions for what code names stood for, and some others."""
        rng = self._rng
        sample = over_passages(rng, self._context, _prompt(rng, self._canonical), self._canonical)
        meant = {id(fact): meaning for fact, meaning in self._used}
        for _ in range(branches):
            draw = rng.random()
            if draw < 0.08:
                question = missing(rng, self._context)
                sample.branches.append(_branch("absent", question, NOT_FOUND, "records"))
                continue
            fact = rng.choice(self._used)[0] if draw < 0.8 else rng.choice(self._context.facts)
            question = ask(rng, fact.relation, fact.subject)
            answer = cite(meant.get(id(fact), fact.value.text), self._context.number(fact))
            task = "alias" if id(fact) in meant else "answer"
            sample.branches.append(_branch(task, question, answer, "records"))
        return sample

    def _events(self, names: int, count: int) -> list[tuple[int, bool]]:
        """(code name, whether it is defined) in reading order; names are defined before they are used."""
        orders = []
        for name in range(names):
            defines = [True, False]
            while len(defines) < max(3, count // names):
                defines.append(self._rng.random() < 0.35)
            orders.append([(name, define) for define in defines])
        events: list[tuple[int, bool]] = []
        while orders:  # interleaved at random, each in its order
            order = self._rng.choice(orders)
            events.append(order.pop(0))
            orders = [left for left in orders if left]
        return events

    def _define(self, name: int) -> Text:
        rng = self._rng
        word, sort = self._names[name]
        value = self._world.new_entity(sort).name
        self._meaning[name] = value
        sentences = [
            filler(rng) for _ in range(rng.choice((0, 0, 1, 2, 3)) if self._length != "short" else 0)
        ]
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(_DEFINITIONS).format(a=word, v=value))
        return Text(Entity("alias", word, "", "it"), (), " ".join(sentences))

    def _use(self, name: int) -> Text:
        rng = self._rng
        word, sort = self._names[name]
        relation: Relation = rng.choice(_SORTS[sort])
        subject = self._world.new_entity(relation.kind)
        facts = [Fact(subject, relation, Value(word))]
        others = [r for r in KINDS[relation.kind].relations.values() if r is not relation]
        count = 0 if self._length == "short" else rng.choice((0, 1, 1, 2, 3))
        facts += [self._world.fact(subject, other) for other in rng.sample(others, count)]
        rng.shuffle(facts)
        self._used.append((next(fact for fact in facts if fact.relation is relation), self._meaning[name]))
        fillers = {"usual": None, "short": rng.randint(0, 1), "long": rng.randint(6, 12)}[self._length]
        return write(rng, subject, facts, fillers=fillers)
