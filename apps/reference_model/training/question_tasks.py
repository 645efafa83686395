"""Tasks about questions alone: search queries, follow-ups made standalone, partial answers combined."""

from __future__ import annotations

import json
from random import Random
from typing import Final

from ..world.passages import PRONOUNS, noun_forms
from ..world.questions import ask
from ..world.schema import ARITHMETIC
from ..world.world import Entity, Fact
from .answers import CANONICAL, ask_two_hops
from .passage_tasks import new_fact
from .samples import NOT_FOUND, Branch, Sample, cite, system
from .worlds import OPEN, GrowingWorld, query

__all__ = ["arithmetic", "combinations", "expansions", "search_queries", "standalone", "two_facts"]

_CONJUNCTIONS: Final = ("And", "And", "And", "So", "Ok, and")
"""With which people begin a follow-up."""


def expansions(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """Three search queries for a question."""
    sample = Sample(system(rng, "expand", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        draw = rng.random()
        if draw < 0.6:
            fact = new_fact(rng, world)
            question = ask(rng, fact.relation, fact.subject)
            queries, note = search_queries(fact), "single"
        elif draw < 0.85:
            question, facts = two_facts(rng, world)
            queries, note = _two_hop_queries(*facts), "two_hops"
        else:
            question, facts, _ = arithmetic(rng, world)
            names = " and ".join(dict.fromkeys(fact.subject.name for fact in facts))
            queries = [f"{fact.subject.name} {fact.relation.label}" for fact in facts]
            queries.append(f"{names} {facts[0].relation.label}")
            note = "arithmetic"
        sample.branches.append(Branch("expand", [(f"Question: {question}", json.dumps(queries))], note))
    return sample


def standalone(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """A follow-up question without its pronoun."""
    sample = Sample(system(rng, "standalone", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        lines: list[str] = []
        if rng.random() < 0.4:  # an earlier exchange about something else
            lines += _exchange(rng, new_fact(rng, world))
        fact = new_fact(rng, world)
        lines += _exchange(rng, fact)
        target = subject = fact.subject
        answer = fact.value.entity
        if answer is not None:
            if (answer.kind == "person") == (subject.kind == "person"):
                continue  # a pronoun could mean either
            target = rng.choice((subject, answer))
        known = fact.relation.label if target is subject else None
        relation = rng.choice([r for r in world.relations(target.kind) if r.label != known])
        template = rng.choice([text for text in relation.questions if "{n}" not in text])
        full = template.format_map(noun_forms(target.ref))
        follow_up = full if rng.random() < 0.1 else template.format_map(PRONOUNS[target.pronoun])
        if follow_up is not full and rng.random() < 0.25:
            follow_up = f"{rng.choice(_CONJUNCTIONS)} {follow_up[0].lower()}{follow_up[1:]}"
        user = "Chat history:\n" + "\n".join(lines) + f"\n\nFollow-up question: {follow_up}"
        sample.branches.append(Branch("standalone", [(user, full)]))
    return sample


def combinations(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """The answer that most partial answers give, in its first wording."""
    sample = Sample(system(rng, "combine", canonical))
    for _ in range(branches):
        world = GrowingWorld(rng)
        fact = new_fact(rng, world)
        cited = rng.random() < 0.5
        draw = rng.random()
        partials = [NOT_FOUND] * rng.randint(0, 5)
        if draw < 0.12:
            partials = partials or [NOT_FOUND]
            answer = NOT_FOUND
        else:
            agree = 1 if draw < 0.62 else rng.randint(2, 3)
            right = [_worded(rng, fact.value.text, cited) for _ in range(agree)]
            rest = list(partials)
            if agree > 1 and rng.random() < 0.4:
                rest.append(_worded(rng, world.other_value(fact.relation, fact.value.text).text, cited))
            partials, answer = right, right[0]
            for other in rest:
                partials.insert(rng.randint(0, len(partials)), other)
        question = ask(rng, fact.relation, fact.subject)
        listed = "\n".join(f"- {partial}" for partial in partials)
        user = f"Question: {question}\nPartial answers:\n{listed}"
        sample.branches.append(Branch("combine", [(user, answer)]))
    return sample


def search_queries(fact: Fact) -> list[str]:
    """Three short queries for a fact; agents try the first, then the last."""
    label, name = fact.relation.label, fact.subject.name
    return [f"{name} {label}", f"{label} of {name}", query(fact.relation, name)]


def two_facts(rng: Random, world: GrowingWorld) -> tuple[str, list[Fact]]:
    """A question, and the two facts to look up, the second about the value of the first."""
    while True:
        subject = world.new_entity(world.any_kind())
        bridges = [relation for relation in world.relations(subject.kind) if relation.bridges]
        if bridges:
            break
    first = world.fact(subject, rng.choice(bridges))
    second = new_fact(rng, world, first.value.entity)
    return ask_two_hops(rng, first, second.relation), [first, second]


def arithmetic(rng: Random, world: GrowingWorld) -> tuple[str, list[Fact], str]:
    """A question, the two facts to look up in their order, and the expression."""
    if world.open and rng.random() < 0.5:
        found = _open_arithmetic(rng, world)
        if found is not None:
            return found
    pattern = rng.choice(ARITHMETIC)
    kind = pattern.relation.kind
    while True:
        a = world.new_entity(kind)
        b: Entity = a if pattern.operator == "*" else world.new_entity(kind)
        facts = [world.fact(a, pattern.relation), world.fact(b, pattern.other)]
        left, right = (fact.value.number or 0 for fact in (facts[::-1] if pattern.swap else facts))
        if pattern.operator != "-" or left > right:
            break
    question = rng.choice(pattern.questions).format(a=a.ref, b=b.ref)
    return question, facts, f"{left} {pattern.operator} {right}"


def _open_arithmetic(rng: Random, world: GrowingWorld) -> tuple[str, list[Fact], str] | None:
    """A sum or a difference of amounts of two subjects, if the world has them."""
    kind = world.any_kind()
    amounts = [relation for relation in world.relations(kind) if relation.value.startswith("amount:")]
    if not amounts:
        return None
    relation = rng.choice(amounts)
    facts = [world.fact(world.new_entity(kind), relation) for _ in range(2)]
    numbers = [fact.value.number for fact in facts]
    if numbers[0] is None or numbers[1] is None:
        return None
    add = rng.random() < 0.5
    if not add and numbers[0] < numbers[1]:
        facts.reverse()
        numbers.reverse()
    templates = OPEN["phrases"]["sums" if add else "differences"]
    question = rng.choice(templates).format(
        a=facts[0].subject.ref, b=facts[1].subject.ref, label=relation.label
    )
    return question, facts, f"{numbers[0]} {'+' if add else '-'} {numbers[1]}"


def _two_hop_queries(first: Fact, second: Fact) -> list[str]:
    name = first.subject.name
    bridge = f"{first.relation.noun} of {name}"
    label = second.relation.label
    return [f"{name} {first.relation.label}", f"{bridge} {label}", query(second.relation, bridge)]


def _exchange(rng: Random, fact: Fact) -> list[str]:
    answer = _worded(rng, fact.value.text, rng.random() < 0.4)
    return [f"User: {ask(rng, fact.relation, fact.subject)}", f"Assistant: {answer}"]


def _worded(rng: Random, text: str, cited: bool) -> str:
    return cite(text, rng.randint(1, 9)) if cited else text
