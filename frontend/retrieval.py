"""`ingest`, `search`, `rerank`, `neighbours` and `embed`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from weft.graph.ir import Value
from weft.graph.ops.common import Embed, Neighbours, Search, SearchMode
from weft.graph.ops.user import Chunking, Ingest, Rerank

from .errors import TraceError
from .location import located
from .passages import FOUND, Document, Passage
from .pytypes import py_type
from .trace import BodyTrace, Trace, current
from .var import Var

__all__ = ["Documents", "embed", "ingest", "neighbours", "rerank", "search"]

Documents = Sequence[str | Document | Mapping[str, Any]] | Var[Any]
"""Texts, `Document`s, or objects with the fields of one."""

_DEFAULT_CHUNKING: Final = Chunking()


def embed(
    texts: str | Sequence[str] | Var[Any], *, model: str = "", name: str = ""
) -> Var[list[list[float]]]:
    """The embedding of each text, L2-normalized; a list of one for a single text."""
    trace = current("embed()")
    value = trace.add(Embed(model), {"texts": trace.lift(texts)}, name=name)
    return trace.var(value, py_type(list[list[float]]))


def ingest(
    index: str, documents: Documents, *, chunking: Chunking = _DEFAULT_CHUNKING, name: str = ""
) -> Var[dict[str, Any]]:
    """Cut documents into passages, embed them and put them into an index.

    A document of an id that is there replaces it; one that has not changed costs nothing. It comes after the
    searches of the index that the program has made, and before those that it makes later. Gives a report
    {passages_added, passages_replaced, version}. Raises TraceError.
    """
    trace = current("ingest()")
    _expect_name("ingest", index)
    if isinstance(trace, BodyTrace):
        raise TraceError(
            located(
                "ingest() cannot stand in the body of map, cond or loop, as nothing could come after it; "
                "ingest a list of documents at once, or write an async program"
            )
        )
    operands = {"documents": trace.lift(_listed(documents)), **trace.behind(index)}
    value = trace.add(Ingest(index, chunking), operands, name=name)
    report = trace.var(value, py_type(dict[str, Any]))
    trace.had_effect(index, Value(value.node, 1), report)
    return report


def search(
    index: str,
    query: str | Sequence[str] | Var[Any],
    *,
    k: int | Var[int] = 8,
    mode: SearchMode = "hybrid",
    where: Mapping[str, Any] | Var[Any] | None = None,
    name: str = "",
) -> Var[list[Passage]]:
    """The best `k` passages of an index, best first; for a list of queries, those of all, each once.

    `mode`: by embeddings (`vector`), by words (`lexical`), or both fused (`hybrid`).
    `where`: only passages of documents with this metadata, ``{"year": 2026, "team": ["hr", "it"]}``; any
    value of a list will do. Raises TraceError.
    """
    trace = current("search()")
    _expect_name("search", index)
    if mode not in get_args(SearchMode):
        raise TraceError(
            located(f"unknown mode {mode!r} of search(); known: {', '.join(map(repr, get_args(SearchMode)))}")
        )
    operands = {"query": trace.lift(query), "k": _count("search", k, trace), **trace.effect(index)}
    if where is not None:
        operands["where"] = trace.lift(where if isinstance(where, Var) else _condition(where))
    return trace.var(trace.add(Search(index, mode), operands, name=name), FOUND)


def rerank(
    query: str | Var[str],
    passages: Sequence[Passage] | Var[Any],
    *,
    k: int | Var[int] = 3,
    name: str = "",
) -> Var[list[Passage]]:
    """The `k` passages that answer the query best, best first, scored by a cross-encoder or by the model."""
    trace = current("rerank()")
    operands = {
        "query": trace.lift(query),
        "passages": trace.lift(passages if isinstance(passages, Var) else list(passages)),
        "k": _count("rerank", k, trace),
    }
    return trace.var(trace.add(Rerank(), operands, name=name), FOUND)


def neighbours(
    index: str,
    passages: Sequence[Passage] | Var[Any],
    *,
    preceding: int = 1,
    following: int = 1,
    name: str = "",
) -> Var[list[Passage]]:
    """Each passage between those that stand before and after it in its document, each passage once.

    A passage that begins with "It" or "The firm" says little without the one before it: put what a search or
    `rerank` found between its neighbours before a model reads it. Those of one document that touch come in
    the order of the document; otherwise the best stay first. A run whose passages are of another index fails.
    Raises TraceError.
    """
    trace = current("neighbours()")
    _expect_name("neighbours", index)
    for what, count in (("preceding", preceding), ("following", following)):
        if type(count) is not int or count < 0:
            raise TraceError(located(f"{what} of neighbours() must be a whole number from 0, not {count!r}"))
    found = trace.lift(passages if isinstance(passages, Var) else list(passages))
    operands = {"passages": found, **trace.effect(index)}
    return trace.var(trace.add(Neighbours(index, preceding, following), operands, name=name), FOUND)


def _listed(documents: Documents) -> Any:
    if isinstance(documents, Var):
        return documents
    if isinstance(documents, (str, Mapping, Document)):
        raise TraceError(located("ingest() takes a list of documents; write [document] for a single one"))
    return [_plain(document) for document in documents]


def _plain(document: str | Document | Mapping[str, Any]) -> Any:
    if isinstance(document, Document):
        fields = {field.name: getattr(document, field.name) for field in dataclasses.fields(document)}
        return {name: value for name, value in fields.items() if name in ("id", "text") or _given(value)}
    if isinstance(document, Mapping):
        missing = [name for name in ("id", "text") if name not in document]
        if missing:
            raise TraceError(located(f"a document lacks {missing[0]!r}; it has id, text, source?, metadata?"))
        return dict(document)
    return document


def _given(value: object) -> bool:
    return isinstance(value, Var) or value not in ("", {})


def _expect_name(what: str, index: object) -> None:
    if type(index) is not str or not index:
        remedy = "; annotate the parameter Static[str]" if isinstance(index, Var) else ""
        raise TraceError(located(f"the index of {what}() must be a constant name, not {index!r}{remedy}"))


def _condition(where: object) -> dict[str, Any]:
    if not isinstance(where, Mapping):
        raise TraceError(located(f"where of search() must be a dict of metadata fields, not {where!r}"))
    for name, wanted in where.items():
        for value in wanted if isinstance(wanted, list) else [wanted]:
            if not isinstance(value, (str, int, float, Var, type(None))):
                raise TraceError(
                    located(
                        f"where[{name!r}] of search() must be a text, a number, a boolean or None, "
                        f"or a list of these, not {value!r}"
                    )
                )
    return dict(where)


def _count(what: str, k: int | Var[int], trace: Trace) -> Value:
    if not isinstance(k, Var) and (type(k) is not int or k < 1):
        raise TraceError(located(f"k of {what}() must be a positive whole number, not {k!r}"))
    return trace.lift(k)
