"""What is written to an index and what is read from it come in the order of the program."""

from __future__ import annotations

from typing import Any

from weft import Chunking, Document, gen, ingest, map, program, rerank, search

from .traced import text_of


def test_effects_order_searches() -> None:
    def fill(document: str) -> Any:
        ingest("a", [document])
        ingest("a", [Document("d", "text", metadata={"x": 1})], chunking=Chunking("fixed", 10, 2))
        search("b", "q")
        return map(lambda q: search("a", q), ["x"]), search("a", "q", mode="lexical")

    text = text_of(fill)
    assert 'ingest("a", after=' in text
    graph = program(fill).graph()
    assert [sorted(n.args) for n in graph if n.op.label() == "search"] == [
        ["k", "query"],
        ["after", "k", "query"],
    ]
    (mapped,) = [node for node in graph if node.op.label() == "map"]
    report = [node.id for node in graph if node.op.label() == "ingest"][-1]
    assert (report, 0) in mapped.args.values()


def test_what_was_read_is_read_before_the_next_write() -> None:
    """However long the query of a search takes: it must not find what is ingested after it."""

    def refill(document: str) -> Any:
        ingest("a", [document])
        found = search("a", gen("What to look for?"))
        mapped = map(lambda q: search("a", rerank(q, search("a", q))[0].text), ["x"])
        search("b", "q")
        ingest("a", [found[0].text])
        ingest("a", [document])
        return found, mapped

    graph = program(refill).graph()
    first, second, third = (node for node in graph if node.op.label() == "ingest")
    (order,) = [node for node in graph if node.op.label() == "order"]
    reads = [node.id for node in graph if node.op.label() in ("search", "map")][:2]
    assert order.args == {"0": (reads[0], 0), "1": (reads[1], 0), "after": (first.id, 1)}
    assert second.args["after"] == (order.id, 0)
    assert third.args["after"] == (second.id, 1)
