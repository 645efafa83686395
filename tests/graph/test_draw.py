"""Drawings against the pictures in data/: `NAME.txt` is the text form, `NAME.mmd` the mermaid form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from weft.graph import draw
from weft.graph.codec import from_json
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.common import Const, Embed, Equals, Format, Gather, Input, Project, Search, Tool
from weft.graph.ops.control import Cond, Loop, Map
from weft.graph.ops.primitive import Decode, Prefill, Score, Upsert
from weft.graph.ops.user import Chunking, Generate, Ingest, Rerank, Select
from weft.graph.prompt import Fixed, Message, MessageCall, Slot
from weft.graph.sampling import Choices, Regex, Sampling
from weft.graph.types import INTEGER, JSON, STRINGS, TEXT, Effect

FILES = Path(__file__).parent / "data"


def from_file(name: str) -> Graph:
    return from_json((FILES / f"{name}.json").read_text())


def primitives() -> Graph:
    """Two questions on one shared context, and what an index needs."""
    system = Prefill("reference", (Fixed("<|system|>", trusted=True), Fixed("You are terse.\n")))
    ask = Prefill("reference", (Fixed("Question: "), Slot("question", "right"), Fixed("\nAnswer: ")))
    return Graph(
        (
            Node(0, Input("question")),
            Node(1, system, location="app.py:3"),
            Node(2, ask, {"question": Value(0), "kv": Value(1)}, location="app.py:14"),
            Node(3, Decode("reference", Sampling(64, stop=("\n",))), {"kv": Value(2)}, "draft", "app.py:14"),
            Node(4, Score("reference", ("yes", "no"), "greedy"), {"kv": Value(3)}),
            Node(5, Embed(), {"texts": Value(3, 1)}, policy=Policy(2.5, 3)),
            Node(6, Const("[]")),
            Node(7, Upsert("notes"), {"chunks": Value(6), "vectors": Value(5), "after": Value(9)}),
        ),
        (Value(3, 1), Value(4)),
        "primitives",
        {Value(9): Effect("notes")},
    )


def control() -> Graph:
    """A map over a list, a branch and a loop."""
    summarize = Graph(
        (
            Node(0, Input("item")),
            Node(1, Input("style")),
            Node(
                2, Format((Slot("style"), ": ", Slot("item", "left"))), {"style": Value(1), "item": Value(0)}
            ),
        ),
        (Value(2),),
    )
    twice = Graph((Node(0, Input("state", JSON)), Node(1, Const("true"))), (Value(0), Value(1)))
    yes, no = (Graph((Node(0, Const(word)),), (Value(0),)) for word in ('"yes"', '"no"'))
    return Graph(
        (
            Node(0, Input("items", STRINGS)),
            Node(1, Input("style")),
            Node(2, Map(summarize), {"items": Value(0), "style": Value(1)}, "summaries"),
            Node(3, Const('"formal"', TEXT)),
            Node(4, Equals(), {"a": Value(1), "b": Value(3)}),
            Node(5, Cond(yes, no), {"predicate": Value(4)}),
            Node(6, Loop(twice, 3), {"state": Value(2)}),
            Node(7, Gather("list"), {"0": Value(5), "1": Value(6)}),
        ),
        (Value(7),),
    )


def tools() -> Graph:
    """A bit of every other operation that users write."""
    ask = (Message("user", ("Is ", Slot("x"), " prime?")),)
    return Graph(
        (
            Node(0, Input("x", INTEGER, "7")),
            Node(1, Tool("factors", where="server", pure=True), {"number": Value(0)}),
            Node(2, Project("first factor"), {"value": Value(1)}),
            Node(3, Project(0), {"value": Value(1)}),
            Node(4, Select(ask, ("yes", "no"), "unconditional", "large"), {"x": Value(0)}),
            Node(5, Generate(ask, constraint=Regex("yes|no"), n=3), {"x": Value(0)}),
            Node(6, Generate(ask, constraint=Choices(("yes", "no")), model="large"), {"x": Value(0)}),
            Node(7, Ingest("notes", Chunking("fixed", 300, 30)), {"documents": Value(1)}),
            Node(8, Search("notes"), {"query": Value(6), "k": Value(0), "after": Value(7, 1)}),
            Node(9, Rerank(), {"query": Value(6), "passages": Value(8), "k": Value(0)}),
        ),
        (Value(9),),
    )


PICTURES: dict[str, Callable[[], Graph]] = {
    "two_step": lambda: from_file("two_step"),
    "rag": lambda: from_file("rag"),
    "primitives": primitives,
    "control": control,
    "tools": tools,
}


def test_text_of_a_conversation_with_calls() -> None:
    call = MessageCall("c1", "add", '{"a": 1}')
    said = (Message("assistant", ("Hm.",), (call,)), Message("assistant", (), (call,), written="x"))
    graph = Graph((Node(0, Input("x")), Node(1, Generate(said), {"x": Value(0)})), (Value(1),))
    assert 'generate(assistant("Hm.", add({"a": 1})), assistant(x=%0))' in draw.text(graph)


@pytest.mark.parametrize("name", PICTURES)
def test_text(name: str) -> None:
    assert draw.text(PICTURES[name]()) + "\n" == (FILES / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", PICTURES)
def test_mermaid(name: str) -> None:
    assert draw.mermaid(PICTURES[name]()) + "\n" == (FILES / f"{name}.mmd").read_text()


def constant(text: str) -> str:
    """How a constant segment of a prompt is drawn."""
    line = draw.text(Graph((Node(0, Format((text,))),), (Value(0),))).split("\n")[0]
    return line.removeprefix("%0 = format(").removesuffix(") -> text")


def test_short_constants_stand_in_full() -> None:
    assert constant('Say "hi"\n') == r'"Say \"hi\"\n"'
    assert constant("x" * 58) == f'"{"x" * 58}"'


@pytest.mark.parametrize("text", ["x" * 59, "\n" * 40, "\x00" * 40, "é" * 10_000, "a\u2028" * 30])
def test_long_constants_are_shortened(text: str) -> None:
    shown = constant(text)
    assert shown.endswith('…"')
    assert 50 <= len(shown) <= 60
    assert shown.isprintable()


def test_long_values_are_shortened() -> None:
    line = draw.text(Graph((Node(0, Const("[" + "1, " * 50_000 + "1]")),), ())).split("\n")[0]
    assert line == "%0 = const([" + "1, " * 19 + "1…) -> data"


def test_names_cannot_break_a_line() -> None:
    graph = Graph((Node(0, Input("a\nb"), {}, "n\n1", "app\n.py:1"),), (Value(0),))
    assert draw.text(graph) == "%0 = input(\"a\\nb\") -> text  # app\\n.py:1 'n\\n1'\nreturn %0"


def test_names_cannot_break_a_flowchart() -> None:
    graph = Graph((Node(0, Input('x"] --> y\nend #<b>')),), ())
    assert draw.mermaid(graph).split("\n")[1] == ('  n0[/"input x#34;#93; --#62; y#92;nend #35;#60;b#62;"/]')


def test_an_empty_graph() -> None:
    assert draw.text(Graph((), ())) == "return"
