"""Random programs, and an interpreter of runs with engines that are functions of what they are given."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.evaluate import evaluate, lift
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.observed import Observed
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Equals, Format, Input, Order, Project, Search
from weft.graph.ops.control import Cond, Fold, Loop, Map
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Rate, Score, Upsert
from weft.graph.ops.user import Generate, Ingest, Rerank, Select
from weft.graph.passes.base import Builder, Rewrite
from weft.graph.prompt import Fixed, Message, Piece, Slot, merge_fixed
from weft.graph.sampling import JsonSchema
from weft.graph.types import INTEGER, STRINGS, TEXT, Data
from weft.graph.values import EFFECT, Datum, Json, KvValue, TextValue, VectorsValue, plain, render, strip
from weft.graph.verify import verify


@pytest.fixture(autouse=True, scope="session")
def verified() -> Iterator[None]:
    """The graph is verified after every pass."""
    rewrite = Builder.rewrite

    def checked(builder: Builder, summary: str) -> Rewrite:
        done = rewrite(builder, summary)
        verify(replace(done.graph, outputs=()))  # contexts and effects may leave an increment
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Builder, "rewrite", checked)
        yield


class Template:
    """A chat template that marks roles."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for message in messages:
            parts = [Fixed(part) if isinstance(part, str) else part for part in message.parts]
            pieces += [Fixed(f"<{message.role}>", True), *parts, Fixed("<end>", True)]
        return merge_fixed([*pieces, *([Fixed("<assistant>", True)] if add_generation_prompt else [])])


DEPLOYMENT = Deployment(
    {"m": ModelSpec("m", 4096, Template())}, "m", indexes=frozenset({"docs"}), batches={"embed": 2}
)


def digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:6]


def write(text: str, schema: str) -> str:
    """What the model writes after `text`: a list of words, or an object of a word and perhaps no list."""
    word = digest(text)
    words = [word[i : i + 2] for i in range(int(word[0], 16) % 5)]
    is_list = json.loads(schema)["type"] == "array"
    return json.dumps([word, *words] if is_list else {"title": word, "items": words})


class Engines:
    """All engines as functions of what they are given, and one index. A kv value's key is what was read."""

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}
        self.decodes = 0

    def compute(self, op: Op, args: Mapping[str, Datum]) -> tuple[Datum, ...]:
        match op:
            case Prefill(pieces=pieces):
                kv = args.get("kv")
                text = kv.key if isinstance(kv, KvValue) else ""
                for p in pieces:
                    text += p.text if isinstance(p, Fixed) else strip(render(args[p.name]), p.strip)
                return (KvValue(text),)
            case Decode(sampling=sampling, constraint=constraint):
                self.decodes += 1
                read = args["kv"]
                assert isinstance(read, KvValue)
                schema = constraint.schema if isinstance(constraint, JsonSchema) else ""
                prompt = read.key + f"|{sampling}"
                written = write(prompt, schema) if schema else digest(prompt)
                return KvValue(read.key + written), TextValue(written)
            case Score(choices=choices):
                read = args["kv"]
                assert isinstance(read, KvValue)
                scores = [int(digest(read.key + choice), 16) / 2**24 for choice in choices]
                return TextValue(choices[scores.index(max(scores))]), Json(scores)
            case Rate():
                passages = plain(args["passages"])
                scores = [int(digest(render(args["query"]) + p["text"]), 16) for p in passages]
                rated = [{**p, "score": score} for p, score in zip(passages, scores, strict=True)]
                best = sorted(rated, key=lambda passage: -passage["score"])
                return (Json(best[: plain(args["k"])]),)
            case Embed():
                rows = [[int(digest(text), 16)] for text in texts_of(args["texts"])]
                return (VectorsValue(np.array(rows, dtype=np.float32).reshape(-1, 1)),)
            case Chunk():
                return self.chunk(list(dict.fromkeys(texts_of(args["documents"]))))
            case Upsert():
                return self.upsert(op, plain(args["chunks"]))
            case Search():
                stored = self.stored if op.index == "docs" else {}
                return (Json(search(stored, texts_of(args["query"]), plain(args["k"]))),)
            case _:
                raise AssertionError(op)

    def chunk(self, documents: Sequence[str]) -> tuple[Datum, ...]:
        chunks = [
            {"id": f"{text}#{n}", "document": text, "text": f"{text} {n}"}
            for text in documents
            for n in (1, 2, 3)
        ]
        return Json(chunks), Json([chunk["text"] for chunk in chunks])

    def upsert(self, op: Upsert, chunks: Sequence[Mapping[str, str]]) -> tuple[Datum, ...]:
        sizes = {part.document: part.passages for part in op.partial}
        here = {chunk["id"]: chunk["text"] for chunk in chunks}
        documents = {chunk["document"] for chunk in chunks}
        stale = [
            known
            for known in self.stored
            if (document := known.split("#")[0]) in documents
            and known not in here
            and int(known.split("#")[1]) > sizes.get(document, 0)
        ]
        added = len(here.keys() - self.stored.keys())
        for known in stale:
            del self.stored[known]
        self.stored.update(here)
        return Json({"passages_added": added, "passages_replaced": len(chunks) - added, "version": 1}), EFFECT


def search(stored: Mapping[str, str], queries: Sequence[str], k: int) -> list[dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for query in queries:
        for known in sorted(stored, key=lambda known: digest(query + known))[:k]:
            found.setdefault(known, {"id": known, "text": stored[known], "score": 1.0})
        found.setdefault(query, {"id": query, "text": f"about {query}", "score": 0.5})
    return list(found.values())


def texts_of(datum: Datum) -> list[str]:
    data = plain(datum)
    return [data] if isinstance(data, str) else data


class Interpreter:
    """Runs a graph as a server would: what a model writes is seen piece by piece while other nodes run."""

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Any],
        disabled: Collection[str] = (),
        seed: int = 0,
        engines: Engines | None = None,
        deployment: Deployment | None = None,
        observed: Observed | None = None,
    ) -> None:
        self.graph, self.inputs = graph, inputs
        self.live = LiveGraph(deployment or DEPLOYMENT, disabled=disabled, observed=observed)
        self.engines = engines or Engines()
        self.known: dict[Value, Datum] = {}
        self.todo: dict[int, Node] = {}
        self.writing: dict[int, tuple[tuple[Datum, ...], str]] = {}  # results, and what is not yet written
        self.random = random.Random(seed)
        self.idle = True  # whether models have time for guesses
        self.early = 0  # values known before what they are part of

    def run(self) -> list[object]:
        self.grow(Growth(self.live.extend(self.graph, closed=True)))
        while self.todo or self.writing:
            ready = [n for n in self.todo.values() if all(v in self.known for v in n.args.values())]
            choices: list[Node | int] = [*ready, *self.writing]
            assert choices, f"nothing can run: {list(self.todo.values())}"
            chosen = self.random.choice(choices)
            if isinstance(chosen, int):
                self.write(chosen)
            else:
                self.start(chosen)
        return self.outputs()

    def outputs(self) -> list[object]:
        return [plain(self.known[self.live.resolve(value)]) for value in self.graph.outputs]

    def grow(self, growth: Growth) -> None:
        self.todo.update((node.id, node) for node in growth.nodes if Value(node.id) not in self.known)
        for node in growth.nodes:
            verify(Graph((node,), (), outside={v: self.live.types[v] for v in node.args.values()}))
        self.take_in(*self.live.catch_up(growth.nodes))
        if growth.more and growth.control is not None:
            self.grow(self.live.advance(growth.control))

    def take_in(self, known: Mapping[Value, Datum], grown: Sequence[Growth]) -> None:
        for growth in grown:
            self.grow(growth)
        self.early += len(known)
        self.learn(known)

    def learn(self, values: Mapping[Value, Datum]) -> None:
        self.known.update(values)
        for value in values:
            self.todo.pop(value.node, None)
        for control in self.live.learned(values):
            self.grow(self.live.advance(control))

    def start(self, node: Node) -> None:
        args = {name: self.known[value] for name, value in node.args.items()}
        del self.todo[node.id]
        if node.op.kind == "control":
            self.grow(self.live.expand(node.id, args, idle=self.idle))
            return
        if isinstance(node.op, Input):
            self.learn({Value(node.id): lift(self.inputs[node.op.name])})
        elif node.op.kind == "host":
            self.learn({Value(node.id, i): found for i, found in enumerate(evaluate(node.op, args))})
        else:
            self.compute(node, args)

    def compute(self, node: Node, args: Mapping[str, Datum]) -> None:
        results = self.engines.compute(node.op, args)
        if isinstance(node.op, Decode):
            self.live.streams.begin(node.id)
            self.writing[node.id] = results, str(plain(results[1]))
        else:
            self.learn({Value(node.id, i): result for i, result in enumerate(results)})

    def write(self, decode: int) -> None:
        results, rest = self.writing[decode]
        size = self.random.randint(1, 9)
        self.writing[decode] = results, rest[size:]
        self.take_in(*self.live.written(decode, rest[:size]))
        if not rest[size:]:
            del self.writing[decode]
            self.live.streams.ended(decode, str(plain(results[1])))
            self.learn({Value(decode, i): result for i, result in enumerate(results)})


class Author:
    """Writes random programs in the user's dialect."""

    def __init__(self, draw: st.DrawFn, beginnings: Sequence[str]) -> None:
        self.draw = draw
        self.beginnings = beginnings  # of prompts
        self.nodes: list[Node] = []
        self.texts: list[Value] = []
        self.lists: list[Value] = []
        self.filled: list[Value] = []  # lists that hold something
        self.others: list[Value] = []
        self.effect: Value | None = None
        self.found: Value | None = None

    def add(self, op: Op, **args: Value) -> Value:
        self.nodes.append(Node(len(self.nodes), op, args))
        return Value(len(self.nodes) - 1)

    def text(self) -> Value:
        return self.draw(st.sampled_from(self.texts))

    def messages(self, slots: Mapping[str, Value]) -> tuple[Message, ...]:
        begin = self.draw(st.sampled_from(self.beginnings))
        return (Message("user", (begin, *map(Slot, slots))),)

    def data(self, kind: Data, slots: Mapping[str, Value]) -> Value:
        return self.add(Generate(self.messages(slots), kind, constraint=JsonSchema(kind.schema)), **slots)

    def step(self) -> None:
        kinds = ["gen", "list", "format", "select", "chat", "sample", *COMPOUND]
        kind = self.draw(st.sampled_from(kinds))
        slots = {name: self.text() for name in self.draw(st.sampled_from(["a", "ab"]))}
        if kind == "gen":
            self.texts.append(self.add(Generate(self.messages(slots)), **slots))
        elif kind == "sample":
            listed = self.add(Generate(self.messages(slots), n=2), **slots)
            self.lists.append(listed)
        elif kind == "list":
            self.filled.append(self.data(STRINGS, slots))
            self.lists.append(self.filled[-1])
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
        if kind == "item" and self.filled:
            self.texts.append(self.add(Project(0), value=self.draw(st.sampled_from(self.filled))))
        elif kind == "object":
            made = self.data(OBJECT, slots)
            self.texts.append(self.add(Project("title"), value=made))
            self.lists.append(self.add(Project("items"), value=made))
        elif kind == "map" and self.lists:
            items = self.draw(st.sampled_from(self.lists))
            limit = self.draw(st.sampled_from([0, 1, 2]))
            self.lists.append(self.add(Map(BODY, limit), items=items, other=self.text()))
        elif kind == "fold" and self.lists:
            items = self.draw(st.sampled_from(self.lists))
            self.texts.append(self.add(Fold(STEP), items=items, state=self.text(), other=self.text()))
        elif kind == "embed" and self.lists:
            self.others.append(self.add(Embed(), texts=self.draw(st.sampled_from(self.lists))))
        elif kind == "ingest" and self.lists:
            self.ingest(self.draw(st.sampled_from(self.lists)))
        elif kind == "queries" and self.lists:
            k = self.add(Const("2", INTEGER))
            queries = self.draw(st.sampled_from(self.lists))
            self.texts.append(self.add(Format((Slot("p"),)), p=self.add(Search("empty"), query=queries, k=k)))
        elif kind == "search":
            k = self.add(Const("2", INTEGER))
            found = self.add(Search("empty"), query=self.text(), k=k)
            self.lists.append(self.add(Rerank(), query=self.text(), passages=found, k=k))
            self.texts.append(self.add(Format((Slot("p"),)), p=self.lists.pop()))
        elif kind == "cond":
            same = self.add(Equals(), a=self.text(), b=self.text())
            self.texts.append(self.add(Cond(BRANCH, OTHER), predicate=same, other=self.text()))
        elif kind == "loop":
            self.texts.append(self.add(Loop(TURN, limit=2), state=self.text(), other=self.text()))

    def ingest(self, documents: Value) -> None:
        """Documents whose ids are their texts; a list of equal ones is one that cannot be stored."""
        order = {} if self.effect is None else {"after": self.effect}
        if self.found is not None:
            order = {"after": self.add(Order("docs"), **{"0": self.found}, **order)}
        report = self.add(Ingest("docs"), documents=documents, **order)
        self.effect = Value(report.node, 1)
        self.others.append(report)
        k = self.add(Const("2", INTEGER))
        found = self.add(Search("docs"), query=self.draw(st.sampled_from(self.lists)), k=k, after=self.effect)
        self.found = found
        self.texts.append(self.add(Format((Slot("p"),)), p=found))


COMPOUND = ["item", "object", "map", "embed", "ingest", "queries", "search", "cond", "loop", "fold"]
OBJECT = Data(
    '{"properties":{"title":{"type":"string"},"items":{"items":{"type":"string"},"type":"array"}},'
    '"required":["title","items"],"type":"object"}'
)
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
STEP = Graph(
    (
        Node(0, Input("item")),
        Node(1, Input("state")),
        Node(2, Input("other")),
        Node(
            3,
            Generate((Message("user", ("To ", Slot("o"), " add ", Slot("i"), " after ", Slot("s"))),)),
            {"o": Value(2), "i": Value(0), "s": Value(1)},
        ),
    ),
    (Value(3),),
)


@st.composite
def programs(draw: st.DrawFn, beginnings: Sequence[str] = ("", "Say: ", "List: ")) -> Graph:
    """Programs of two inputs, `p` and `q`."""
    author = Author(draw, beginnings)
    author.texts = [author.add(Input("p")), author.add(Input("q"))]
    for _ in range(draw(st.integers(1, 8))):
        author.step()
    made = author.texts + author.lists + author.others
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
    return Graph(tuple(author.nodes), tuple(outputs))
