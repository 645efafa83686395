"""The applications of Teola (section 7): search engine, naive and advanced RAG, contextual retrieval.

Three expanded queries, a top three, and the modes tree and refine are the paper's. Where it ranks 16 passages
a query, or 32 with their contexts, by a cross-encoder, these rank four and eight by the language model, one
call a passage. Contextual retrieval ranks what it has put into context without an index in between; with one
it is a workload of ``weft bench optimizer``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from weft import Passage
from weft.apps.contextual_retrieval.program import SITUATE
from weft.apps.instructions import EXPAND
from weft.apps.reference_model.corpus import questions
from weft.apps.search_answer import offline
from weft.apps.search_answer.program import PROXY, TRUST

from .language import Ask, Branch, Compute, Each, Plan, Search, Tool
from .workload import Case, Sizes, Workload, World, brief, combined, from_passages, refined

__all__ = ["WORKLOADS"]

WEB_S: Final = 0.2
SITUATED: Final = 8
RATE: Final = (
    "Rate how relevant the passage is to the question, from 0 (unrelated) to 3 (contains the answer). "
    "Reply with one number."
)


async def look_up(query: str) -> str:
    """The best page of the offline web for a query, as late as a real one would come."""
    await asyncio.sleep(WEB_S)
    return "\n".join(page["text"] for page in offline.search(query, 1))


def in_context(contexts: Sequence[str], passages: Sequence[str]) -> list[Passage]:
    """Each passage behind the line that says what it is about."""
    pairs = enumerate(zip(contexts, passages, strict=True))
    return [Passage(f"{place}", f"{context}\n{passage}") for place, (context, passage) in pairs]


def best_three(passages: Sequence[Passage], ratings: Sequence[str]) -> list[Passage]:
    """The passages of the highest ratings; of equal ones the first."""
    ranked = sorted(zip(ratings, passages, strict=True), key=lambda pair: pair[0], reverse=True)
    return [passage for _, passage in ranked[:3]]


_EXPAND: Final = Ask("queries", (("system", EXPAND), ("user", "Question: {question}")), 64, form=list[str])
_SEARCHED: Final = Plan(
    ("question",),
    (
        _EXPAND,
        Each("pages", "queries", Plan(("item",), (Tool("page", look_up, ("item",)),), "page")),
        brief("answer", "{pages}"),
    ),
    "answer",
)
SEARCH_ENGINE: Final = Plan(
    ("question",),
    (
        Ask("guess", (("system", PROXY), ("user", "Question: {question}")), 24),
        Ask("trust", (("system", TRUST), ("user", "Question: {question}\nProposed answer: {guess}")), 4),
        Branch("reply", "trust", "yes", "guess", _SEARCHED),
    ),
    "reply",
)
NAIVE_RAG: Final = Plan(
    ("question",),
    (
        Search("found", "question", 3),
        *(brief(f"part{place}", f"{{found[{place}].text}}") for place in range(3)),
        combined("answer", [f"{{part{place}}}" for place in range(3)]),
    ),
    "answer",
)
_RATED: Final = Plan(
    ("item", "question"),
    (Ask("rating", (("system", RATE), ("user", "Passage: {item.text}\nQuestion: {question}")), 1),),
    "rating",
)
ADVANCED_RAG: Final = Plan(
    ("question",),
    (
        _EXPAND,
        Search("found", "queries", 4),
        Each("ratings", "found", _RATED),
        Compute("best", best_three, ("found", "ratings")),
        brief("first", "{best[0].text}"),
        refined("second", "{first}", "{best[1].text}"),
        refined("third", "{second}", "{best[2].text}"),
    ),
    "third",
)
CONTEXTUAL: Final = Plan(
    ("question", "passages", "surrounded"),
    (
        Each(
            "contexts",
            "surrounded",
            Plan(
                ("item",), (Ask("context", (("system", SITUATE), ("user", "{item}")), 24, "\n"),), "context"
            ),
        ),
        Compute("situated", in_context, ("contexts", "passages")),
        Each("ratings", "situated", _RATED),
        Compute("best", best_three, ("situated", "ratings")),
        from_passages("answer", "{best}"),
    ),
    "answer",
    frozenset({"passages", "surrounded"}),
)


def _look_ups(world: World, count: int) -> list[Case]:
    return [Case({"question": text}, answer) for text, answer in world.look_ups(world.rng("rag"), count)]


def _of_the_web(world: World, count: int) -> list[Case]:
    asked = [question for question in questions() if question.kind == "single"]
    return [Case({"question": q.text}, q.answer) for q in world.rng("web").sample(asked, count)]


def _documents(world: World, count: int) -> list[Case]:
    """Passages of one document each, with the two before and after them, as the paper has it."""
    rng = world.rng("contextual")
    cases: list[Case] = []
    for _ in range(count):
        asked = world.numbered(rng, SITUATED)
        around = [
            "\n".join([*asked.passages[max(0, place - 2) : place], *asked.passages[place + 1 : place + 3]])
            for place in range(SITUATED)
        ]
        surrounded = [
            f"Around it: {near}\n\nPassage: {text}" for near, text in zip(around, asked.passages, strict=True)
        ]
        cases.append(
            Case({"question": asked.question, "passages": list(asked.passages), "surrounded": surrounded})
        )
    return cases


WORKLOADS: Final = (
    Workload(
        "search engine",
        "Teola",
        f"guess, judge, expand, 3 look-ups of {WEB_S * 1e3:.0f} ms, answer",
        SEARCH_ENGINE,
        _of_the_web,
        Sizes(texts=2),
    ),
    Workload("naive RAG", "Teola", "search, 3 answers, combine", NAIVE_RAG, _look_ups, Sizes(texts=2)),
    Workload(
        "advanced RAG",
        "Teola",
        "expand, 3 searches, up to 12 ratings, answer, refine, refine",
        ADVANCED_RAG,
        _look_ups,
        Sizes(texts=2, found=4),
    ),
    Workload(
        "contextual retrieval",
        "Teola",
        f"{SITUATED} contexts, {SITUATED} ratings, answer from the best three",
        CONTEXTUAL,
        _documents,
        Sizes(passages=4, texts=4),
    ),
)
