"""Tasks over one passage: summaries, refined answers, relevance."""

from __future__ import annotations

from random import Random

from ..world.questions import ask
from ..world.world import Entity, Fact
from .answers import CANONICAL
from .contexts import count_of_facts
from .passages import Text, write
from .samples import NOT_FOUND, Branch, Sample, system
from .worlds import GrowingWorld

__all__ = ["new_fact", "one_passage", "refinements", "relevance", "summaries"]


def summaries(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """A passage in one line."""
    sample = Sample(system(rng, "summarize", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        text = one_passage(rng, world, world.new_entity(world.any_kind()))
        facts = "; ".join(f"{fact.relation.label} = {fact.value.text}" for fact in text.facts)
        reply = f"{text.subject.name}: {facts}"
        sample.branches.append(Branch("summarize", [(f"Passage: {text.text}", reply)]))
    return sample


def refinements(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """An answer, with one more passage, which may have a better one."""
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
        user = f"Question: {question}\nPrevious answer: {previous}\nNew passage: {text.text}"
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


def _unhelpful(rng: Random, world: GrowingWorld, fact: Fact, draw: float) -> Text:
    """About the subject without the fact, about the attribute of something else, or about neither."""
    if draw < 0.75:
        return one_passage(rng, world, fact.subject, avoid=fact.relation.label)
    if draw < 0.9:
        other = world.new_entity(fact.subject.kind)
        return one_passage(rng, world, other, must=world.fact(other, fact.relation))
    return one_passage(rng, world, world.new_entity(world.any_kind()))
