"""Tasks over one passage: summaries, refined answers, relevance."""

from __future__ import annotations

from random import Random
from typing import Final

from ..world.questions import ask
from ..world.schema import KINDS
from ..world.world import Entity, Fact
from .answers import CANONICAL
from .contexts import count_of_facts
from .passages import Text, notes, write
from .samples import NOT_FOUND, Branch, Sample, system
from .worlds import GrowingWorld

__all__ = ["new_fact", "one_passage", "refinements", "relevance", "situations", "summaries"]

_NOUNS: Final = tuple(KINDS)
"""The kinds that a passage can call by a noun of their own: the firm, the town."""


def summaries(rng: Random, branches: int, canonical: float = CANONICAL, *, in_parts: float = 0.0) -> Sample:
    """A passage in one line; a share are `in_parts`: paragraphs, and summaries of what came before."""
    sample = Sample(system(rng, "summarize", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        subject = world.new_entity(world.any_kind())
        text = _in_parts(rng, world, subject) if rng.random() < in_parts else one_passage(rng, world, subject)
        sample.branches.append(Branch("summarize", [(f"Passage: {text.text}", _summary(text))]))
    return sample


def situations(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """A passage in one line, which may owe the name of its subject to the text around it."""
    sample = Sample(system(rng, "situate", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        others = [
            one_passage(rng, world, world.new_entity(world.any_kind())) for _ in range(rng.randint(0, 3))
        ]
        text = one_passage(rng, world, world.new_entity(rng.choice(_NOUNS)))
        around = others
        if rng.random() < 0.5:
            facts = [world.fact(text.subject, relation) for relation in world.relations(text.subject.kind)]
            more = [fact for fact in facts if fact not in text.facts]
            own = rng.sample(more, min(len(more), rng.randint(1, 4))) or [facts[0]]
            around = [*others[:1], text, *others[1:]]
            text = write(rng, text.subject, own, form="generic", antecedent=text)
        user = "Around it: " + "\n".join(other.text for other in around) + f"\n\nPassage: {text.text}"
        sample.branches.append(Branch("summarize", [(user, _summary(text))], "situated"))
    return sample


def _summary(text: Text) -> str:
    facts = "; ".join(f"{fact.relation.label} = {fact.value.text}" for fact in text.facts)
    return f"{text.subject.name}: {facts}"


def _in_parts(rng: Random, world: GrowingWorld, subject: Entity) -> Text:
    """Two to four parts about a subject: prose that names it or says "the firm", or notes as in a summary.

    A part may say again what one before it says.
    """
    relations = list(world.relations(subject.kind))
    facts = [
        world.fact(subject, relation)
        for relation in rng.sample(relations, min(rng.randint(2, 7), len(relations)))
    ]
    parts = rng.randint(2, min(4, len(facts)))
    cuts = sorted(rng.sample(range(1, len(facts)), parts - 1))
    separator = rng.choice(("\n", "\n", "\n\n", " "))
    noted = rng.choice((0.0, 0.3, 0.9))  # how often a part is a summary
    written: list[Text] = []
    for start, end in zip([0, *cuts], [*cuts, len(facts)], strict=True):
        own = facts[start:end]
        if start and rng.random() < 0.15:
            own = [*own, rng.choice(facts[:start])]
        if rng.random() < noted:
            line = _summary(Text(subject, tuple(own), "")) if rng.random() < 0.8 else notes(rng, subject, own)
            stop = "." if separator == " " else rng.choice(("", ".", ".", ";"))
            written.append(Text(subject, (), line if line.endswith(".") else line + stop))
        elif written and rng.random() < 0.5:
            written.append(write(rng, subject, own, form="generic", antecedent=written[0]))
        else:
            written.append(write(rng, subject, own, fillers=rng.randint(0, 3)))
    return Text(subject, tuple(facts), separator.join(part.text for part in written))


def refinements(
    rng: Random, branches: int, canonical: float = CANONICAL, *, surrounded: float = 0.0
) -> Sample:
    """An answer, with one more passage, which may have a better one.

    In a share of them, it is `surrounded` by what stands beside it.
    """
    sample = Sample(system(rng, "refine", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        fact = new_fact(rng, world)
        question = ask(rng, fact.relation, fact.subject)
        known = rng.random() < 0.5
        draw = rng.random()
        if draw < 0.5:
            text = one_passage(rng, world, fact.subject, must=fact)
            previous = world.other_value(fact.relation, fact.value.text).text if known else NOT_FOUND
            answer, note = fact.value.text, "update"
        else:
            text = _unhelpful(rng, world, fact, draw)
            answer = previous = fact.value.text if known else NOT_FOUND
            note = "keep"
        shown = _surrounded(rng, world, fact, text) if rng.random() < surrounded else text.text
        user = f"Question: {question}\nPrevious answer: {previous}\nNew passage: {shown}"
        sample.branches.append(Branch("refine", [(user, answer)], note))
    return sample


def relevance(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """How much one passage helps with questions: 3 answers, 2 same subject, 1 same attribute, 0 neither."""
    world = GrowingWorld(rng)
    text = one_passage(rng, world, world.new_entity(world.any_kind()))
    stated = {fact.relation.label for fact in text.facts}
    passage_first = rng.random() < 0.6
    sample = Sample(system(rng, "relevance", canonical))
    if passage_first:
        sample.shared = f"Passage: {text.text}\n"
        sample.read = text.text
    for _ in range(branches):
        level = rng.randint(0, 3)
        subject = text.subject if level >= 2 else world.new_entity(text.subject.kind)
        relations = world.relations(subject.kind)
        options = [r for r in relations if (r.label in stated) == (level in (1, 3))]
        if level == 0 and (rng.random() < 0.5 or not options):
            subject = world.new_entity(world.any_kind())
            options = [r for r in world.relations(subject.kind) if r.label not in stated]
        if not options:
            continue
        question = f"Question: {ask(rng, rng.choice(options), subject)}"
        user = question if passage_first else f"{question}\nPassage: {text.text}"
        sample.branches.append(Branch("relevance", [(user, str(level))]))
    return sample


def new_fact(rng: Random, world: GrowingWorld, subject: Entity | None = None) -> Fact:
    """A random fact, of a new subject unless one is given."""
    subject = subject or world.new_entity(world.any_kind())
    return world.fact(subject, rng.choice(world.relations(subject.kind)))


def one_passage(
    rng: Random, world: GrowingWorld, subject: Entity, *, must: Fact | None = None, avoid: str = ""
) -> Text:
    """A passage that names its subject; it states the fact `must`, and not the attribute `avoid`."""
    relations = [relation for relation in world.relations(subject.kind) if relation.label != avoid]
    count = min(count_of_facts(rng), len(relations))
    facts = [world.fact(subject, relation) for relation in rng.sample(relations, count)]
    if must is not None and must not in facts:
        facts[rng.randrange(len(facts))] = must
    other = world.new_entity(subject.kind) if rng.random() < 0.06 else None
    return write(rng, subject, facts, other=other)


def _surrounded(rng: Random, world: GrowingWorld, fact: Fact, text: Text) -> str:
    """The passage between others of its kind; its fact may stand in one that continues it."""
    own = [text.text]
    if fact in text.facts and rng.random() < 0.4:
        rest = [other for other in text.facts if other is not fact]
        first = (
            write(rng, fact.subject, rest, fillers=1)
            if rest
            else one_passage(rng, world, fact.subject, avoid=fact.relation.label)
        )
        own = [first.text, write(rng, fact.subject, [fact], form="generic", antecedent=first).text]
    elif fact not in text.facts and rng.random() < 0.4:  # the right attribute, where the subject is not named
        other = world.new_entity(fact.subject.kind)
        first = one_passage(rng, world, other, avoid=fact.relation.label)
        stated = [world.fact(other, fact.relation)]
        own = [text.text, first.text, write(rng, other, stated, form="generic", antecedent=first).text]
    near = [
        one_passage(rng, world, world.new_entity(fact.subject.kind)).text
        for _ in range(rng.choice((1, 1, 2)))
    ]
    at = rng.randint(0, len(near))
    return rng.choice(("\n", "\n", "\n\n")).join([*near[:at], *own, *near[at:]])


def _unhelpful(rng: Random, world: GrowingWorld, fact: Fact, draw: float) -> Text:
    """About the subject without the fact, about the attribute of something else, or about neither."""
    if draw < 0.75:
        return one_passage(rng, world, fact.subject, avoid=fact.relation.label)
    if draw < 0.9:
        other = world.new_entity(fact.subject.kind)
        return one_passage(rng, world, other, must=world.fact(other, fact.relation))
    return one_passage(rng, world, world.new_entity(world.any_kind()))
