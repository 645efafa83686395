"""The same workloads without weft's graphs: module by module, with asyncio, and in LangGraph.

Each calls the modules as programs of one operation on the same server, so that engines, caches and prompts
are the same; only the orchestration differs.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from weft import Client, Document, Passage

from . import modules
from .programs import EACH

__all__ = ["Gathered", "Sequential", "langgraph_version", "langgraph_workloads"]

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


# ---- LangGraph


class _State(TypedDict, total=False):
    question: str
    documents: list[Document]
    queries: list[str]
    stored: bool
    found: Annotated[list[list[Passage]], operator.add]
    best: list[Passage]
    partial: Annotated[list[str], operator.add]
    reply: str


def langgraph_version() -> str:
    """The version that is installed. Raises ImportError with the remedy."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("langgraph")
    except PackageNotFoundError:
        raise ImportError("LangGraph is not installed; run: pip install 'weft[bench]'") from None


def langgraph_workloads(client: Client) -> Mapping[str, Run]:
    """The workloads as compiled StateGraphs: async nodes, parallel branches, fan-out by Send."""
    plain = Gathered(client)
    return {
        "advanced_rag": _advanced(plain),
        "naive_rag_refine": _naive_refine(plain),
        "naive_rag_tree": _naive_tree(plain),
    }


def _advanced(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    async def store(state: _State) -> dict[str, Any]:
        await call.store.ainvoke(state["documents"])
        return {"stored": True}

    async def expand(state: _State) -> dict[str, Any]:
        return {"queries": await call.expand.ainvoke(state["question"])}

    async def ready(state: _State) -> dict[str, Any]:
        return {}

    async def find(state: Any) -> dict[str, Any]:
        return {"found": [await call.find.ainvoke(state["query"], k=EACH)]}

    async def rank(state: _State) -> dict[str, Any]:
        return {"best": await call.rank.ainvoke(state["question"], merged(state["found"]), k=3)}

    graph = StateGraph(_State)
    for node in (store, expand, ready, find, rank):
        graph.add_node(node.__name__, node)
    last = _add_refine(graph, call, "best")
    graph.add_edge(START, "store")
    graph.add_edge(START, "expand")
    graph.add_edge(["store", "expand"], "ready")
    graph.add_conditional_edges(
        "ready", lambda s: [Send("find", {"query": q}) for q in s["queries"]], ["find"]
    )
    graph.add_edge("find", "rank")
    graph.add_edge("rank", "answer")
    graph.add_edge(last, END)
    return _runner(graph.compile())


def _naive_refine(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph

    async def find(state: _State) -> dict[str, Any]:
        return {"best": await call.find.ainvoke(state["question"], k=3)}

    graph = StateGraph(_State)
    graph.add_node("find", find)
    last = _add_refine(graph, call, "best")
    graph.add_edge(START, "find")
    graph.add_edge("find", "answer")
    graph.add_edge(last, END)
    return _runner(graph.compile())


def _naive_tree(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    async def find(state: _State) -> dict[str, Any]:
        return {"best": await call.find.ainvoke(state["question"], k=3)}

    async def answer(state: Any) -> dict[str, Any]:
        return {"partial": [await call.answer.ainvoke(state["question"], state["text"])]}

    async def combine(state: _State) -> dict[str, Any]:
        return {"reply": await call.combine.ainvoke(state["question"], *state["partial"])}

    graph = StateGraph(_State)
    for node in (find, answer, combine):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "find")
    graph.add_conditional_edges(
        "find",
        lambda s: [Send("answer", {"question": s["question"], "text": p.text}) for p in s["best"]],
        ["answer"],
    )
    graph.add_edge("answer", "combine")
    graph.add_edge("combine", END)
    return _runner(graph.compile())


def _add_refine(graph: Any, call: Gathered, key: str) -> str:
    """Nodes that answer from the first passage and refine with the other two; the name of the last."""

    async def answer(state: Any) -> dict[str, Any]:
        return {"reply": await call.answer.ainvoke(state["question"], state[key][0].text)}

    def refine(place: int) -> Callable[[Any], Awaitable[dict[str, Any]]]:
        async def step(state: Any) -> dict[str, Any]:
            text = state[key][place].text
            return {"reply": await call.refine.ainvoke(state["question"], state["reply"], text)}

        return step

    graph.add_node("answer", answer)
    graph.add_node("refine1", refine(1))
    graph.add_node("refine2", refine(2))
    graph.add_edge("answer", "refine1")
    graph.add_edge("refine1", "refine2")
    return "refine2"


def _runner(compiled: Any) -> Run:
    async def run(question: str, documents: list[Document] | None = None) -> str:
        state = {"question": question} | ({"documents": documents} if documents is not None else {})
        reply: str = (await compiled.ainvoke(state))["reply"]
        return reply

    return run
