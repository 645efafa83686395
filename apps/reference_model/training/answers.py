"""Tasks over numbered passages: answers with citations, two look-ups, absence, verdicts and outlines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from ..world.passages import noun_forms
from ..world.questions import ask
from ..world.schema import Relation
from ..world.world import Entity, Fact
from .contexts import Context, Length, build
from .samples import NOT_FOUND, Branch, Sample, cite, system
from .worlds import GrowingWorld

__all__ = [
    "CANONICAL",
    "Question",
    "answers",
    "ask_two_hops",
    "judgements",
    "missing",
    "nothing_found",
    "outlines",
    "over_passages",
    "single",
    "two_hops",
]

CANONICAL: Final = 0.5
"""How often samples for training use the canonical system message."""

Question = Literal["single", "reverse", "two_hops", "absent", "absent_two_hops"]
Style = Literal["answer", "steps", "plain"]

_HEADINGS: Final = ("Passages:", "Passages:", "Passages:", "Context:", "Documents:")
_LABELS: Final = ("Question:", "Question:", "Question:", "Q:")


def answers(
    rng: Random,
    passages: int,
    branches: int,
    *,
    kinds: dict[Question, int],
    canonical: float = CANONICAL,
    steps: float = 0.16,
    plain: float = 0.0,
    multi_turn: float = 0.1,
    question_first: float = 0.0,
    length: Length = "usual",
    anaphora: float = 0.25,
    chain: float = 0.5,
    focus: float = 0.3,
    debated: float = 0.0,
    joined: float = 0.0,
) -> Sample:
    """Questions about the same passages, in one style: with citations, step by step, or bare (`plain`).

    In a share of the samples, they are asked one after the other, or before the passages, or again after
    others have answered (`debated`). `anaphora`, `chain`, `focus` and `joined` are what `build` says.
    """
    context = build(rng, passages, anaphora=anaphora, chain=chain, focus=focus, length=length, joined=joined)
    draw = rng.random()
    style: Style = "steps" if draw < steps else "plain" if draw < steps + plain else "answer"
    sample = over_passages(rng, context, style, canonical)
    label = _LABELS[0] if rng.random() < canonical else rng.choice(_LABELS)
    asked: set[str] = set()
    for _ in range(branches * 2):
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        branch = _question(rng, context, kind, label, style)
        if branch is None or branch.turns[0][0] in asked:
            continue
        asked.add(branch.turns[0][0])
        sample.branches.append(branch)
        if len(sample.branches) == branches:
            break
    if rng.random() < multi_turn and len(sample.branches) > 2:
        turns = [branch.turns[0] for branch in sample.branches[:4]]
        task = "plain" if style == "plain" else "answer"
        sample.branches = [Branch(task, turns, "multi-turn"), *sample.branches[4:]]
    elif style == "answer" and rng.random() < debated:
        for branch in sample.branches[: rng.randint(1, 4)]:
            branch.turns.append(_rebuttal(rng, context, *branch.turns[0]))
    elif rng.random() < question_first:
        body = sample.shared.rstrip("\n")
        sample.shared = sample.read = ""
        sample.branches = [
            Branch(b.task, [(f"{b.turns[0][0]}\n\n{body}", b.turns[0][1])], "question first")
            for b in sample.branches[:2]
        ]
    return sample


def _rebuttal(rng: Random, context: Context, question: str, answer: str) -> tuple[str, str]:
    """What others say to a question, and the same answer as before: it rests on one's own passages."""
    text = answer.partition(" [")[0]
    others = [
        NOT_FOUND,
        cite(text, rng.randint(1, 9)),
        cite(rng.choice(context.facts).value.text, rng.randint(1, 9)),
    ]
    said = [answer, *rng.choices(others, (5, 4, 1), k=rng.randint(1, 3))]
    rng.shuffle(said)
    listed = "\n".join(f"- {each}" for each in said)
    return f"The debaters have said:\n{listed}\n{question}", answer


def over_passages(rng: Random, context: Context, prompt: str, canonical: float) -> Sample:
    """A sample whose user message begins with the passages of a context."""
    heading, separator = _HEADINGS[0], "\n"
    if rng.random() >= canonical:
        heading = rng.choice(_HEADINGS)
        separator = "\n\n" if rng.random() < 0.2 else "\n"
    read = context.numbered(separator)
    if prompt == "plain":
        heading = rng.choice(("Context:", "Context:", "Context:", heading))
        read = separator.join(text.text for text in context.texts)
    return Sample(system(rng, prompt, canonical), f"{heading}\n{read}\n\n", read=read)


def nothing_found(rng: Random, branches: int, canonical: float = CANONICAL) -> Sample:
    """Questions without any passage."""
    prompt = rng.choice(("answer", "steps"))
    sample = Sample(system(rng, prompt, canonical), f"{_HEADINGS[0]}\n(none)\n\n", read="(none)")
    world = GrowingWorld(rng)
    for _ in range(branches):
        subject = world.new_entity(world.any_kind())
        question = ask(rng, rng.choice(world.relations(subject.kind)), subject)
        sample.branches.append(Branch("absent", [(f"Question: {question}", NOT_FOUND)], "no passages"))
    return sample


def judgements(rng: Random, passages: int, branches: int, canonical: float = CANONICAL) -> Sample:
    """Whether proposed answers are right."""
    context = build(rng, passages, anaphora=0.15)
    sample = over_passages(rng, context, "judge", canonical)
    for _ in range(branches):
        fact = rng.choice(context.facts)
        draw = rng.random()
        chain = two_hops(rng, context) if rng.random() < 0.12 else None
        if chain is not None:
            question, _, fact = chain
            verdict = rng.choice(("yes", "no"))
            proposed = fact.value.text if verdict == "yes" else _wrong(rng, context, fact)
        elif draw < 0.5:
            question, proposed, verdict = ask(rng, fact.relation, fact.subject), fact.value.text, "yes"
        elif draw < 0.9:
            question = ask(rng, fact.relation, fact.subject)
            proposed, verdict = _wrong(rng, context, fact), "no"
        else:
            question = missing(rng, context)
            proposed, verdict = rng.choice(context.facts).value.text, "no"
        user = f"Question: {question}\nProposed answer: {proposed}"
        sample.branches.append(Branch("judge", [(user, verdict)]))
    return sample


def outlines(rng: Random, passages: int, branches: int, canonical: float = CANONICAL) -> Sample:
    """Which attributes of a topic the passages state, in the order of the schema."""
    context = build(rng, passages, anaphora=0.3, open_rate=0.0)
    sample = over_passages(rng, context, "skeleton", canonical)
    for topic in rng.sample(context.subjects, min(branches, len(context.subjects))):
        relations = context.world.relations(topic.kind)
        labels = [relation.label for relation in relations if context.states(topic, relation.label)]
        sample.branches.append(Branch("outline", [(f"Topic: {topic.name}", json.dumps(labels))]))
    return sample


# ---- questions


def single(rng: Random, context: Context) -> tuple[str, Fact]:
    """A question by name for a fact that is stated."""
    fact = rng.choice(context.facts)
    return ask(rng, fact.relation, fact.subject), fact


def two_hops(rng: Random, context: Context) -> tuple[str, Fact, Fact] | None:
    """A question for what the value of the first fact has as the second; None if nothing is linked so."""
    pairs = context.two_hops()
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return ask_two_hops(rng, first, second.relation), first, second


def ask_two_hops(rng: Random, first: Fact, second: Relation) -> str:
    """A question for a relation of the value of a fact, which it does not name."""
    phrase = rng.choice(first.relation.bridges).format(n=first.subject.ref)
    options = [text for text in second.questions if "{p}" not in text]  # clumsy with a phrase
    return rng.choice(options).format_map(noun_forms(phrase))


def missing(rng: Random, context: Context) -> str:
    """A question that the passages do not answer, most often about a subject that they have."""
    while True:
        relations = context.unstated(subject := _subject_to_miss(rng, context))
        if not relations:
            continue
        if rng.random() < 0.5:  # the harder case: an attribute that some other passage does state
            tempting = {fact.relation.label for fact in context.facts}
            relations = [relation for relation in relations if relation.label in tempting] or relations
        return ask(rng, rng.choice(relations), subject)


def _subject_to_miss(rng: Random, context: Context) -> Entity:
    draw = rng.random()
    if draw < 0.12:
        return context.world.new_entity(context.world.any_kind())
    if draw < 0.3:
        mentioned = [fact.value.entity for fact in context.facts if fact.value.entity is not None]
        return rng.choice(mentioned or context.subjects)
    return rng.choice(context.subjects)


def _reverse(rng: Random, context: Context) -> tuple[str, Fact] | None:
    """A question for the subject, given the value."""
    facts = [f for f in context.facts if f.value.entity is not None and f.relation.reverse_questions]
    if not facts:
        return None
    fact = rng.choice(facts)
    return rng.choice(fact.relation.reverse_questions).format(v=fact.value.text), fact


def _missing_two_hops(rng: Random, context: Context) -> tuple[str, Fact] | None:
    """A question of which the first step is stated, and the second is not."""
    bridges = [fact for fact in context.facts if fact.value.entity is not None]
    if not bridges:
        return None
    first = rng.choice(bridges)
    assert first.value.entity is not None
    relations = context.unstated(first.value.entity)
    return (ask_two_hops(rng, first, rng.choice(relations)), first) if relations else None


def _question(rng: Random, context: Context, kind: Question, label: str, style: Style) -> Branch | None:
    found = _ask(rng, context, kind, style)
    if found is None:
        return None
    task, question, answer, note = found
    if style == "plain":
        task, answer = "plain", answer.partition(" [")[0]
    elif style == "steps" and task in ("answer", "two_hops"):
        task = "steps"
    return Branch(task, [(f"{label} {question}", answer)], note)


def _ask(rng: Random, context: Context, kind: Question, style: Style) -> tuple[str, str, str, str] | None:
    """The task, a question, the answer with citations, and a note."""
    match kind:
        case "single":
            question, fact = single(rng, context)
            return "answer", question, cite(fact.value.text, context.number(fact)), context.text(fact).form
        case "reverse":
            reverse = _reverse(rng, context)
            if reverse is None:
                return None
            question, fact = reverse
            return "answer", question, cite(fact.subject.name, context.number(fact)), "reverse"
        case "two_hops":
            chain = two_hops(rng, context)
            if chain is None:
                return None
            question, first, second = chain
            numbers = context.number(first), context.number(second)
            answer = cite(second.value.text, *numbers)
            if style == "steps":
                answer = f"{cite(first.value.text, numbers[0])} -> {cite(second.value.text, numbers[1])}"
            return "two_hops", question, answer, _order(context, first, second)
        case "absent":
            return "absent", missing(rng, context), NOT_FOUND, "single"
        case "absent_two_hops":
            half = _missing_two_hops(rng, context)
            if half is None:
                return None
            question, first = half
            answer = NOT_FOUND
            if style == "steps":
                answer = f"{cite(first.value.text, context.number(first))} -> {NOT_FOUND}"
            return "absent", question, answer, "two_hops"


def _order(context: Context, first: Fact, second: Fact) -> str:
    """Whether the passages come in the order of the steps, and whether both name their subjects."""
    order = "forwards" if context.index(first) < context.index(second) else "backwards"
    forms = {context.text(first).form, context.text(second).form}
    return order if forms == {"name"} else f"{order}, unnamed"


def _wrong(rng: Random, context: Context, fact: Fact) -> str:
    """A wrong value, if possible one of the same sort from the passages."""
    same: Sequence[str] = [
        other.value.text
        for other in context.facts
        if other.relation.value == fact.relation.value and other.value.text != fact.value.text
    ]
    if same and rng.random() < 0.6:
        return rng.choice(same)
    return context.world.other_value(fact.relation, fact.value.text).text
