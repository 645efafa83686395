"""Every optional pass preserves the outputs: with and without it, a run gives the same values.

The runs are interpreted with a model that is a pure function of what it has read, so that any change of a
prompt, of an operand or of an order shows in the outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.evaluate import evaluate, lift
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Equals, Format, Input, Project, Search
from weft.graph.ops.control import Cond, Loop, Map
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import Generate, Rerank, Select
from weft.graph.passes import OPTIONAL
from weft.graph.prompt import Fixed, Message, Piece, Slot, merge_fixed
from weft.graph.sampling import JsonSchema
from weft.graph.types import INTEGER, STRINGS, TEXT
from weft.graph.values import Datum, Json, KvValue, TextValue, VectorsValue, plain, render, strip


class Template:
    """A chat template that marks roles."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for message in messages:
            parts = [Fixed(part) if isinstance(part, str) else part for part in message.parts]
            pieces += [Fixed(f"<{message.role}>", True), *parts, Fixed("<end>", True)]
        return merge_fixed([*pieces, *([Fixed("<assistant>", True)] if add_generation_prompt else [])])


DEPLOYMENT = Deployment({"m": ModelSpec("m", 4096, Template())}, "m", indexes=frozenset({"docs"}))


def digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:6]


def run_engine(op: Op, args: Mapping[str, Datum]) -> tuple[Datum, ...]:
    """The engines, as pure functions. A kv value's key is the text that was read."""
    match op:
        case Prefill(pieces=pieces):
            kv = args.get("kv")
            text = kv.key if isinstance(kv, KvValue) else ""
            for p in pieces:
                text += p.text if isinstance(p, Fixed) else strip(render(args[p.name]), p.strip)
            return (KvValue(text),)
        case Decode(sampling=sampling, constraint=constraint):
            read = args["kv"]
            assert isinstance(read, KvValue)
            word = digest(read.key + f"|{sampling}")
            written = json.dumps([word, word[::-1]]) if constraint else word
            return KvValue(read.key + written), TextValue(written)
        case Score(choices=choices):
            read = args["kv"]
            assert isinstance(read, KvValue)
            scores = [int(digest(read.key + choice), 16) / 2**24 for choice in choices]
            return TextValue(choices[scores.index(max(scores))]), Json(scores)
        case Embed():
            texts = plain(args["texts"])
            rows = [[len(text)] for text in ([texts] if isinstance(texts, str) else texts)]
            return (VectorsValue(np.array(rows, dtype=np.float32).reshape(-1, 1)),)
        case Search():
            queries = plain(args["query"])
            queries = [queries] if isinstance(queries, str) else queries
            found = [{"id": digest(q), "text": f"about {q}", "score": 1.0} for q in queries]
            return (Json(found[: plain(args["k"])]),)
        case _:
            raise AssertionError(op)


def run(graph: Graph, inputs: Mapping[str, str], disabled: Collection[str] = ()) -> tuple[list[object], int]:
    """The outputs of a graph, and how many decodes they took."""
    live = LiveGraph(DEPLOYMENT, disabled=disabled)
    known: dict[Value, Datum] = {}
    todo = list(live.extend(graph, closed=True))
    decodes = 0
    while todo:
        node = next(n for n in todo if all(v in known for v in n.args.values()))
        todo.remove(node)
        args = {name: known[value] for name, value in node.args.items()}
        if node.op.kind == "control":
            todo += live.expand(node.id, args)
            continue
        decodes += isinstance(node.op, Decode)
        if isinstance(node.op, Input):
            results: tuple[Datum, ...] = (lift(inputs[node.op.name]),)
        else:
            results = evaluate(node.op, args) if node.op.kind == "host" else run_engine(node.op, args)
        known.update({Value(node.id, i): result for i, result in enumerate(results)})
    return [plain(known[live.resolve(value)]) for value in graph.outputs], decodes


class Author:
    """Writes random programs in the user's dialect."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[Node] = []
        self.texts: list[Value] = []
        self.lists: list[Value] = []

    def add(self, op: Op, **args: Value) -> Value:
        self.nodes.append(Node(len(self.nodes), op, args))
        return Value(len(self.nodes) - 1)

    def text(self) -> Value:
        return self.draw(st.sampled_from(self.texts))

    def messages(self, slots: Mapping[str, Value]) -> tuple[Message, ...]:
        words = st.sampled_from(["", "Say: ", "List: "])
        return (Message("user", (self.draw(words), *map(Slot, slots))),)

    def step(self) -> None:
        kinds = ["gen", "list", "format", "select", "item", "chat", "sample", "search", "map", "cond", "loop"]
        kind = self.draw(st.sampled_from(kinds))
        slots = {name: self.text() for name in self.draw(st.sampled_from(["a", "ab"]))}
        if kind == "gen":
            self.texts.append(self.add(Generate(self.messages(slots)), **slots))
        elif kind == "sample":
            listed = self.add(Generate(self.messages(slots), n=2), **slots)
            self.lists.append(listed)
        elif kind == "list":
            self.lists.append(
                self.add(Generate(self.messages(slots), STRINGS, constraint=JSON_LIST), **slots)
            )
        elif kind == "format":
            self.texts.append(self.add(Format(tuple(map(Slot, slots))), **slots))
        elif kind == "select":
            self.texts.append(self.add(Select(self.messages(slots), ("x", "y")), **slots))
        elif kind == "chat":
            self.chat(slots)
        else:
            self.compound(kind, slots)

    def chat(self, slots: Mapping[str, Value]) -> None:
        first = self.messages(slots)
        reply = self.add(Generate(first), **slots)
        second = (*first, Message("assistant", (Slot("r"),)), Message("user", ("And?",)))
        self.texts.append(self.add(Generate(second), **slots, r=Value(reply.node, 1)))

    def compound(self, kind: str, slots: Mapping[str, Value]) -> None:
        if kind == "item" and self.lists:
            self.texts.append(self.add(Project(0), value=self.draw(st.sampled_from(self.lists))))
        elif kind == "map" and self.lists:
            items = self.draw(st.sampled_from(self.lists))
            self.lists.append(self.add(Map(BODY), items=items, other=self.text()))
        elif kind == "search":
            k = self.add(Const("2", INTEGER))
            found = self.add(Search("docs"), query=self.text(), k=k)
            self.lists.append(self.add(Rerank(), query=self.text(), passages=found, k=k))
            self.texts.append(self.add(Format((Slot("p"),)), p=self.lists.pop()))
        elif kind == "cond":
            same = self.add(Equals(), a=self.text(), b=self.text())
            self.texts.append(self.add(Cond(BRANCH, OTHER), predicate=same, other=self.text()))
        elif kind == "loop":
            self.texts.append(self.add(Loop(TURN, limit=2), state=self.text(), other=self.text()))


JSON_LIST = JsonSchema(STRINGS.schema)
BODY = Graph(
    (
        Node(0, Input("item")),
        Node(1, Input("other")),
        Node(
            2, Generate((Message("user", (Slot("i"), " with ", Slot("o"))),)), {"i": Value(0), "o": Value(1)}
        ),
    ),
    (Value(2),),
)
BRANCH = Graph(
    (Node(0, Input("other")), Node(1, Generate((Message("user", ("Yes ", Slot("o"))),)), {"o": Value(0)})),
    (Value(1),),
)
OTHER = Graph((Node(0, Const('"no"', TEXT)),), (Value(0),))
TURN = Graph(
    (
        Node(0, Input("state")),
        Node(1, Input("other")),
        Node(2, Generate((Message("user", ("Next ", Slot("s"))),)), {"s": Value(0)}),
        Node(3, Equals(), {"a": Value(2), "b": Value(1)}),
    ),
    (Value(2), Value(3)),
)


@st.composite
def programs(draw: st.DrawFn) -> Graph:
    author = Author(draw)
    author.texts = [author.add(Input("p")), author.add(Input("q"))]
    for _ in range(draw(st.integers(1, 8))):
        author.step()
    outputs = draw(st.lists(st.sampled_from(author.texts + author.lists), min_size=1, max_size=3))
    return Graph(tuple(author.nodes), tuple(outputs))


@settings(max_examples=150, deadline=None)
@given(programs(), st.sampled_from(["", "x"]), st.sampled_from(["", "x"]))
def test_each_optional_pass_preserves_the_outputs(graph: Graph, p: str, q: str) -> None:
    inputs = {"p": p, "q": q}
    expected, plain_decodes = run(graph, inputs, disabled=OPTIONAL)
    for disabled in ([], *[[name] for name in OPTIONAL]):
        outputs, decodes = run(graph, inputs, disabled)
        assert outputs == expected
        assert decodes <= plain_decodes


def test_a_pass_that_does_not_exist_cannot_be_switched_off() -> None:
    with pytest.raises(ValueError, match="no optional pass 'prunes'; known: prune, dedupe"):
        LiveGraph(DEPLOYMENT, disabled=["prunes"])
