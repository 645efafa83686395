"""The signatures of the operations: what each takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from weft.graph.codec.graphs import OPERATIONS
from weft.graph.errors import OperandError
from weft.graph.ir import Graph, Node, Value
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
from weft.graph.ops.control import Cond, Fold, Loop, Map, body_inputs
from weft.graph.ops.optimized import Element, Merge, Slice, Stage
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Rate, Score, Upsert, Weigh
from weft.graph.ops.user import Chunking, Generate, Ingest, Probe, Rerank, Select
from weft.graph.prompt import Fixed, Message, Slot
from weft.graph.sampling import Regex, Sampling
from weft.graph.types import (
    BOOLEAN,
    INTEGER,
    JSON,
    NUMBER,
    PASSAGES,
    STRINGS,
    TEXT,
    TOKENS,
    VECTORS,
    Data,
    Effect,
    Kv,
    Type,
    list_type,
)

KV = Kv("m")
ANYTHING = list_type(VECTORS)
NUMBERS = list_type(NUMBER)
PLAN = Data('{"properties":{"n":{"type":"integer"},"title":{"type":"string"}},"type":"object"}')
ASK = (Message("user", ("Is ", Slot("x"), " prime?")),)
RATE = Rate("m", (Slot("passage"), Slot("query")), ("no", "yes"), (0.0, 1.0))


def body(*inputs: str, outputs: int = 1) -> Graph:
    """A body that takes the inputs and gives a constant, once or more."""
    nodes = [Node(index, Input(name, JSON)) for index, name in enumerate(inputs)]
    last = Node(len(nodes), Const("true", BOOLEAN))
    return Graph((*nodes, last), (Value(last.id),) * outputs)


SIGNATURES: list[tuple[Op, Mapping[str, Type], tuple[Type, ...]]] = [
    (Input("q"), {}, (TEXT,)),
    (Input("k", INTEGER, "3"), {}, (INTEGER,)),
    (Const('"a"', TEXT), {}, (TEXT,)),
    (Const("[1]"), {}, (JSON,)),
    (Format(("a", Slot("x"), Slot("y"), Slot("x"))), {"x": TEXT, "y": JSON}, (TEXT,)),
    (Project("n"), {"value": PLAN}, (INTEGER,)),
    (Project("title"), {"value": PLAN}, (TEXT,)),
    (Project("title", '""'), {"value": PLAN}, (TEXT,)),
    (Project(0), {"value": STRINGS}, (TEXT,)),
    (Project(0), {"value": JSON}, (JSON,)),
    (Gather("list"), {"0": TEXT, "1": VECTORS}, (ANYTHING,)),
    (Gather("list"), {}, (ANYTHING,)),
    (Gather("object"), {"b": TEXT, "a": JSON}, (Data('{"properties":{"a":{},"b":{}},"type":"object"}'),)),
    (Parse(PLAN), {"text": TEXT}, (PLAN,)),
    (Equals(), {"a": TEXT, "b": JSON}, (BOOLEAN,)),
    (Forward(PLAN), {"value": JSON}, (PLAN,)),
    (Embed(), {"texts": TEXT}, (VECTORS,)),
    (Embed("e"), {"texts": STRINGS}, (VECTORS,)),
    (Search("i"), {"query": TEXT, "k": INTEGER}, (PASSAGES,)),
    (
        Search("i"),
        {"query": STRINGS, "k": INTEGER, "vectors": VECTORS, "after": Effect("i")},
        (PASSAGES,),
    ),
    (Tool("t", PLAN), {"any": TEXT, "name": JSON}, (PLAN,)),
    (Generate(ASK), {"x": INTEGER}, (TEXT, TEXT)),
    (Generate(ASK, PLAN, n=2), {"x": INTEGER}, (list_type(PLAN), STRINGS)),
    (Generate(ASK, logprobs=0), {"x": INTEGER}, (TEXT, TEXT, TOKENS)),
    (Generate((), ids=(1, 2)), {}, (TEXT, TEXT)),
    (Select(ASK, ("yes", "no")), {"x": INTEGER}, (TEXT, NUMBERS)),
    (Interrupt(BOOLEAN), {"value": TEXT}, (BOOLEAN,)),
    (Neighbours("i"), {"passages": PASSAGES, "after": Effect("i")}, (PASSAGES,)),
    (Order("i"), {"0": PASSAGES, "1": TEXT, "after": Effect("i")}, (Effect("i"),)),
    (Order("i"), {"0": PASSAGES}, (Effect("i"),)),
    (Probe(ASK, start=1), {"x": INTEGER}, (INTEGER, TOKENS)),
    (Probe(ids=(1, 2), start=0), {}, (INTEGER, TOKENS)),
    (Ingest("i"), {"documents": STRINGS}, (JSON, Effect("i"))),
    (Ingest("i"), {"documents": STRINGS, "after": Effect("i")}, (JSON, Effect("i"))),
    (Rerank(), {"query": TEXT, "passages": PASSAGES, "k": INTEGER}, (PASSAGES,)),
    (Prefill("m", (Fixed("a"), Slot("x"))), {"x": TEXT}, (KV,)),
    (Prefill("m", (Fixed("a"),)), {"kv": KV}, (KV,)),
    (Decode("m"), {"kv": KV}, (KV, TEXT)),
    (Decode("m", ids=(1, 2)), {}, (KV, TEXT)),
    (Decode("m", logprobs=2), {"kv": KV}, (KV, TEXT, TOKENS)),
    (Weigh("m", start=3), {"kv": KV}, (INTEGER, TOKENS)),
    (Weigh("m", (1, 2), 0), {}, (INTEGER, TOKENS)),
    (Score("m", ("yes", "no")), {"kv": KV}, (TEXT, NUMBERS)),
    (RATE, {"query": TEXT, "passages": PASSAGES, "k": INTEGER}, (PASSAGES,)),
    (Element(("a", 0), INTEGER), {"text": TEXT}, (INTEGER,)),
    (Slice(0, 2), {"value": STRINGS}, (STRINGS,)),
    (Merge("vectors"), {"0": VECTORS, "1": VECTORS}, (VECTORS,)),
    (Merge("passages"), {}, (PASSAGES,)),
    (Merge("top_k"), {"0": PASSAGES, "k": INTEGER}, (PASSAGES,)),
    (Merge("reports", "i"), {"0": JSON, "after": Effect("i")}, (JSON, Effect("i"))),
    (Stage("embed", 8), {"texts": STRINGS}, (VECTORS,)),
    (Stage("rerank", 8), {"query": TEXT, "passages": PASSAGES, "k": INTEGER}, (PASSAGES,)),
    (Stage("ingest", 8, index="i"), {"chunks": JSON, "texts": STRINGS}, (JSON, Effect("i"))),
    (Chunk("i"), {"documents": STRINGS, "after": Effect("i")}, (JSON, STRINGS)),
    (Upsert("i"), {"chunks": JSON, "vectors": VECTORS}, (JSON, Effect("i"))),
    (Map(body("item", "x")), {"items": STRINGS, "x": TEXT}, (list_type(BOOLEAN),)),
    (Map(body()), {"items": STRINGS}, (list_type(BOOLEAN),)),
    (Map(body(), merge="passages"), {"items": STRINGS, "after": Effect("i")}, (PASSAGES,)),
    (Cond(body("x"), body("y")), {"predicate": BOOLEAN, "x": TEXT, "y": JSON}, (BOOLEAN,)),
    (Cond(body(), Graph((Node(0, Const("1")),), (Value(0),))), {"predicate": BOOLEAN}, (JSON,)),
    (Fold(body("item", "state", "x")), {"items": STRINGS, "state": TEXT, "x": TEXT}, (BOOLEAN,)),
    (Loop(body("state", "x", outputs=2)), {"state": TEXT, "x": TEXT}, (BOOLEAN,)),
]


@pytest.mark.parametrize(("op", "args", "results"), SIGNATURES)
def test_signature(op: Op, args: Mapping[str, Type], results: tuple[Type, ...]) -> None:
    assert op.results(args) == results


def test_every_operation_has_a_signature_here() -> None:
    assert {type(op) for op, _, _ in SIGNATURES} == set(OPERATIONS.values())


@pytest.mark.parametrize(
    ("op", "args", "problem"),
    [
        (Input("q"), {"x": TEXT}, "has no operand 'x'; known: none"),
        (Input("q", VECTORS), {}, "an input must be text or data, not vectors"),
        (Input("q", TEXT, "3"), {}, "default of type text must be a JSON string, not 3"),
        (Input("q", JSON, "oops"), {}, "default is not JSON text: Expecting value"),
        (Const("NaN"), {}, "value is not JSON text: NaN is not JSON"),
        (Const("[" * 100_000), {}, "value is not JSON text: nested too deep"),
        (Const("3", TEXT), {}, "value of type text must be a JSON string, not 3"),
        (Const("3", KV), {}, "a constant must be text or data, not kv"),
        (Format((Slot("x"),)), {}, "lacks the operand 'x'"),
        (Format((Slot("x"),)), {"x": VECTORS}, "operand 'x' is a vectors, which has no textual form"),
        (Format(()), {"x": TEXT}, "has no operand 'x'; known: none"),
        (Project("z"), {"value": PLAN}, "there is no field 'z'; known: 'n', 'title'"),
        (Project("z"), {"value": TEXT}, "operand 'value' must be data, not text"),
        (Project("title", "3"), {"value": PLAN}, "default of type text must be a JSON string, not 3"),
        (Project("n", "oops"), {"value": PLAN}, "default is not JSON text: Expecting value"),
        (Project(0, "3"), {"value": STRINGS}, "an item has no default, only a field"),
        (Gather("list"), {"0": TEXT, "2": TEXT}, "lacks the operand '1'"),
        (Gather("object"), {"x": KV}, "operand 'x' is a kv, which cannot be part of data"),
        (Parse(PLAN), {"text": JSON}, "operand 'text' must be text, not data"),
        (Equals(), {"a": TEXT}, "lacks the operand 'b'"),
        (Order("i"), {"1": PASSAGES}, "lacks the operand '0'"),
        (Order("i"), {"0": PASSAGES, "after": TEXT}, "operand 'after' must be effect, not text"),
        (Embed(), {"texts": KV}, "operand 'texts' must be text or data, not kv"),
        (Search("i"), {"query": TEXT}, "lacks the operand 'k'"),
        (
            Neighbours("i", 1, -1),
            {"passages": PASSAGES},
            "counts of neighbours must not be negative, not 1 and -1",
        ),
        (
            Search("i"),
            {"query": TEXT, "k": INTEGER, "vectors": JSON},
            "operand 'vectors' must be vectors, not data",
        ),
        (
            Search("i"),
            {"query": TEXT, "k": INTEGER, "filter": JSON},
            "has no operand 'filter'; known: 'query', 'k', 'where', 'vectors', 'after'",
        ),
        (Tool("t", VECTORS), {}, "a tool must return text or data, not vectors"),
        (Tool("t"), {"x": Effect("i")}, "operand 'x' is a effect[i], which has no textual form"),
        (Generate(()), {}, "the prompt has no messages"),
        (Generate(ASK), {}, "lacks the operand 'x'"),
        (Generate(ASK, ids=(1,)), {"x": TEXT}, "the prompt is given twice: as messages and as ids"),
        (Generate((), ids=(1,)), {"x": TEXT}, "has no operand 'x'; known: none"),
        (Decode("m", ids=(1,)), {"kv": KV}, "has no operand 'kv'; known: none"),
        (Generate(ASK, KV), {"x": TEXT}, "a model can write text or data, not kv"),
        (Generate(ASK, n=0), {"x": TEXT}, "n must be at least 1 and at most 1024, not 0"),
        (Generate(ASK, n=2**31), {"x": TEXT}, "n must be at least 1 and at most 1024, not 2147483648"),
        (
            Generate(ASK, sampling=Sampling(ignore_eos=True), constraint=Regex("a")),
            {"x": TEXT},
            "a constrained text ends with its form: leave out ignore_eos or the constraint",
        ),
        (Generate(ASK, n=2, logprobs=0), {"x": TEXT}, "logprobs go with n = 1"),
        (Probe(), {}, "a probe takes either messages or ids"),
        (Probe(ASK, (1,)), {"x": TEXT}, "a probe takes either messages or ids"),
        (Probe(ids=(1,)), {"x": TEXT}, "has no operand 'x'; known: none"),
        (Select(ASK, ()), {"x": TEXT}, "choices must not be empty"),
        (Select(ASK, ("a", "a")), {"x": TEXT}, "choices must differ from one another"),
        (
            Rate("m", (), ("no", "yes"), (1.0,)),
            {"query": TEXT, "passages": PASSAGES, "k": INTEGER},
            "2 choices need as many values, not 1",
        ),
        (Score("m", ("a", "")), {"kv": KV}, "a choice must not be empty: it has no tokens to score"),
        (Prefill("m", (Slot("x"),)), {"x": KV}, "operand 'x' is a kv, which has no textual form"),
        (Prefill("m", ()), {"kv": TEXT}, "operand 'kv' must be kv, not text"),
        (Prefill("m", ()), {"kv": Kv("n")}, "operand 'kv' was read by model 'n'; 'm' cannot continue it"),
        (Decode("m"), {"kv": Kv("n")}, "operand 'kv' was read by model 'n'; 'm' cannot continue it"),
        (Weigh("m"), {"kv": Kv("n")}, "operand 'kv' was read by model 'n'; 'm' cannot continue it"),
        (Weigh("m"), {}, "lacks the operand 'kv'"),
        (Weigh("m", (1,)), {"kv": KV}, "has no operand 'kv'; known: none"),
        (Score("m", ("a",)), {"kv": Kv("n")}, "operand 'kv' was read by model 'n'; 'm' cannot continue it"),
        (Upsert("i"), {"chunks": JSON, "vectors": JSON}, "operand 'vectors' must be vectors, not data"),
        (Map(body("item")), {}, "lacks the operand 'items'"),
        (Map(body("item")), {"items": TEXT}, "operand 'items' must be data, not text"),
        (Map(body("x")), {"items": JSON}, "the body takes 'x', which no operand gives"),
        (Map(body("item")), {"items": JSON, "x": TEXT}, "the body has no input 'x'"),
        (Map(body("item", outputs=2)), {"items": JSON}, "the body must have 1 result(s), not 2"),
        (Map(body("x")), {"items": JSON, "x": KV}, "operand 'x' is a kv, which no body can take"),
        (
            Map(Graph((), (Value(0),), outside={Value(0): JSON})),
            {"items": JSON},
            "a body must take everything from outside through its inputs",
        ),
        (Cond(body(), body()), {}, "lacks the operand 'predicate'"),
        (Cond(body(), body()), {"predicate": BOOLEAN, "x": TEXT}, "has no operand 'x'; known: 'predicate'"),
        (Cond(body("x"), body()), {"predicate": BOOLEAN}, "the body takes 'x', which no operand gives"),
        (Loop(body("state", outputs=2), 0), {"state": TEXT}, "limit must be at least 1, not 0"),
        (Loop(body("state")), {"state": TEXT}, "the body must have 2 result(s), not 1"),
    ],
)
def test_wrong_operands_and_attributes_are_refused(op: Op, args: Mapping[str, Type], problem: str) -> None:
    with pytest.raises(OperandError) as raised:
        op.results(args)
    assert str(raised.value).startswith(problem)


def around(op: Op) -> Graph:
    """A graph that holds the operation, on operands from outside."""
    args = next(args for other, args, _ in SIGNATURES if type(other) is type(op))
    values = {name: Value(10 + index) for index, name in enumerate(args)}
    outside = {values[name]: kind for name, kind in args.items()}
    return Graph((Node(0, op, values),), (), outside=outside)


def test_an_operation_without_a_signature_is_abstract() -> None:
    with pytest.raises(OperandError, match="Op is abstract"):
        Op().results({})


@pytest.mark.parametrize(
    ("op", "deterministic", "effectful"),
    [
        (Equals(), True, False),
        (Generate(ASK), True, False),
        (Generate(ASK, sampling=Sampling(temperature=1.0)), False, False),
        (Decode("m"), True, False),
        (Decode("m", Sampling(temperature=1.0)), False, False),
        (Search("i"), False, False),
        (Neighbours("i"), False, False),
        (Interrupt(), False, True),
        (Ingest("i"), True, True),
        (Upsert("i"), True, True),
        (Tool("t"), False, True),
        (Tool("t", pure=True), True, False),
    ],
)
def test_which_operations_may_be_merged_or_removed(op: Op, deterministic: bool, effectful: bool) -> None:
    inner = around(op)
    for outer in (op, Map(inner), Cond(inner, body()), Cond(body(), inner), Loop(inner)):
        assert (outer.deterministic, outer.effectful) == (deterministic, effectful)


def test_the_inputs_of_a_body() -> None:
    assert body_inputs(body("b", "a")) == ("b", "a")


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"max_chars": 0}, "max_chars must be at least 1, not 0"),
        ({"overlap": -1}, r"overlap must lie in \[0, max_chars\), not -1"),
        ({"max_chars": 10, "overlap": 10}, r"overlap must lie in \[0, max_chars\), not 10"),
        (
            {"strategy": "paragraph", "overlap": 1},
            "overlap is for strategy='fixed'; paragraphs do not overlap",
        ),
        ({"strategy": "lines"}, "strategy must be 'paragraph' or 'fixed', not 'lines'"),
    ],
)
def test_senseless_chunking_is_refused(parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        Chunking(**{"strategy": "fixed", **parameters})
