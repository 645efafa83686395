"""Whatever graph can be built survives the wire and the file, and can be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.graph import draw, schema
from weft.graph.codec import decode_graph, encode_graph, from_json, to_json
from weft.graph.codec.graphs import OPERATIONS
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import (
    Const,
    Embed,
    Equals,
    Format,
    Forward,
    Gather,
    Input,
    Interrupt,
    Neighbours,
    Order,
    Parse,
    Project,
    Search,
    Tool,
)
from weft.graph.ops.control import Cond, Fold, Loop, Map
from weft.graph.ops.optimized import Element, Merge, Slice, Stage
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Rate, Score, Upsert, Weigh
from weft.graph.ops.user import Chunking, Generate, Ingest, Probe, Rerank, Select
from weft.graph.prompt import Fixed, Message, Slot
from weft.graph.sampling import Choices, JsonSchema, Regex, Sampling
from weft.graph.types import (
    INTEGER,
    JSON,
    PASSAGES,
    STRINGS,
    TEXT,
    VECTORS,
    Data,
    Effect,
    Kv,
    Text,
    Type,
    Vectors,
)
from weft.proto import graph_pb2

Draw = Callable[[st.SearchStrategy[Any]], Any]

WORDS = st.text(max_size=6)
LONG = st.text(max_size=90)
MODELS = st.sampled_from(["", "reference", "other"])
SCHEMAS = st.sampled_from(
    [
        "{}",
        '{"type":"boolean"}',
        '{"properties":{"steps":{"items":{"type":"string"},"type":"array"}},"title":"Plan","type":"object"}',
        '{"$defs":{"a":{"items":{"$ref":"#/$defs/a"},"type":"array"}},"$ref":"#/$defs/a"}',
    ]
)
DATA = st.builds(Data, SCHEMAS) | st.sampled_from([JSON, INTEGER, STRINGS, PASSAGES])
PLAIN = st.just(TEXT) | DATA
PATHS = st.lists(WORDS | st.integers(0, 2**31 - 1), max_size=3).map(tuple)
BOUNDS = st.tuples(st.integers(0, 9), st.integers(9, 99))
TYPES = PLAIN | st.just(VECTORS) | st.builds(Kv, MODELS) | st.builds(Effect, WORDS)
OPTIONS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True).map(tuple)
CONSTRAINTS = st.none() | SCHEMAS.map(JsonSchema) | WORDS.map(Regex) | OPTIONS.map(Choices)
METHODS = st.sampled_from(["mean", "greedy", "unconditional"])
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 2**31),
    temperature=st.floats(0, 100),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 100),
    seed=st.integers(-(2**63), 2**63 - 1),
    stop=OPTIONS,
    ignore_eos=st.booleans(),
) | st.just(Sampling())
POLICIES = st.just(Policy()) | st.builds(
    Policy,
    timeout_s=st.none() | st.floats(0, 1e6, exclude_min=True),
    attempts=st.integers(1, 9),
    backoff_s=st.floats(0, 60),
)
CHUNKINGS = st.builds(Chunking, max_chars=st.integers(1, 2000), titles=st.booleans()) | st.builds(
    Chunking, strategy=st.just("fixed"), max_chars=st.just(500), overlap=st.integers(0, 499)
)
JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | LONG,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
).map(json.dumps)

CONTROL = {"map", "cond", "loop", "fold"}


class Builder:
    """Adds random operations whose operands are values that exist already."""

    def __init__(self, draw: Draw, depth: int, outside: dict[Value, Type]) -> None:
        self.draw = draw
        self.depth = depth
        self.outside = outside
        self.nodes: list[Node] = []
        self.types: dict[Value, Type] = dict(outside)
        self.next_id = max((value.node + 1 for value in outside), default=0)

    def add(self, op: Op, /, **args: Value) -> Value:
        """A node with `op`, after a random gap in the ids."""
        self.next_id += self.draw(st.integers(0, 2))
        name, location, policy = self.draw(WORDS), self.draw(LONG), self.draw(POLICIES)
        if isinstance(op, Generate | Select | Decode | Score) and op.deterministic:
            op = replace(op, cache=self.draw(st.booleans()))
        node = Node(self.next_id, op, args, name, location, policy)
        for output, kind in enumerate(op.results({name: self.types[value] for name, value in args.items()})):
            self.types[Value(node.id, output)] = kind
        self.nodes.append(node)
        self.next_id += 1
        return Value(node.id)

    def some(self, *kinds: type[Type]) -> Value:
        """A value of one of the kinds; one is made if there is none."""
        found = [value for value, kind in self.types.items() if isinstance(kind, kinds)]
        if not found or self.draw(st.integers(0, 4)) == 0:
            found = [self.make(kinds[0])]
        value: Value = self.draw(st.sampled_from(found))
        return value

    def make(self, kind: type[Type]) -> Value:
        """A new value of that kind."""
        if kind is Text:
            return self.add(Const(json.dumps(self.draw(LONG)), TEXT))
        if kind is Data:
            return self.add(Const(self.draw(JSON_TEXTS), self.draw(DATA)))
        if kind is Vectors:
            return self.add(Embed(self.draw(MODELS)), texts=self.some(Text, Data))
        if kind is Kv:
            return self.prefill(fresh=True)
        ingest = self.add(Ingest(self.draw(WORDS), self.draw(CHUNKINGS)), documents=self.some(Data))
        return Value(ingest.node, 1)

    def parts(self) -> tuple[list[Any], dict[str, Value]]:
        """Segments of a prompt and the operands of its slots."""
        args = {name: self.some(Text, Data) for name in self.draw(st.lists(WORDS, max_size=3, unique=True))}
        args.pop("kv", None)
        strips = st.sampled_from(["", "left", "right", "both"])
        slots = [Slot(name, self.draw(strips)) for name in args]
        return self.draw(st.permutations([*slots, *self.draw(st.lists(LONG, max_size=2))])), args

    def messages(self) -> tuple[tuple[Message, ...], dict[str, Value]]:
        """A conversation and the operands of its slots."""
        parts, args = self.parts()
        cut = self.draw(st.integers(0, len(parts)))
        roles = st.sampled_from(["system", "user", "assistant", "raw"])
        halves = (tuple(parts[:cut]), tuple(parts[cut:]))
        return tuple(Message(self.draw(roles), half) for half in halves), args

    def prefill(self, *, fresh: bool) -> Value:
        """A context; a continued one has the model of what it continues."""
        parts, args = self.parts()
        model = self.draw(MODELS)
        if not fresh:
            args["kv"] = self.some(Kv)
            model = self.model(args["kv"])
        pieces = [part if isinstance(part, Slot) else Fixed(part, self.draw(st.booleans())) for part in parts]
        return self.add(Prefill(model, tuple(pieces)), **args)

    def model(self, kv: Value) -> str:
        """The model that has read the context."""
        kind = self.types[kv]
        assert isinstance(kind, Kv)
        return kind.model

    def body(self, inputs: set[str], outputs: int) -> Graph:
        """A body that takes exactly `inputs`."""
        inner = Builder(self.draw, self.depth + 1, {})
        for name in sorted(inputs):
            inner.add(Input(name, self.draw(PLAIN)))
        inner.grow(2)
        results = [inner.some(Text, Data) for _ in range(outputs)]
        return Graph(tuple(inner.nodes), tuple(results), self.draw(WORDS))

    def captured(self) -> dict[str, Value]:
        """Operands that a body takes from around it."""
        names = self.draw(st.sets(st.sampled_from(["x", "y z", "ü"]), max_size=2))
        return {name: self.some(Text, Data) for name in sorted(names)}

    def map(self) -> Value:
        captured = self.captured()
        return self.add(Map(self.body({"item", *captured}, 1)), items=self.some(Data), **captured)

    def cond(self) -> Value:
        captured = self.captured()
        then, otherwise = self.body(set(captured), 1), self.body(set(), 1)
        return self.add(Cond(then, otherwise), predicate=self.some(Data), **captured)

    def loop(self) -> Value:
        captured = self.captured()
        body = self.body({"state", *captured}, 2)
        return self.add(Loop(body, self.draw(st.integers(1, 99))), state=self.some(Text, Data), **captured)

    def fold(self) -> Value:
        captured = self.captured()
        body = self.body({"item", "state", *captured}, 1)
        return self.add(Fold(body), items=self.some(Data), state=self.some(Text, Data), **captured)

    def generate(self) -> Value:
        messages, args = self.messages()
        sampling, constraint = self.draw(SAMPLINGS), self.draw(CONSTRAINTS)
        constraint = None if sampling.ignore_eos else constraint
        count, model = self.draw(st.integers(1, 3)), self.draw(MODELS)
        logprobs = self.draw(st.sampled_from([None, 0, 3])) if count == 1 else None
        op = Generate(messages, self.draw(PLAIN), sampling, constraint, count, model, logprobs)
        return self.add(op, **args)

    def probe(self) -> Value:
        messages, args = self.messages()
        start, top = self.draw(st.sampled_from([None, 0, 7])), self.draw(st.integers(0, 3))
        if self.draw(st.booleans()):
            return self.add(Probe((), (0, 5, 2**32 - 1), start, top, self.draw(MODELS)))
        return self.add(Probe(messages, (), start, top, self.draw(MODELS)), **args)

    def select(self) -> Value:
        messages, args = self.messages()
        op = Select(messages, self.draw(OPTIONS), self.draw(METHODS), self.draw(MODELS))
        return self.add(op, **args)

    def decode(self) -> Value:
        kv = self.some(Kv)
        logprobs = self.draw(st.sampled_from([None, 0, 3]))
        op = Decode(self.model(kv), self.draw(SAMPLINGS), self.draw(CONSTRAINTS), logprobs)
        return self.add(op, kv=kv)

    def weigh(self) -> Value:
        kv = self.some(Kv)
        return self.add(Weigh(self.model(kv), (), self.draw(st.sampled_from([None, 0, 7])), 2), kv=kv)

    def score(self) -> Value:
        kv = self.some(Kv)
        return self.add(Score(self.model(kv), self.draw(OPTIONS), self.draw(METHODS)), kv=kv)

    def rate(self) -> Value:
        choices = self.draw(OPTIONS)
        values = tuple(self.draw(st.floats(-9, 9)) for _ in choices)
        op = Rate("m", (Fixed("A"), Slot("passage"), Slot("query")), choices, values)
        return self.add(op, query=self.some(Text), passages=self.some(Data), k=self.some(Data))

    def format(self) -> Value:
        parts, args = self.parts()
        return self.add(Format(tuple(parts)), **args)

    def gather(self) -> Value:
        if self.draw(st.booleans()):
            names = [str(index) for index in range(self.draw(st.sampled_from([0, 2, 11])))]
            return self.add(Gather("list"), **{name: self.some(Text) for name in names})
        return self.add(Gather("object"), **self.captured())

    def project(self) -> Value:
        value = self.add(Const("{}", JSON))
        field = st.builds(Project, WORDS, st.none() | JSON_TEXTS)
        return self.add(self.draw(field | st.builds(Project, st.integers(-(2**31), 2**31 - 1))), value=value)

    def search(self) -> Value:
        args = {"query": self.some(Text, Data), "k": self.some(Data)}
        if self.draw(st.booleans()):
            args |= {"vectors": self.some(Vectors), "after": self.some(Effect)}
        if self.draw(st.booleans()):
            args["where"] = self.some(Data)
        mode = self.draw(st.sampled_from(["hybrid", "vector", "lexical"]))
        return self.add(Search(self.draw(WORDS), mode), **args)

    def neighbours(self) -> Value:
        counts = self.draw(st.integers(0, 3)), self.draw(st.integers(0, 3))
        return self.add(Neighbours(self.draw(WORDS), *counts), passages=self.some(Data))

    def interrupt(self) -> Value:
        return self.add(Interrupt(self.draw(PLAIN)), value=self.some(Text, Data))

    def tool(self) -> Value:
        flags = self.draw(st.booleans()), self.draw(st.booleans())
        where = self.draw(st.sampled_from(["client", "server"]))
        return self.add(Tool(self.draw(WORDS), self.draw(PLAIN), where, *flags), **self.captured())

    def input(self) -> Value:
        default = st.none() | LONG.map(json.dumps)
        return self.add(Input(self.draw(WORDS), self.draw(PLAIN), self.draw(default)))

    def step(self, label: str) -> Value:
        """A node of the operation called `label`."""
        makers: dict[str, Callable[[], Value]] = {
            "const": lambda: self.make(Data),
            "embed": lambda: self.make(Vectors),
            "ingest": lambda: self.make(Effect),
            "prefill": lambda: self.prefill(fresh=False),
            "equals": lambda: self.add(Equals(), a=self.some(Text), b=self.some(Data)),
            "order": lambda: self.add(Order(self.draw(WORDS)), **{"0": self.some(Text, Data)}),
            "forward": lambda: self.add(Forward(self.draw(TYPES)), value=self.some(Text)),
            "parse": lambda: self.add(Parse(self.draw(DATA)), text=self.some(Text)),
            "chunk": lambda: self.add(
                Chunk(self.draw(WORDS), self.draw(CHUNKINGS)), documents=self.some(Data)
            ),
            "upsert": lambda: self.add(
                Upsert(self.draw(WORDS)), chunks=self.some(Data), vectors=self.some(Vectors)
            ),
            "element": lambda: self.add(
                Element(self.draw(PATHS), self.draw(PLAIN), self.draw(st.none() | JSON_TEXTS)),
                text=self.some(Text),
            ),
            "slice": lambda: self.add(Slice(*self.draw(BOUNDS)), value=self.some(Data)),
            "merge": lambda: self.add(Merge("passages"), **{"0": self.some(Data), "1": self.some(Data)}),
            "stage": lambda: self.add(Stage("embed", self.draw(st.integers(1, 99))), texts=self.some(Data)),
            "rerank": lambda: self.add(
                Rerank(), query=self.some(Text), passages=self.some(Data), k=self.some(Data)
            ),
        }
        made: Value = makers.get(label, getattr(self, label, None) or (lambda: Value(-1)))()
        return made

    def grow(self, steps: int) -> None:
        """Up to that many random nodes; bodies get rarer with depth."""
        unfit = ({"input"} if self.depth else set()) | (CONTROL if self.depth > 1 else set())
        labels = sorted(OPERATIONS.keys() - unfit)
        for label in self.draw(st.lists(st.sampled_from(labels), max_size=steps)):
            self.step(label)


@st.composite
def graphs(draw: Draw, label: str | None = None) -> Graph:
    """A well-formed graph of both dialects, perhaps an increment; with an operation `label` if given."""
    outside = draw(st.dictionaries(st.builds(Value, st.integers(0, 9), st.integers(0, 2)), TYPES, max_size=3))
    builder = Builder(draw, 0, outside)
    if label is not None:
        builder.step(label)
    builder.grow(5)
    outputs = draw(st.lists(st.sampled_from(list(builder.types)), max_size=3)) if builder.types else []
    return Graph(tuple(builder.nodes), tuple(outputs), draw(WORDS), outside)


RELAXED = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("label", sorted(OPERATIONS))
@given(data=st.data())
@RELAXED
def test_every_operation_survives_the_wire_and_the_file(label: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(label))
    assert label in {node.op.label() for node in graph}
    message = graph_pb2.Graph.FromString(encode_graph(graph).SerializeToString())
    assert decode_graph(message) == graph
    assert from_json(to_json(graph)) == graph


@given(graph=graphs())
@settings(RELAXED, max_examples=60)
def test_equal_graphs_draw_equal_pictures(graph: Graph) -> None:
    again = decode_graph(encode_graph(graph))
    assert draw.text(again) == draw.text(graph) == str(graph)
    assert draw.mermaid(again) == draw.mermaid(graph)


@given(graph=graphs())
@settings(RELAXED, max_examples=60)
def test_pictures_have_a_line_for_every_node_and_none_that_data_makes(graph: Graph) -> None:
    lines = draw.text(graph).split("\n")
    own = [line for line in lines if line.startswith("%")]
    assert [line.split(" ")[0] for line in own] == [f"%{node.id}" for node in graph]
    assert lines[-1].startswith("return")
    assert all(line.isprintable() for line in lines)
    for line in draw.mermaid(graph).split("\n"):
        assert line.count('"') % 2 == 0
        assert line.isprintable()


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container of the JSON tree with each of its keys."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in [(tree, key), *places(tree[key])]]


@given(graph=graphs(), data=st.data())
@settings(RELAXED, max_examples=100)
def test_a_damaged_file_is_read_or_refused_but_never_worse(graph: Graph, data: st.DataObject) -> None:
    tree = json.loads(to_json(graph))
    container, key = data.draw(st.sampled_from(places(tree)))
    container[key] = json.loads(data.draw(JSON_TEXTS))
    try:
        read = from_json(json.dumps(tree))
    except GraphError:
        return
    assert from_json(to_json(read)) == read


@given(graph=graphs(), data=st.data())
@settings(RELAXED, max_examples=100)
def test_damaged_messages_are_read_or_refused_but_never_worse(graph: Graph, data: st.DataObject) -> None:
    sent = bytearray(encode_graph(graph).SerializeToString())
    sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode_graph(graph_pb2.Graph.FromString(bytes(sent)))
    except (DecodeError, GraphError):
        return
    assert decode_graph(encode_graph(read)) == read


@given(text=SCHEMAS)
def test_the_schemas_of_these_tests_are_canonical(text: str) -> None:
    assert schema.canonical(schema.parse(text)) == text
