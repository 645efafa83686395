"""The applications of Parrot (section 8): chain and map-reduce summary, one prompt for many users, coding.

Its documents have parts of 1,024 tokens, its shared prompt 6,000; these are what the reference model can
read: parts of about 65 tokens, a shared prompt of about 1,200. `coding` has the conversations of MetaGPT's
team, but about passages, since the model cannot write programs and would say nothing.
"""

from __future__ import annotations

from typing import Final

from weft.apps.instructions import SUMMARIZE

from .language import Ask, Each, Plan
from .workload import Case, Sizes, Workload, World, from_passages

__all__ = ["WORKLOADS"]

PARTS: Final = 12
LINKS: Final = 5
USERS: Final = 16
SHARED: Final = 18
"""Passages in the prompt that all users share."""
FILES: Final = 4


def _summary(name: str, text: str, tokens: int) -> Ask:
    return Ask(name, (("system", SUMMARIZE), ("user", f"Passage: {text}")), tokens)


MAP_REDUCE: Final = Plan(
    ("parts",),
    (
        Each("lines", "parts", Plan(("item",), (_summary("line", "{item}", 50),), "line")),
        _summary("summary", "{lines}", 100),
    ),
    "summary",
    frozenset({"parts"}),
)
CHAIN: Final = Plan(
    tuple(f"part{number}" for number in range(LINKS)),
    (
        _summary("link0", "{part0}", 50),
        *(_summary(f"link{n}", f"{{link{n - 1}}}. {{part{n}}}", 50) for n in range(1, LINKS)),
    ),
    f"link{LINKS - 1}",
)
SHARED_PROMPT: Final = Plan(
    ("passages", "questions"),
    (
        Each(
            "answers",
            "questions",
            Plan(("item", "passages"), (from_passages("reply", "{passages}", "{item}"),), "reply"),
        ),
    ),
    "answers",
    frozenset({"questions"}),
)
_DESIGNED: Final = (("system", SUMMARIZE), ("user", "Passage: {task}"), ("assistant", "{design}"))
_CODE: Final = (*_DESIGNED, ("user", "Passage: {item}"))
_REVIEW: Final = (*_CODE, ("assistant", "{code}"), ("user", "Passage: {task}"))
_AGAIN: Final = (*_REVIEW, ("assistant", "{review}"), ("user", "Passage: {item}"))
CODING: Final = Plan(
    ("task", "files"),
    (
        Ask("design", _DESIGNED[:2], 48),
        Each(
            "written",
            "files",
            Plan(
                ("item", "task", "design"),
                (Ask("code", _CODE, 48), Ask("review", _REVIEW, 16), Ask("again", _AGAIN, 48)),
                "again",
            ),
        ),
    ),
    "written",
    frozenset({"files"}),
)


def _documents(world: World, count: int) -> list[Case]:
    rng = world.rng("map-reduce")
    return [Case({"parts": world.document(rng, PARTS)}) for _ in range(count)]


def _chains(world: World, count: int) -> list[Case]:
    rng = world.rng("chain")
    documents = (world.document(rng, LINKS) for _ in range(count))
    return [Case({f"part{number}": text for number, text in enumerate(parts)}) for parts in documents]


def _crowds(world: World, count: int) -> list[Case]:
    rng = world.rng("shared prompt")
    crowds = (world.numbered_many(rng, SHARED, USERS) for _ in range(count))
    return [
        Case(
            {"passages": asked[0].text, "questions": [one.question for one in asked]},
            [one.cited for one in asked],
        )
        for asked in crowds
    ]


def _tasks(world: World, count: int) -> list[Case]:
    rng, cases = world.rng("coding"), []
    for _ in range(count):
        task, *files = (passage.text for passage in rng.sample(world.opening, FILES + 1))
        cases.append(Case({"task": task, "files": files}))
    return cases


WORKLOADS: Final = (
    Workload(
        "map-reduce summary",
        "Parrot",
        f"{PARTS} summaries, one of them all",
        MAP_REDUCE,
        _documents,
        Sizes(passages=16),
    ),
    Workload(
        "chain summary",
        "Parrot",
        f"{LINKS} summaries, each of the one before and a part",
        CHAIN,
        _chains,
        Sizes(passages=16),
    ),
    Workload(
        "shared prompt",
        "Parrot",
        f"{USERS} users at once behind a prompt of 1,200 tokens",
        SHARED_PROMPT,
        _crowds,
        Sizes(passages=5, texts=8),
    ),
    Workload(
        "coding",
        "Parrot",
        f"architect; {FILES} times coder, reviewer, coder",
        CODING,
        _tasks,
        Sizes(passages=2, texts=4),
    ),
)
