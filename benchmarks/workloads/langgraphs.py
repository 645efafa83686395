"""The same workloads in LangGraph, as its documentation advises: async nodes, parallel branches, Send."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from weft import Client, Document, Passage
from weft.apps.contextual_retrieval.program import Part
from weft.apps.instructions import NOT_FOUND

from .baselines import Gathered, Run, merged
from .modules import CONTEXTUAL, look_up
from .programs import EACH, MANY

__all__ = ["langgraph_version", "langgraph_workloads"]


class _State(TypedDict, total=False):
    question: str
    documents: list[Document]
    queries: list[str]
    stored: bool
    found: Annotated[list[list[Passage]], operator.add]
    best: list[Passage]
    partial: Annotated[list[tuple[int, str]], operator.add]
    parts: list[Part]
    delay_ms: int
    guess: str
    reply: str
    place: int


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
        "refine_chain": _refine_chain(plain),
        "search_engine": _search_engine(plain),
        "contextual": _contextual(plain),
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
    return _runner(graph.compile(), "documents")


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


def _refine_chain(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph

    async def find(state: _State) -> dict[str, Any]:
        found = await call.find.ainvoke(state["question"], k=MANY)
        return {"best": found, "reply": NOT_FOUND, "place": 0}

    async def refine(state: _State) -> dict[str, Any]:
        place = state["place"]
        reply = await call.refine.ainvoke(state["question"], state["reply"], state["best"][place].text)
        return {"reply": reply, "place": place + 1}

    def go_on(state: _State) -> str:
        return "refine" if state["place"] < len(state["best"]) else END

    graph = StateGraph(_State)
    graph.add_node("find", find)
    graph.add_node("refine", refine)
    graph.add_edge(START, "find")
    graph.add_conditional_edges("find", go_on)
    graph.add_conditional_edges("refine", go_on)
    return _runner(graph.compile())


def _naive_tree(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    async def find(state: _State) -> dict[str, Any]:
        return {"best": await call.find.ainvoke(state["question"], k=3)}

    async def answer(state: Any) -> dict[str, Any]:
        reply = await call.answer.ainvoke(state["question"], state["text"])
        return {"partial": [(state["place"], reply)]}

    async def combine(state: _State) -> dict[str, Any]:
        return {"reply": await call.combine.ainvoke(state["question"], *_in_order(state["partial"]))}

    graph = StateGraph(_State)
    for node in (find, answer, combine):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "find")
    graph.add_conditional_edges(
        "find",
        lambda s: [
            Send("answer", {"question": s["question"], "place": place, "text": passage.text})
            for place, passage in enumerate(s["best"])
        ],
        ["answer"],
    )
    graph.add_edge("answer", "combine")
    graph.add_edge("combine", END)
    return _runner(graph.compile())


def _search_engine(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    async def guess(state: _State) -> dict[str, Any]:
        return {"guess": await call.guess.ainvoke(state["question"])}

    async def trust(state: _State) -> dict[str, Any]:
        trusted = await call.trust.ainvoke(state["question"], state["guess"]) == "yes"
        return {"reply": state["guess"]} if trusted else {}

    async def expand(state: _State) -> dict[str, Any]:
        return {"queries": await call.expand.ainvoke(state["question"])}

    async def page(state: Any) -> dict[str, Any]:
        return {"partial": [(state["place"], await look_up(state["query"], state["delay_ms"]))]}

    async def answer(state: _State) -> dict[str, Any]:
        return {"reply": await call.answer_from.ainvoke(state["question"], _in_order(state["partial"]))}

    graph = StateGraph(_State)
    for node in (guess, trust, expand, page, answer):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "guess")
    graph.add_edge("guess", "trust")
    graph.add_conditional_edges("trust", lambda s: END if "reply" in s else "expand", ["expand", END])
    graph.add_conditional_edges(
        "expand",
        lambda s: [
            Send("page", {"query": query, "place": place, "delay_ms": s["delay_ms"]})
            for place, query in enumerate(s["queries"])
        ],
        ["page"],
    )
    graph.add_edge("page", "answer")
    graph.add_edge("answer", END)
    return _runner(graph.compile(), "delay_ms")


def _contextual(call: Gathered) -> Run:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    async def situate(state: Any) -> dict[str, Any]:
        part = state["part"]
        return {"partial": [(state["place"], await call.situate.ainvoke(part.text, part.around))]}

    async def store(state: _State) -> dict[str, Any]:
        contexts = _in_order(state["partial"])
        pairs = zip(state["parts"], contexts, strict=True)
        documents = [Document(part.id, f"{context}\n{part.text}") for part, context in pairs]
        await call.store.ainvoke(documents, index=CONTEXTUAL)
        return {"stored": True}

    async def find(state: _State) -> dict[str, Any]:
        return {"found": [await call.find.ainvoke(state["question"], k=8, index=CONTEXTUAL)]}

    async def rank(state: _State) -> dict[str, Any]:
        return {"best": await call.rank.ainvoke(state["question"], state["found"][0], k=1)}

    async def answer(state: _State) -> dict[str, Any]:
        return {"reply": await call.answer.ainvoke(state["question"], state["best"][0].text)}

    graph = StateGraph(_State)
    for node in (situate, store, find, rank, answer):
        graph.add_node(node.__name__, node)
    graph.add_conditional_edges(
        START,
        lambda s: [Send("situate", {"part": part, "place": place}) for place, part in enumerate(s["parts"])],
        ["situate"],
    )
    chain = ("situate", "store", "find", "rank", "answer", END)
    for before, after in pairwise(chain):
        graph.add_edge(before, after)
    return _runner(graph.compile(), "parts")


def _in_order(found: list[tuple[int, str]]) -> list[str]:
    """Results that parallel branches have appended in any order, by their places."""
    return [text for _, text in sorted(found)]


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


def _runner(compiled: Any, *extra: str) -> Run:
    """What takes a question and the values of `extra` keys of the state."""

    async def run(question: str, *values: Any) -> str:
        state = {"question": question} | dict(zip(extra, values, strict=True))
        reply: str = (await compiled.ainvoke(state))["reply"]
        return reply

    return run
