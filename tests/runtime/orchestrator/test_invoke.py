"""Whole graphs through Invoke and Submit, and what is refused at the door."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Format, Gather, Input, Project, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate, Ingest
from weft.graph.passes import Pipeline
from weft.graph.prompt import Message, Slot
from weft.graph.types import INTEGER, JSON, STRINGS, TEXT
from weft.graph.values import Json
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2
from weft.runtime.orchestrator.reuse import Reuse

QUESTION = (Message("raw", ("Q: ", Slot("q"))),)
ASK = Node(1, Generate(QUESTION), {"q": Value(0)}, "ask", "app.py:3")
ECHO = Graph((Node(0, Input("q")), ASK), (Value(1),), "echo")


def request(graph: Graph, **inputs: object) -> pb.SubmitRequest:
    given = {name: json.dumps(value) for name, value in inputs.items()}
    return pb.SubmitRequest(graph=encode_graph(graph), inputs=given)


def chain(length: int) -> Graph:
    """Generations that each read the one before."""
    nodes = [Node(0, Input("q"))]
    for number in range(1, length + 1):
        op = Generate((Message("raw", (Slot("q"), "!")),))
        nodes.append(Node(number, op, {"q": Value(number - 1)}))
    return Graph(tuple(nodes), (Value(length),), "chain")


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_result_of_a_graph(stage: Any) -> None:
    result = await stage.stub.Invoke(request(ECHO, q="why?"))
    assert result.outputs[0].text.text == "<Q: why?>"
    assert (result.info.state, result.info.program) == ("done", "echo")
    assert not result.HasField("fault")


async def test_engines_are_told_how_soon_it_is_the_turn_of_a_run(stage: Any) -> None:
    """That with little to do counts as having waited longer than that with much."""
    short = await stage.stub.Invoke(request(chain(1), q="a"))
    long = await stage.stub.Invoke(request(chain(50), q="a"))
    fragments = [fragment for worker in stage.workers.values() for fragment in worker.fragments()]
    first = {fragment.run: fragment.head_start_s for fragment in reversed(fragments)}
    assert first[long.info.run] < first[short.info.run]


async def test_json_graph_and_registered_program(stage: Any) -> None:
    path = stage.server.orchestrator.settings.programs["registered"]
    inputs = {"q": '"hi"'}
    by_json = await stage.stub.Invoke(pb.SubmitRequest(graph_json=path.read_text(), inputs=inputs))
    by_name = await stage.stub.Invoke(pb.SubmitRequest(program="registered", inputs=inputs))
    assert by_json.outputs == by_name.outputs
    assert by_name.outputs[0].text.text == "<hi>"


async def test_map_expands_at_run_time(stage: Any) -> None:
    body = Graph((Node(0, Input("item")), Node(1, ASK.op, {"q": Value(0)})), (Value(1),))
    nodes = (Node(0, Input("xs", STRINGS)), Node(1, Map(body), {"items": Value(0)}))
    result = await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), xs=["a", "b", "c"]))
    assert json.loads(result.outputs[0].json) == ["<Q: a>", "<Q: b>", "<Q: c>"]


async def test_a_map_begins_its_last_bodies_once_though_several_bodies_end_together(stage: Any) -> None:
    body = Graph((Node(0, Input("item")), Node(1, ASK.op, {"q": Value(0)})), (Value(1),))
    nodes = (Node(0, Input("xs", STRINGS)), Node(1, Map(body), {"items": Value(0)}))
    items = [str(number) for number in range(100)]
    stage.workers["w1"].together = True
    result = await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), xs=items))
    assert json.loads(result.outputs[0].json) == [f"<Q: {item}>" for item in items]


async def test_a_map_of_any_length_whose_bodies_end_at_once_lets_others_go_on(stage: Any) -> None:
    body = Graph((Node(0, Input("item")), Node(1, Gather("list"), {"0": Value(0)})), (Value(1),))
    nodes = (Node(0, Input("xs", STRINGS)), Node(1, Map(body, concurrency=1), {"items": Value(0)}))
    items = [str(number) for number in range(500)]
    long = asyncio.ensure_future(stage.stub.Invoke(request(Graph(nodes, (Value(1),)), xs=items)))
    while not (stage.server.orchestrator.shell.runs or long.done()):
        await asyncio.sleep(0)
    await stage.stub.Invoke(request(ECHO, q="why?"))
    assert not long.done()
    assert json.loads((await long).outputs[0].json) == [[item] for item in items]


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Reuse, "found"), (LiveGraph, "advance")],
    ids=["at its start", "as it grows"],
)
async def test_a_mistake_of_the_orchestrators_own_fails_the_run_that_it_happens_in_and_no_other(
    stage: Any, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    body = Graph((Node(0, Input("item")), Node(1, ASK.op, {"q": Value(0)})), (Value(1),))
    nodes = (Node(0, Input("xs", STRINGS)), Node(1, Map(body, concurrency=1), {"items": Value(0)}))

    def mistaken(*_: object, **__: object) -> None:
        raise AssertionError("as in a bug")

    with monkeypatch.context() as patched:
        patched.setattr(owner, method, mistaken)
        failed = await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), xs=["a", "b"]))
    assert failed.fault.code == "internal"
    assert "as in a bug" in failed.fault.message
    assert not stage.server.orchestrator.shell.runs
    assert (await stage.stub.Invoke(request(ECHO, q="why?"))).info.state == "done"


async def test_a_program_that_comes_again_goes_through_no_pass(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    run = Pipeline.run

    def counted(passes: Pipeline, graph: Graph, **how: bool) -> Any:
        compiled.append(graph.name)
        return run(passes, graph, **how)

    monkeypatch.setattr(Pipeline, "run", counted)
    for text in ("a", "b", "c"):
        await stage.stub.Invoke(request(chain(3), q=text))
    assert len(compiled) == 1


async def test_default_of_an_input(stage: Any) -> None:
    graph = Graph((Node(0, Input("q", default='"dflt"')), ASK), (Value(1),))
    assert (await stage.stub.Invoke(request(graph))).outputs[0].text.text == "<Q: dflt>"


async def test_many_runs_at_once_are_independent(stage: Any) -> None:
    results = await asyncio.gather(
        *(stage.stub.Invoke(request(chain(3), q=str(number))) for number in range(40))
    )
    assert [r.outputs[0].text.text for r in results] == [f"<<<{n}!>!>!>" for n in range(40)]


async def test_server_tool_and_effect_without_consumer(stage: Any) -> None:
    nodes = (
        Node(0, Input("q")),
        Node(1, Tool("lookup", TEXT, "server", idempotent=True), {"key": Value(0)}),
        Node(2, Tool("lookup", TEXT, "server", idempotent=True), {"key": Value(1)}),
    )
    result = await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), q="x"))
    assert result.outputs[0].text.text == "lookup(x)"
    assert result.info.nodes_done == result.info.nodes == 3


async def test_index_is_known_once_it_is_filled(stage: Any) -> None:
    search = Graph(
        (Node(0, Input("q")), Node(1, Const("3", INTEGER)), Node(2, Search("new"), args(query=0, k=1))),
        (Value(2),),
    )
    status, message = await refused(stage.stub.Invoke(request(search, q="x")))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "'new'" in message
    assert "'handbook'" in message
    ingest = Graph((Node(0, Input("d", STRINGS)), Node(1, Ingest("new"), args(documents=0))), (Value(1),))
    await stage.stub.Invoke(request(ingest, d=["text"]))
    result = await stage.stub.Invoke(request(search, q="x"))
    assert json.loads(result.outputs[0].json)[0]["text"] == "from new"


def args(**nodes: int) -> dict[str, Value]:
    return {name: Value(node) for name, node in nodes.items()}


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "input 'q'"),
        ({"q": '"x"', "nope": "1"}, "'nope'"),
        ({"q": "3"}, "input 'q' must be a text"),
        ({"q": "{"}, "input 'q' is not JSON; a text stands in quotes: "),
        ({"q": "[" * 50_000}, "input 'q'"),
    ],
)
async def test_wrong_inputs(stage: Any, inputs: dict[str, str], named: str) -> None:
    call = stage.stub.Invoke(pb.SubmitRequest(graph=encode_graph(ECHO), inputs=inputs))
    status, message = await refused(call)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert named in message
    assert stage.server.orchestrator.records == {}


async def test_input_of_the_wrong_type_names_its_place(stage: Any) -> None:
    graph = Graph((Node(0, Input("xs", STRINGS)),), (Value(0),))
    status, message = await refused(stage.stub.Invoke(request(graph, xs=["a", 1])))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("input 'xs'[1] must be string")


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (Node(1, Generate(QUESTION, model="gpt"), ASK.args, "", "app.py:9"), "app.py:9"),
        (Node(1, Tool("t", TEXT), {}), "client's process"),
        (Node(1, Tool("t", TEXT, "server"), {}), "'lookup'"),
    ],
)
async def test_unknown_names(stage: Any, node: Node, named: str) -> None:
    call = stage.stub.Invoke(request(Graph((Node(0, Input("q")), node), (Value(1),)), q="x"))
    status, message = await refused(call)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert named in message


async def test_malformed_graphs(stage: Any) -> None:
    for malformed in (
        pb.SubmitRequest(graph_json='{"version": 9}'),
        pb.SubmitRequest(graph_json="{"),
        pb.SubmitRequest(),
    ):
        status, _ = await refused(stage.stub.Submit(malformed))
        assert status is grpc.StatusCode.INVALID_ARGUMENT
    for name in ("unknown", "gone"):
        status, message = await refused(stage.stub.Submit(pb.SubmitRequest(program=name)))
        assert status is grpc.StatusCode.NOT_FOUND
        assert repr(name) in message


async def test_an_unknown_embedder_is_refused_rather_than_waited_for(stage: Any) -> None:
    nodes = (Node(0, Input("q")), Node(1, Embed("best"), {"texts": Value(0)}, "", "app.py:4"))
    status, message = await refused(stage.stub.Invoke(request(Graph(nodes, (Value(1),)), q="x")))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert message == "%1 embed (app.py:4): unknown embedder 'best'; known: 'hash'"
    nodes = (nodes[0], Node(1, Embed("hash"), {"texts": Value(0)}))
    assert (await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), q="x"))).info.state == "done"


async def test_nobody_offers_an_engine(bare: Any) -> None:
    status, message = await refused(bare.stub.Submit(request(ECHO, q="x")))
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "weft worker --kind llm" in message


async def test_too_large_a_request_is_refused_and_the_connection_survives(stage: Any) -> None:
    status, _ = await refused(stage.stub.Invoke(request(ECHO, q="x" * 2_000_000)))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stage.stub.Invoke(request(ECHO, q="ok"))).outputs[0].text.text == "<Q: ok>"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"a\\ud800"', " holds half of a surrogate pair"),
        ("[NaN]", ": NaN"),
        ("x", " is not JSON: Expecting value"),
    ],
)
async def test_an_input_that_is_no_json_is_refused(stage: Any, text: str, problem: str) -> None:
    graph = Graph((Node(0, Input("q", JSON)), ASK), (Value(1),))
    call = stage.stub.Invoke(pb.SubmitRequest(graph=encode_graph(graph), inputs={"q": text}))
    status, message = await refused(call)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert f"input 'q'{problem}" in message


async def test_an_operand_that_cannot_be_written_fails_its_run_and_no_other(stage: Any, until: Any) -> None:
    """The tasks of both runs are on their way in the same message."""
    held = Node(1, Tool("find", JSON, "client"), {"q": Value(0)})
    used = Node(2, Tool("lookup", TEXT, "server", True), {"a": Value(1)}, "", "app.py:2")
    graph = encode_graph(Graph((Node(0, Input("q")), held, used), (Value(2),)))
    answers = {"first": "NaN", "second": '"\\ud800"', "third": '"fine"'}
    calls = {}
    for name in answers:
        submit = pb.SubmitRequest(graph=graph, inputs={"q": '"x"'})
        calls[name] = stage.stub.Run()
        start = pb.RunRequest(start=pb.Start(submit=submit, tools=["find"]))
        await calls[name].write(pb.RunRequests(requests=[start]))
    shell = stage.server.orchestrator.shell
    await until(lambda: len(shell.runs) == 3)
    asked = {run: next(iter(live.attempts.items())) for run, live in shell.runs.items()}
    with shell.together():
        for (run, (node, attempt)), text in zip(asked.items(), answers.values(), strict=True):
            live = shell.runs[run]
            assert live.is_current(node, attempt.number)
            shell.task_done(live, live.node(node), (Json(json.loads(text)),))
    ends = []
    for call in calls.values():
        while not (message := await call.read()).events[-1].HasField("finished"):
            pass
        ends.append(message.events[-1].finished)
    assert [end.info.state for end in ends] == ["failed", "failed", "done"]
    assert [end.fault.location for end in ends] == ["app.py:2", "app.py:2", ""]
    assert "cannot be encoded" in ends[0].fault.message
    assert (await stage.stub.Invoke(request(ECHO, q="ok"))).info.state == "done"


@pytest.mark.parametrize(("value", "code"), [(float("nan"), "invalid"), ("x" * 1_100_000, "too_large")])
async def test_of_a_fragment_the_task_is_blamed_whose_operand_cannot_be_sent(
    stage: Any, until: Any, value: Any, code: str
) -> None:
    nodes = (
        Node(0, Input("q")),
        Node(1, Tool("find", JSON, "client"), {"q": Value(0)}),
        Node(2, Tool("find", JSON, "client"), {"q": Value(0)}),
        Node(3, Tool("lookup", TEXT, "server", True), {"a": Value(1)}, "", "app.py:3"),
        Node(4, Tool("lookup", TEXT, "server", True), {"a": Value(3), "b": Value(2)}, "", "app.py:4"),
    )
    submit = pb.SubmitRequest(graph=encode_graph(Graph(nodes, (Value(4),))), inputs={"q": '"x"'})
    call = stage.stub.Run()
    await call.write(pb.RunRequests(requests=[pb.RunRequest(start=pb.Start(submit=submit, tools=["find"]))]))
    shell = stage.server.orchestrator.shell
    await until(lambda: any(len(live.attempts) == 2 for live in shell.runs.values()))
    (live,) = shell.runs.values()
    with shell.together():
        for node, answer in zip(list(live.attempts), ("fine", value), strict=True):
            shell.task_done(live, live.node(node), (Json(answer),))
    while not (message := await call.read()).events[-1].HasField("finished"):
        pass
    fault = message.events[-1].finished.fault
    assert (fault.code, fault.location) == (code, "app.py:4")


async def test_too_large_an_operand_fails_its_run_only(stage: Any) -> None:
    doubled = Graph(
        (
            Node(0, Input("q")),
            Node(1, Format((Slot("a"), Slot("a"))), {"a": Value(0)}),
            Node(2, Tool("lookup", TEXT, "server", True), {"a": Value(1)}, "", "app.py:2"),
        ),
        (Value(2),),
    )
    result = await stage.stub.Invoke(request(doubled, q="x" * 600_000))
    assert result.fault.code == "too_large"
    assert "max_message_mb" in result.fault.message
    assert result.fault.location == "app.py:2"
    assert (await stage.stub.Invoke(request(ECHO, q="ok"))).info.state == "done"


async def test_too_large_a_result_fails_its_run_only(stage: Any) -> None:
    nodes = (Node(0, Input("q")), Node(1, Format((Slot("a"), Slot("a"))), {"a": Value(0)}))
    result = await stage.stub.Invoke(request(Graph(nodes, (Value(1),)), q="x" * 600_000))
    assert result.fault.code == "too_large"


@pytest.mark.parametrize(
    ("double", "names", "where"),
    [(Format((Slot("a"), Slot("a"))), ("a",), "app.py:17"), (Gather("list"), ("0", "1"), "app.py:16")],
)
async def test_what_doubles_without_end_fails_its_run_only(
    stage: Any, double: Op, names: tuple[str, ...], where: str
) -> None:
    doubled = [Node(n, double, dict.fromkeys(names, Value(n - 1)), "", f"app.py:{n}") for n in range(1, 61)]
    other = asyncio.ensure_future(stage.stub.Invoke(request(chain(5), q="1")))
    result = await stage.stub.Invoke(
        request(Graph((Node(0, Input("q")), *doubled), (Value(60),)), q="x" * 64)
    )
    assert result.fault.code == "too_large"
    assert f"more than {4 << 20} characters" in result.fault.message
    assert "max_message_mb" in result.fault.message
    assert result.fault.location == where
    assert (await other).info.state == "done"


async def test_an_operation_that_cannot_be_evaluated_fails_its_run_only(stage: Any) -> None:
    nodes = (Node(0, Input("x", JSON)), Node(1, Project("name"), args(value=0), "who", "app.py:7"))
    other = asyncio.ensure_future(stage.stub.Invoke(request(chain(5), q="1")))
    result = await stage.stub.Invoke(request(Graph(nodes, (Value(1),), "p"), x={"age": 3}))
    assert result.info.state == "failed"
    assert (result.fault.code, result.fault.location, result.fault.program) == ("invalid", "app.py:7", "p")
    assert "'name'" in result.fault.message
    assert (await other).info.state == "done"


async def test_fault_of_a_worker_reaches_the_caller(stage: Any) -> None:
    stage.workers["w1"].faults = [value_pb2.Fault(code="too_large", message="prompt of 9 tokens")]
    fault = (await stage.stub.Invoke(request(ECHO, q="x"))).fault
    assert (fault.code, fault.message, fault.program) == ("too_large", "prompt of 9 tokens", "echo")
    assert "'ask'" in fault.node
    assert fault.location == "app.py:3"


async def test_retry_after_a_transient_fault(stage: Any) -> None:
    worker = stage.workers["w1"]
    worker.faults = [value_pb2.Fault(code="internal", message="m", retryable=True)]
    node = Node(1, ASK.op, ASK.args, policy=Policy(attempts=2, backoff_s=0.01))
    result = await stage.stub.Invoke(request(Graph((Node(0, Input("q")), node), (Value(1),)), q="x"))
    assert result.outputs[0].text.text == "<Q: x>"


async def test_timeout_of_a_node(stage: Any) -> None:
    stage.workers["w1"].gated = {Decode}
    node = Node(1, ASK.op, ASK.args, "slow", policy=Policy(timeout_s=0.05))
    result = await stage.stub.Invoke(request(Graph((Node(0, Input("q")), node), (Value(1),)), q="x"))
    assert result.fault.code == "timeout"
    assert "0.05 s" in result.fault.message


async def test_deadline_of_a_run(stage: Any) -> None:
    stage.workers["w1"].gated = {Decode}
    late = request(ECHO, q="x")
    late.deadline_s = 0.05
    result = await stage.stub.Invoke(late)
    assert result.fault.code == "timeout"
    assert "deadline" in result.fault.message
    for nonsense in (-1.0, math.nan):
        late.deadline_s = nonsense
        assert (await refused(stage.stub.Invoke(late)))[0] is grpc.StatusCode.INVALID_ARGUMENT
