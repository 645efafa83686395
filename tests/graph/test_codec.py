from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from weft.graph.codec import (
    decode_graph,
    decode_node,
    decode_type,
    decode_value,
    encode_graph,
    encode_node,
    encode_type,
    encode_value,
    from_json,
    to_json,
)
from weft.graph.codec.graphs import OPERATIONS, node_bytes
from weft.graph.errors import GraphError, OperandError
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.common import Const, Input, Search
from weft.graph.ops.primitive import Rate
from weft.graph.ops.user import Chunking, Generate, Ingest
from weft.graph.prompt import Message, MessageCall, Slot
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.types import INTEGER, JSON, STRINGS, TEXT, VECTORS, Data, Effect, Kv, Type
from weft.proto import graph_pb2 as pb

FILES = Path(__file__).parent / "data"


def graph_json(*nodes: dict[str, Any], **rest: Any) -> str:
    """The JSON text of a graph whose nodes have the ids 0, 1, …"""
    numbered = [{"id": index, **node} for index, node in enumerate(nodes)]
    return json.dumps({"version": 1, "nodes": numbered, **rest})


def generate(**attributes: Any) -> dict[str, Any]:
    message = {"role": "user", "parts": [{"text": "Hello."}]}
    return {"generate": {"messages": [message], **attributes}}


def nested(levels: int) -> pb.Graph:
    """A graph with `levels` bodies inside one another."""
    graph = pb.Graph(version=1, outputs=[pb.Value(node=1)])
    graph.nodes.add(id=0, const=pb.Const(value="[]"))
    if levels == 0:
        graph.nodes.add(id=1, const=pb.Const(value="1"))
        return graph
    inner = nested(levels - 1)
    inner.nodes.add(id=2, input=pb.Input(name="item"))
    mapped = graph.nodes.add(id=1, map=pb.Map(body=inner))
    mapped.args["items"].CopyFrom(pb.Value(node=0))
    return graph


# ---- files as people write them


def test_a_two_step_graph_from_a_file() -> None:
    graph = from_json((FILES / "two_step.json").read_text())
    assert graph.outputs == (Value(2),)
    assert graph.by_id[1].op == Generate(
        (
            Message("system", ("You write short outlines.",)),
            Message("user", ("Outline an article about ", Slot("topic", "both"), ".")),
        ),
        sampling=Sampling(max_tokens=64),
    )
    assert graph.by_id[2].policy == Policy(30.0, 2, 1.0)


def test_a_rag_graph_from_a_file() -> None:
    graph = from_json((FILES / "rag.json").read_text())
    assert graph.by_id[1].op == Input("k", INTEGER, "3")
    assert graph.by_id[2].op == Const("8")
    assert graph.by_id[4].op == Search("handbook", "lexical")
    queries = graph.by_id[3].op
    assert isinstance(queries, Generate)
    assert queries.type == STRINGS
    assert queries.constraint == JsonSchema('{"type": "array", "items": {"type": "string"}}')


@pytest.mark.parametrize("name", ["two_step", "rag"])
def test_what_is_written_is_read_again(name: str) -> None:
    graph = from_json((FILES / f"{name}.json").read_text())
    assert from_json(to_json(graph)) == graph


def test_a_conversation_with_calls_is_read_as_it_was_written() -> None:
    call = MessageCall("c1", "add", '{"a": 1}')
    messages = (
        Message("tools", ("[]",)),
        Message("user", ("Hi",)),
        Message("assistant", ("I add.",), (call,), written="text"),
        Message("tool", (Slot("sum", "escaped"),), call="c1"),
        Message("call", ()),
    )
    args = {"text": Value(0), "sum": Value(0)}
    graph = Graph((Node(0, Input("x")), Node(1, Generate(messages), args)), (Value(1),))
    assert decode_graph(encode_graph(graph)) == from_json(to_json(graph)) == graph


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("map", {"body": ["item"]}),
        ("fold", {"body": ["item", "state"]}),
        ("loop", {"body": ["state"]}),
        ("cond", {"then": ["chosen"], "otherwise": ["chosen"]}),
    ],
)
def test_json_names_node_zero_and_keeps_field_names(operation: str, fields: dict[str, list[str]]) -> None:
    bodies = {
        field: {
            "nodes": [
                *({"id": index, "input": {"name": name}} for index, name in enumerate(names)),
                {"id": 2, "equals": {}, "args": {"a": {"node": 0}, "b": {"node": 0}}},
            ],
            "outputs": [{"node": 0}, {"node": 2}] if operation == "loop" else [{"node": 0}],
        }
        for field, names in fields.items()
    }
    operands = {
        "map": ["items"],
        "fold": ["items", "state"],
        "loop": ["state"],
        "cond": ["predicate", "chosen"],
    }
    control = {operation: bodies, "args": {name: {"node": 0} for name in operands[operation]}}
    text = graph_json({"const": {"value": []}}, control, outputs=[{"node": 0}])
    written = json.loads(to_json(from_json(text)))
    assert [node["id"] for node in written["nodes"]] == [0, 1]
    assert written["outputs"] == [{"node": 0}]
    assert written["nodes"][1]["args"] == control["args"]
    for field, body in bodies.items():
        found = written["nodes"][1][operation][field]
        assert found["nodes"][0]["id"] == 0
        assert found["nodes"][-1]["args"] == {"a": {"node": 0}, "b": {"node": 0}}
        assert found["outputs"] == body["outputs"]


def test_field_names_may_stand_as_written_or_in_camel_case() -> None:
    snake = from_json(graph_json(generate(sampling={"max_tokens": 7})))
    camel = from_json(graph_json(generate(sampling={"maxTokens": 7})))
    assert snake == camel
    assert '"max_tokens": 7' in to_json(snake)


def test_json_may_stand_in_place_of_its_text() -> None:
    plain = graph_json({"const": {"value": {"a": [1]}, "type": {"data": {"type": "object"}}}})
    quoted = graph_json({"const": {"value": '{"a": [1]}', "type": {"data": '{"type":"object"}'}}})
    assert from_json(plain) == from_json(quoted)


def test_schemas_become_canonical() -> None:
    kind = decode_type(pb.Type(data='{ "type": "array", "items": {} }'))
    assert kind == Data('{"items":{},"type":"array"}')


# ---- the wire


def test_every_operation_has_a_place_in_a_node() -> None:
    oneof = pb.Node.DESCRIPTOR.oneofs_by_name["op"]
    assert {field.name for field in oneof.fields} == set(OPERATIONS)


@pytest.mark.parametrize("kind", [TEXT, JSON, INTEGER, VECTORS, Kv("m"), Effect("handbook")])
def test_types_survive(kind: Type) -> None:
    assert decode_type(encode_type(kind)) == kind


def test_values_and_nodes_survive() -> None:
    assert decode_value(encode_value(Value(3, 1))) == Value(3, 1)
    node = Node(4, Search("handbook"), {"query": Value(0), "k": Value(2, 1)}, "s", "app.py:3", Policy(1.5, 3))
    assert decode_node(encode_node(node)) == node


def test_no_backoff_stays_none() -> None:
    node = Node(0, Const("1"), policy=Policy(attempts=2, backoff_s=0.0))
    assert decode_node(encode_node(node)).policy.backoff_s == 0.0


def test_absent_scalars_mean_the_defaults() -> None:
    written = generate(sampling={"temperature": 0.5}) | {"policy": {"timeout_s": 3}}
    node = from_json(graph_json(written)).nodes[0]
    assert isinstance(node.op, Generate)
    assert node.op.sampling == Sampling(temperature=0.5)
    assert node.op.n == 1
    assert node.op.type == TEXT
    assert node.policy.attempts == 1
    ingest = pb.Node(ingest=pb.Ingest(index="i", chunking=pb.Chunking(max_chars=10)))
    assert decode_node(ingest).op == Ingest("i", Chunking(max_chars=10))


def test_an_increment_keeps_its_outside() -> None:
    outside: dict[Value, Type] = {Value(3): TEXT, Value(3, 1): Kv("m")}
    graph = Graph((), (Value(3),), "more", outside)
    assert decode_graph(encode_graph(graph)) == graph


def test_bodies_may_nest_sixteen_levels_but_no_more() -> None:
    deepest = decode_graph(nested(16))
    assert decode_graph(pb.Graph.FromString(encode_graph(deepest).SerializeToString())) == deepest
    assert from_json(to_json(deepest)) == deepest
    with pytest.raises(GraphError, match=r"%1 map: body: bodies are nested more than 16 levels deep"):
        decode_graph(nested(17))


# ---- what cannot be encoded


@pytest.mark.parametrize(
    ("op", "problem"),
    [
        (Generate((Message("user", ("x",)),), sampling=Sampling(max_tokens=2**40)), "out of range"),
        (Const('"\ud800"'), "surrogates not allowed"),
    ],
)
def test_attributes_without_a_wire_form_name_their_node(op: Generate | Const, problem: str) -> None:
    with pytest.raises(GraphError, match=rf"^%7 \w+ 'draft' \(app.py:3\) cannot be encoded: .*{problem}"):
        encode_node(Node(7, op, {}, "draft", "app.py:3"))


# ---- what cannot be decoded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 column 2: Expecting property name enclosed in double quotes"),
        ('{\n  "version": 1,\n  "nodes": [}\n}', "line 3 column 13: Expecting value"),
        ("[1]", "a graph must be a JSON object, not [1]"),
        ('{"version": NaN}', "the text is not JSON: NaN is no number"),
        (
            '{"version": 1, "version": 1}',
            "the text is not JSON: the key 'version' stands twice in one object",
        ),
        ("{}", 'the graph does not say its format; write "version": 1'),
        ('{"version": 7}', "unknown version 7 of the format; this weft reads version 1"),
        ('{"version": "one"}', 'version: must be an integer of 0 to 4294967295, not "one"'),
        (
            '{"version": 1, "node": []}',
            "unknown field 'node'; known: 'version', 'name', 'nodes', 'outputs', 'outside'",
        ),
        ('{"version": 1, "name": 5}', "name: must be a string, not 5"),
        ('{"version": 1, "nodes": {}}', "nodes: must be a list, not {}"),
        ('{"version": 1, "nodes": [null]}', "nodes[0]: must be an object, not null"),
        ('{"version": 1, "outputs": [{"node": 4}]}', "graph '' returns %4, which no node makes"),
        (
            '{"version": 1, "outside": [{"value": {}}]}',
            "outside[0].type: a type must be one of 'text', 'data', 'kv',",
        ),
        (
            '{"version": 1, "outside": [{"type": {"text": {}}}, {"type": {"text": {}}}]}',
            "outside[1]: %0 stands there already",
        ),
    ],
)
def test_a_malformed_file_says_where_and_what(text: str, message: str) -> None:
    with pytest.raises(GraphError) as raised:
        from_json(text)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"id": -1}, "nodes[0].id: must be an integer of 0 to 4294967295, not -1"),
        ({"equals": {}, "rerank": {}}, "nodes[0]: 'equals' and 'rerank' exclude each other"),
        (
            {"generate": {"sampling": {"max_tokens": 0}}},
            "nodes[0].generate.sampling.max_tokens: must be at least 1, or left out for the default, not 0",
        ),
        ({"generate": {"n": "0"}}, "nodes[0].generate.n: must be at least 1"),
        ({"policy": {"attempts": 0.0}}, "nodes[0].policy.attempts: must be at least 1"),
        ({"args": []}, "nodes[0].args: must be an object from operands to values, not []"),
        ({"args": {"a": 3}}, "nodes[0].args.a: must be an object, not 3"),
        (
            {"name": "z", "location": "app.py:3"},
            "%0 node 'z' (app.py:3): has no operation; give it one of 'const', 'embed'",
        ),
        ({"const": {"value": "hi"}}, "%0 const: value is not JSON text: Expecting value"),
        (
            {"const": {"value": 5, "type": {"text": {}}}},
            "%0 const: value of type text must be a JSON string, not 5",
        ),
        (
            {"const": {"value": 5, "type": {}}},
            "%0 const: type: a type must be one of 'text', 'data', 'kv', 'vectors'",
        ),
        (
            {"const": {"value": 5, "type": {"data": "{"}}},
            "%0 const: type.data: not the JSON text of a schema: Expecting",
        ),
        (
            {"const": {"value": 5, "type": {"data": [1]}}},
            "%0 const: type.data: the schema must be a JSON object, not array",
        ),
        (
            {"const": {"value": 5, "type": {"data": {"properties": []}}}},
            "%0 const: type.data: the schema.properties must be object, not array",
        ),
        ({"input": {"name": "q", "default": "hi"}}, "%0 input: default is not JSON text: Expecting value"),
        (
            {"input": {"name": "q", "type": {"vectors": {}}}},
            "%0 input: an input must be text or data, not vectors",
        ),
        ({"gather": {}}, "%0 gather: form: must be one of 'list', 'object', not ''"),
        ({"project": {}}, "%0 project: the key must be one of 'field', 'index'"),
        ({"parse": {}}, "%0 parse: lacks the field 'type'"),
        ({"parse": {"type": {"text": {}}}}, "%0 parse: type: must be 'data', not text"),
        ({"forward": {}}, "%0 forward: lacks the field 'type'"),
        ({"map": {}}, "%0 map: lacks the field 'body'"),
        (
            {"search": {"mode": "fuzzy"}},
            "%0 search: mode: must be one of 'hybrid', 'vector', 'lexical', not 'fuzzy'",
        ),
        ({"tool": {"where": "moon"}}, "%0 tool: where: must be one of 'client', 'server', not 'moon'"),
        (
            {"score": {"method": "max"}},
            "%0 score: method: must be one of 'mean', 'greedy', 'unconditional', not 'max'",
        ),
        (
            {"ingest": {"chunking": {"strategy": "random"}}},
            "%0 ingest: chunking.strategy: must be one of 'paragraph', 'fixed', not 'random'",
        ),
        (
            {"ingest": {"chunking": {"overlap": 1000}}},
            "%0 ingest: chunking: overlap must lie in [0, max_chars), not 1000",
        ),
        (
            {"select": {"messages": [{"role": "robot"}]}},
            "%0 select: messages[0].role: must be one of 'tools', 'system', 'user', 'assistant', 'call', "
            "'tool', 'raw', not 'robot'",
        ),
        (
            {"format": {"parts": [{"slot": "a", "strip": "all"}]}},
            "%0 format: parts[0].strip: must be one of '', 'left', 'right', 'both', 'escaped', not 'all'",
        ),
        (
            {"format": {"parts": ["Hello."]}},
            'nodes[0].format.parts[0]: must be an object, not "Hello."',
        ),
        ({"format": {"parts": [{}]}}, "%0 format: parts[0]: a segment must be one of 'text', 'slot'"),
        (
            {"format": {"parts": [{"text": "a", "strip": "both"}]}},
            "%0 format: parts[0]: 'strip' belongs to a slot",
        ),
        (
            {"format": {"parts": [{"text": "a", "trusted": True}]}},
            "%0 format: parts[0]: 'trusted' belongs to",
        ),
        (
            {"prefill": {"pieces": [{"slot": "a", "trusted": True}]}},
            "%0 prefill: pieces[0]: 'trusted' belongs to",
        ),
        (
            generate(sampling={"temperature": "NaN"}),
            "%0 generate: sampling.temperature: must be a finite number",
        ),
        (
            generate(sampling={"temperature": -1}),
            "%0 generate: sampling: temperature must lie between 0 and 100",
        ),
        (generate(sampling={"stop": [3]}), "nodes[0].generate.sampling.stop[0]: must be a string, not 3"),
        (generate(n=2.5), "nodes[0].generate.n: must be an integer of 0 to 4294967295, not 2.5"),
        (
            generate(constraint={}),
            "%0 generate: constraint: a constraint must be one of 'json_schema', 'regex',",
        ),
        (generate(constraint={"choices": {}}), "%0 generate: constraint.choices: choices must not be empty"),
        (
            generate(constraint={"json_schema": "no"}),
            "%0 generate: constraint.json_schema: not the JSON text",
        ),
        (
            generate() | {"policy": {"timeout_s": -1}},
            "%0 generate: policy: a timeout must be positive, not -1.0 s",
        ),
        (
            {"map": {"body": {"nodes": [{"location": "app.py:9", "gather": {"form": "set"}}]}}},
            "%0 map: body: %0 gather (app.py:9): form: must be one of 'list', 'object', not 'set'",
        ),
        (
            {"map": {"body": {"nodes": [{"equals": {}}]}}},
            "%0 map: body: %0 equals: lacks the operand 'a'",
        ),
        ({"map": {"body": {"version": 2}}}, "%0 map: body: unknown version 2 of the format"),
    ],
)
def test_a_malformed_node_says_where_and_what(node: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError) as raised:
        from_json(graph_json(node))
    assert str(raised.value).startswith(message)


def test_an_unknown_operation_lists_the_known_ones() -> None:
    with pytest.raises(GraphError, match=r"^nodes\[0\]: unknown operation 'generat'; known: ") as raised:
        from_json(graph_json({"generat": {}}))
    assert all(repr(label) in str(raised.value) for label in OPERATIONS)


@pytest.mark.parametrize(
    ("source", "problem"),
    [(0, "operand 'a' takes %0"), (1, "operand 'a' takes %1"), (9, "operand 'a' takes %9")],
    ids=["itself", "a later one", "none"],
)
def test_a_node_takes_only_what_stands_before_it(source: int, problem: str) -> None:
    first = {"format": {"parts": [{"slot": "a"}]}, "args": {"a": {"node": source}}}
    with pytest.raises(GraphError, match=rf"^%0 format: {problem}, which nothing before it makes"):
        from_json(graph_json(first, {"const": {"value": 1}}))


def test_operands_of_the_wrong_type_are_refused() -> None:
    search = {"search": {"index": "i"}, "args": {"query": {"node": 0}, "k": {"node": 0}}}
    with pytest.raises(OperandError, match=r"^%1 search: operand 'k' must be data, not text"):
        from_json(graph_json({"input": {"name": "q"}}, search))


def test_a_message_without_an_operation_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^%3 node: has no operation"):
        decode_node(pb.Node(id=3))


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(GraphError, match=r"values\[0\]: must be a finite number, not inf"):
        decode_node(encode_node(Node(0, Rate("m", (), ("a",), (float("inf"),)))))


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"nodes":' * 100_000], ids=["lists", "objects"])
def test_texts_nested_without_end_are_refused(bomb: str) -> None:
    with pytest.raises(GraphError, match="nested too deeply"):
        from_json(bomb)


def test_constants_and_schemas_nested_without_end_are_refused() -> None:
    with pytest.raises(GraphError, match="value is not JSON text: nested too deep"):
        decode_graph(pb.Graph(version=1, nodes=[pb.Node(const=pb.Const(value="[" * 100_000))]))
    with pytest.raises(GraphError, match="not the JSON text of a schema: nested too deep"):
        decode_type(pb.Type(data='{"items":' * 100_000))


def test_long_texts_are_refused_unread() -> None:
    text = graph_json({"const": {"value": json.dumps("x" * 1000)}})
    assert from_json(text, max_characters=len(text)).nodes
    with pytest.raises(
        GraphError, match=rf"a graph of {len(text)} characters is too long; at most 1000 are read"
    ):
        from_json(text, max_characters=1000)
    with pytest.raises(GraphError, match="at most 16777216 are read"):
        from_json("{" + " " * 2**24)


def test_of_nodes_that_come_once_only_the_last_are_remembered() -> None:
    gc.collect()
    before = sum(type(found) is Node for found in gc.get_objects())
    for number in range(5000):
        node_bytes(Node(number, Const("1", INTEGER)))
    assert sum(type(found) is Node for found in gc.get_objects()) - before <= 2048
