"""The task of an agent: the next action, given what it has seen."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from ..world.questions import ask
from ..world.world import Fact
from .answers import CANONICAL, single, two_hops
from .contexts import Context, build
from .passage_tasks import new_fact, one_passage
from .passages import Text, write
from .question_tasks import arithmetic, search_queries, two_facts
from .samples import NOT_FOUND, Branch, Sample, cite, system
from .worlds import GrowingWorld

__all__ = ["actions"]

_NO_RESULTS: Final = ("No results.", "No results.", "Nothing found.", NOT_FOUND)
_ERRORS: Final = (
    "error: a person has refused this call",
    "error: the call was refused",
    "error: you may not call {tool}",
    "error: {tool} did not answer in time",
    "error: {tool} failed",
    "Error: {tool} is not available",
    "error: timed out after {seconds} s",
    "The call was not allowed.",
)
_OPERATORS: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}

_FAILS: Final = 0.06
"""How often a call is refused or fails."""
_FAILS_AGAIN: Final = 0.2
"""The same for a second one about the same fact: where one was refused, so is the next."""

Search = Callable[[Fact, bool, Fact | None], tuple[str, list[Fact]]]
"""What a search for a fact returns, and which facts that states.

It is told whether to find the fact, and of another fact that it may state as well.
"""


@dataclass
class _Problem:
    kind: str
    question: str
    facts: list[Fact]
    """To look up, in this order."""
    expression: str | None
    search: Search


def actions(
    rng: Random,
    branches: int,
    canonical: float = CANONICAL,
    *,
    multi_turn: float = 0.5,
    ranked: float = 0.0,
) -> Sample:
    """Next actions; what was done before is in chat turns (`multi_turn`), or all in one message.

    In a share of the problems, observations are those of the bundled agent: the best passages by rank,
    each with the one that stands behind it, numbered (`ranked`). One that says "the firm" may come without
    the passage that names it.
    """
    sample = Sample(system(rng, "agent", canonical))
    for _ in range(branches):
        if rng.random() < ranked:
            problem = _over_ranking(rng)
        else:
            problem = _over_corpus(rng) if rng.random() < 0.6 else _over_new_facts(rng)
        steps = _steps(rng, problem)
        if rng.random() < multi_turn:
            users = [f"Question: {problem.question}"] + [f"Observation: {seen}" for _, seen in steps[:-1]]
            turns = list(zip(users, [action for action, _ in steps], strict=True))
            if rng.random() < 0.3:
                turns = turns[: rng.randint(1, len(turns))]
        else:
            upto = rng.randrange(len(steps))
            lines = [f"Question: {problem.question}"]
            lines += [f"Action: {action}\nObservation: {seen}" for action, seen in steps[:upto]]
            turns = [("\n".join(lines), steps[upto][0])]
        sample.branches.append(Branch("agent", turns, problem.kind))
    return sample


def _steps(rng: Random, problem: _Problem) -> list[tuple[str, str]]:
    """Actions with what each showed; the last one finishes."""
    steps: list[tuple[str, str]] = []
    known: list[Fact] = []
    for index, fact in enumerate(problem.facts):
        extra = problem.facts[1] if index == 0 and len(problem.facts) > 1 else None
        attempt = 0
        while fact not in known:
            if attempt == 2:
                return [*steps, (_action("finish", NOT_FOUND), "")]
            found = rng.random() < (0.85 if attempt == 0 else 0.6)
            text, seen = problem.search(fact, found, extra)
            if rng.random() < (_FAILS if attempt == 0 else _FAILS_AGAIN):
                text, seen = _error(rng, "search"), []
            steps.append((_action("search", search_queries(fact)[2 * attempt]), text))
            known += seen
            attempt += 1
    result = problem.facts[-1].value.text
    if problem.expression is not None:
        left, symbol, right = problem.expression.split()
        result = observed = str(_OPERATORS[symbol](int(left), int(right)))
        if rng.random() < _FAILS:
            result, observed = NOT_FOUND, _error(rng, "calculator")
        steps.append((_action("calculator", problem.expression), observed))
    return [*steps, (_action("finish", result), "")]


def _error(rng: Random, tool: str) -> str:
    """What an agent sees of a call that was refused or failed."""
    return rng.choice(_ERRORS).format(tool=tool, seconds=rng.randint(2, 120))


def _action(tool: str, text: str) -> str:
    return json.dumps({"tool": tool, "input": text})


# ---- problems


def _over_corpus(rng: Random) -> _Problem:
    """A question about a small corpus, and a search of it."""
    return _about(rng, build(rng, rng.randint(3, 9), anaphora=0.2), _search_of)


def _over_ranking(rng: Random) -> _Problem:
    """The same for a larger corpus; a search shows the best passages and what follows each."""
    corpus = build(rng, rng.randint(8, 16), anaphora=0.15, chain=0.7, open_rate=0.15, focus=0.6)
    return _about(rng, corpus, _ranking_of)


def _about(rng: Random, context: Context, search: Callable[[Random, Context], Search]) -> _Problem:
    draw = rng.random()
    chain = two_hops(rng, context)
    if draw < 0.4:
        question, facts, expression = arithmetic(rng, context.world)
        context = _with_passages(rng, context, facts)
        return _Problem("arithmetic", question, facts, expression, search(rng, context))
    if draw < 0.75 and chain is not None:
        question, first, second = chain
        return _Problem("two_hops", question, [first, second], None, search(rng, context))
    question, fact = single(rng, context)
    return _Problem("single", question, [fact], None, search(rng, context))


def _over_new_facts(rng: Random) -> _Problem:
    """A question about new entities, and a search that writes what it finds."""
    world = GrowingWorld(rng, link_rate=0.0)
    search = _search_at_large(rng, world)
    draw = rng.random()
    if draw < 0.4:
        question, facts, expression = arithmetic(rng, world)
        return _Problem("arithmetic", question, facts, expression, search)
    if draw < 0.7:
        question, facts = two_facts(rng, world)
        return _Problem("two_hops", question, facts, None, search)
    fact = new_fact(rng, world)
    return _Problem("single", ask(rng, fact.relation, fact.subject), [fact], None, search)


def _with_passages(rng: Random, context: Context, facts: list[Fact]) -> Context:
    """The context with passages that state these facts."""
    texts = list(context.texts)
    for subject in dict.fromkeys(fact.subject for fact in facts):
        own = [fact for fact in facts if fact.subject is subject]
        text = one_passage(rng, context.world, subject, must=own[0])
        if not all(fact in text.facts for fact in own):
            text = write(rng, subject, own)
        places = [i for i in range(len(texts) + 1) if i == len(texts) or texts[i].antecedent is None]
        texts.insert(rng.choice(places), text)
    return Context(context.world, texts)


# ---- searches


def _search_of(rng: Random, context: Context) -> Search:
    """A search that returns passages of the context, each with those that it continues."""

    def groups(texts: list[Text]) -> list[list[Text]]:
        found: list[list[Text]] = []
        for text in context.texts:
            if text.antecedent is not None and found:
                found[-1].append(text)
            else:
                found.append([text])
        return [group for group in found if any(text in texts for text in group)]

    def search(fact: Fact, found: bool, extra: Fact | None) -> tuple[str, list[Fact]]:
        home = context.text(fact)
        others = [text for text in context.texts if text is not home]
        likely = [
            text
            for text in others
            if fact.subject.name in text.text or text.subject.kind == fact.subject.kind
        ]
        picked = rng.sample(likely, min(len(likely), rng.choice((0, 1, 1, 2, 3))))
        if rng.random() < 0.3 and others:
            picked.append(rng.choice(others))
        results = groups([*picked, home]) if found else [g for g in groups(picked) if home not in g]
        if not results:
            return rng.choice(_NO_RESULTS), []
        rng.shuffle(results)
        texts = [text for group in results for text in group]
        return _shown(rng, texts, joint=0.3), [fact for text in texts for fact in text.facts]

    return search


def _ranking_of(rng: Random, context: Context) -> Search:
    """A search that shows up to four passages, the likeliest first, each with the one behind it."""
    texts = context.texts

    def search(fact: Fact, found: bool, extra: Fact | None) -> tuple[str, list[Fact]]:
        home = context.index(fact)
        antecedent = texts[home].antecedent
        needed = {home} if antecedent is None else {home, texts.index(antecedent)}
        likely = [
            index
            for index, text in enumerate(texts)
            if fact.subject.name in text.text
            or any(f.relation.label == fact.relation.label for f in text.facts)
        ]
        pool = likely if len(likely) > 2 or rng.random() < 0.5 else list(range(len(texts)))
        picked = [index for index in rng.sample(pool, len(pool)) if index not in needed][: rng.randint(1, 3)]
        if found:
            picked.insert(rng.choice((0, 0, 0, 1, 2)), min(needed))
        near = [place for index in picked for place in (index, index + 1) if place < len(texts)]
        order = _in_runs([place for place in near if found or place != home])
        if not order:
            return rng.choice(_NO_RESULTS), []
        known: list[Fact] = []
        for before, index in zip([-1, *order], order, strict=False):
            named = texts[index].antecedent
            if named is None or (before >= 0 and texts[before] is named):
                known += texts[index].facts
        lines = [texts[index].text for index in order]
        if rng.random() < 0.85:
            lines = [f"[{number}] {line}" for number, line in enumerate(lines, 1)]
        return "\n".join(lines), known

    return search


def _in_runs(places: list[int]) -> list[int]:
    """Each place once, those that touch together in ascending order, where the first of them was."""
    ordered: dict[int, None] = {}
    for place in places:
        while place - 1 in places and place not in ordered:
            place -= 1
        while place in places and place not in ordered:
            ordered[place] = None
            place += 1
    return list(ordered)


def _search_at_large(rng: Random, world: GrowingWorld) -> Search:
    """A search that writes passages as needed, or a short answer."""

    def search(fact: Fact, found: bool, extra: Fact | None) -> tuple[str, list[Fact]]:
        more = extra if extra is not None and found and rng.random() < 0.25 else None
        if not found and rng.random() < 0.3:
            return rng.choice(_NO_RESULTS), []
        if found and more is None and rng.random() < 0.1:
            answer = fact.value.text
            return (answer if rng.random() < 0.5 else cite(answer, rng.randint(1, 9))), [fact]
        texts = [_found(rng, world, fact) if found else _missed(rng, world, fact)]
        if more is not None:
            texts.append(one_passage(rng, world, more.subject, must=more))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            kind = fact.subject.kind if rng.random() < 0.6 else world.any_kind()
            texts.append(one_passage(rng, world, world.new_entity(kind)))
        rng.shuffle(texts)
        return _shown(rng, texts, joint=0.5), [fact for text in texts for fact in text.facts]

    return search


def _found(rng: Random, world: GrowingWorld, fact: Fact) -> Text:
    return one_passage(rng, world, fact.subject, must=fact)


def _missed(rng: Random, world: GrowingWorld, fact: Fact) -> Text:
    """The right subject without the fact, or the right attribute of another subject."""
    if rng.random() < 0.5:
        return one_passage(rng, world, fact.subject, avoid=fact.relation.label)
    other = world.new_entity(fact.subject.kind)
    return one_passage(rng, world, other, must=world.fact(other, fact.relation))


def _shown(rng: Random, texts: list[Text], joint: float) -> str:
    """The passages as a tool shows them: numbered or not, in lines or in one."""
    lines = [text.text for text in texts]
    if rng.random() < 0.4:
        lines = [f"[{number}] {line}" for number, line in enumerate(lines, 1)]
    together = rng.random() < joint and all(line.endswith(".") for line in lines)
    return (" " if together else "\n").join(lines)
