"""The same workloads without weft's graphs: module by module, and with asyncio.

Each calls the modules as programs of one operation, so that engines, caches and prompts are the same; only
the orchestration differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from weft import Client, Document, Passage
from weft.apps.contextual_retrieval.program import Part
from weft.apps.instructions import NOT_FOUND

from . import modules
from .modules import CONTEXTUAL, look_up
from .programs import EACH, MANY

__all__ = ["Gathered", "Run", "Sequential", "merged"]

Run = Callable[..., Awaitable[str]]


def merged(lists: Sequence[Sequence[Passage]]) -> list[Passage]:
    """The passages of several queries one after another, each once."""
    first: dict[str, Passage] = {}
    for passage in (passage for found in lists for passage in found):
        first.setdefault(passage.id, passage)
    return list(first.values())


class Sequential:
    """One module after the other, as LlamaIndex or LangChain run a chain."""

    def __init__(self, client: Client) -> None:
        self.store = modules.store.using(client)
        self.expand = modules.expand.using(client)
        self.find = modules.find.using(client)
        self.rank = modules.rank.using(client)
        self.answer = modules.answer.using(client)
        self.refine = modules.refine.using(client)
        self.combine = modules.combine.using(client)
        self.guess = modules.guess.using(client)
        self.trust = modules.trust.using(client)
        self.answer_from = modules.answer_from.using(client)
        self.situate = modules.situate.using(client)

    async def advanced_rag(self, question: str, documents: list[Document]) -> str:
        """As the program of that name."""
        await self.store.ainvoke(documents)
        queries = await self.expand.ainvoke(question)
        return await self._answer(question, await self._search(queries))

    async def naive_rag_refine(self, question: str) -> str:
        """As the program of that name."""
        return await self._refined(question, await self.find.ainvoke(question, k=3))

    async def naive_rag_tree(self, question: str) -> str:
        """As the program of that name."""
        found = await self.find.ainvoke(question, k=3)
        partial = await self._each([self.answer.ainvoke(question, passage.text) for passage in found])
        return await self.combine.ainvoke(question, *partial)

    async def refine_chain(self, question: str) -> str:
        """As the program of that name."""
        reply = NOT_FOUND
        for passage in await self.find.ainvoke(question, k=MANY):
            reply = await self.refine.ainvoke(question, reply, passage.text)
        return reply

    async def search_engine(self, question: str, delay_ms: int) -> str:
        """As the program of that name."""
        guess = await self.guess.ainvoke(question)
        if await self.trust.ainvoke(question, guess) == "yes":
            return guess
        queries = await self.expand.ainvoke(question)
        return await self.answer_from.ainvoke(
            question, await self._each([look_up(query, delay_ms) for query in queries])
        )

    async def contextual(self, question: str, parts: list[Part]) -> str:
        """As the program of that name."""
        contexts = await self._each([self.situate.ainvoke(part.text, part.around) for part in parts])
        documents = [
            Document(p.id, f"{context}\n{p.text}") for p, context in zip(parts, contexts, strict=True)
        ]
        await self.store.ainvoke(documents, index=CONTEXTUAL)
        found = await self.find.ainvoke(question, k=8, index=CONTEXTUAL)
        best = await self.rank.ainvoke(question, found, k=1)
        return await self.answer.ainvoke(question, best[0].text)

    async def _search(self, queries: Sequence[str]) -> list[Passage]:
        return merged(await self._each([self.find.ainvoke(query, k=EACH) for query in queries]))

    async def _answer(self, question: str, found: list[Passage]) -> str:
        return await self._refined(question, await self.rank.ainvoke(question, found, k=3))

    async def _refined(self, question: str, best: Sequence[Passage]) -> str:
        reply = await self.answer.ainvoke(question, best[0].text)
        for passage in best[1:]:
            reply = await self.refine.ainvoke(question, reply, passage.text)
        return reply

    async def _each(self, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        return [await call for call in calls]


class Gathered(Sequential):
    """The same with every call that depends on no other made at once (Teola's LlamaDistPC)."""

    async def advanced_rag(self, question: str, documents: list[Document]) -> str:
        """Indexing and expansion do not need each other."""
        _, queries = await asyncio.gather(self.store.ainvoke(documents), self.expand.ainvoke(question))
        return await self._answer(question, await self._search(queries))

    async def _each(self, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        return list(await asyncio.gather(*calls))
