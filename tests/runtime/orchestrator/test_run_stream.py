"""Runs over one stream: deltas, tools of the client, programs that grow, clients that go away."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from weft.graph.codec import encode_graph, encode_value
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Const, Format, Input, Search, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate, Ingest
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import INTEGER, STRINGS, TEXT, Effect
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.actions import Action
from weft.runtime.scheduler.scheduler import Scheduler

from .conftest import llm


def ask(number: int, source: int | None = None) -> Node:
    parts = ("Q: ", Slot("q")) if source is not None else ("hello",)
    args = {"q": Value(source)} if source is not None else {}
    return Node(number, Generate((Message("raw", parts),)), args, "ask", "app.py:3")


def start(
    graph: Graph | None, *, stream: Iterable[Value] = (), tools: Iterable[str] = (), **inputs: object
) -> pb.RunRequest:
    given = {name: json.dumps(value) for name, value in inputs.items()}
    submit = pb.SubmitRequest(graph=encode_graph(graph) if graph else None, inputs=given)
    return pb.RunRequest(
        start=pb.Start(submit=submit, grows=graph is None, stream=map(encode_value, stream), tools=tools)
    )


def extend(graph: Graph, *, wanted: Iterable[Value] = (), stream: Iterable[Value] = ()) -> pb.RunRequest:
    increment = pb.Extend(
        increment=encode_graph(graph), wanted=map(encode_value, wanted), stream=map(encode_value, stream)
    )
    return pb.RunRequest(extend=increment)


def finish(result: object) -> pb.RunRequest:
    return pb.RunRequest(finish=pb.Finish(result=json.dumps(result)))


class Conversation:
    """A Run stream, event by event."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.Run()
        self.seen: list[pb.RunEvent] = []
        self._unread: deque[pb.RunEvent] = deque()

    async def say(self, request: pb.RunRequest) -> None:
        await self.call.write(pb.RunRequests(requests=[request]))

    async def next(self, kind: str) -> Any:
        async for event in self.events():
            if event.WhichOneof("event") == kind:
                return getattr(event, kind)
        raise AssertionError(f"the stream ended without {kind!r}")

    async def events(self) -> AsyncIterator[pb.RunEvent]:
        while self._unread or isinstance(message := await self.call.read(), pb.RunEvents):
            if not self._unread:
                self._unread += message.events
            self.seen.append(self._unread.popleft())
            yield self.seen[-1]

    async def finished(self) -> pb.RunResult:
        result: pb.RunResult = await self.next("finished")
        return result

    def deltas(self) -> str:
        return "".join(event.delta.text for event in self.seen)


@pytest.fixture
def talk(stage: Any) -> Conversation:
    return Conversation(stage.stub)


async def test_deltas_add_up_to_the_text(talk: Conversation) -> None:
    graph = Graph((Node(0, Input("q")), ask(1, 0)), (Value(1),))
    await talk.say(start(graph, stream=[Value(1)], q="why?"))
    result = await talk.finished()
    assert talk.deltas() == result.outputs[0].text.text == "<Q: why?>"
    assert all(e.delta.value == encode_value(Value(1)) for e in talk.seen if e.HasField("delta"))
    assert talk.seen[0].HasField("started")
    assert sum(event.HasField("delta") for event in talk.seen) == 9


async def test_what_is_awaited_later_is_run_for_latency_from_then_on(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[ev.NodesAdded] = []
    handle = Scheduler.handle

    def seen(scheduler: Scheduler, *events: ev.Event, now: float) -> list[Action]:
        added.extend(event for event in events if isinstance(event, ev.NodesAdded))
        return handle(scheduler, *events, now=now)

    monkeypatch.setattr(Scheduler, "handle", seen)
    await talk.say(start(None, tools=["slow"]))
    await talk.say(extend(Graph((Node(0, Tool("slow", TEXT)), ask(1, 0)), ())))
    await talk.next("tool")
    await talk.say(extend(Graph((), ()), wanted=[Value(1, 1)]))
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=0, attempt=1, json='"x"')))
    await talk.next("known")
    await talk.say(finish(None))
    await talk.finished()
    first = {p.node.op.label(): p.forecast.objective.kind for event in added for p in event.nodes}
    assert first == {"tool": "throughput", "prefill": "throughput", "decode": "throughput"}
    last = added[-1]
    assert [forecast.objective.kind for forecast in last.revised.values()] == ["latency"] * 3


async def test_a_mistake_of_the_orchestrators_own_ends_a_growing_run(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise AssertionError("as in a bug")

    monkeypatch.setattr(LiveGraph, "extend", mistaken)
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), ())))
    fault = (await talk.finished()).fault
    assert (fault.code, fault.message) == ("internal", "AssertionError: as in a bug")


async def test_what_a_growing_run_was_sent_counts_as_kept(stage: Any, talk: Conversation) -> None:
    await talk.say(start(None))
    for number, text in enumerate(("x" * 10_000, "y" * 20_000)):
        await talk.say(extend(Graph((Node(number, Const(json.dumps(text), TEXT)),), ())))
    await talk.say(finish("z" * 5000))
    run = (await talk.finished()).info.run
    assert 35_000 < stage.server.orchestrator.records.find(run).size < 40_000


async def test_the_graph_of_a_plan_is_not_counted_for_each_of_its_runs(stage: Any) -> None:
    graph = Graph((Node(0, Const(json.dumps("x" * 10_000), TEXT)), Node(1, Input("q"))), (Value(1),))
    submit = pb.SubmitRequest(graph=encode_graph(graph), inputs={"q": '"1"'})
    run = (await stage.stub.Invoke(submit)).info.run
    assert stage.server.orchestrator.records.find(run).size < 5000
    once = stage.server.orchestrator.start(submit, once=True)
    assert once.record.size > 10_000


async def test_tool_of_the_client(talk: Conversation) -> None:
    nodes = (Node(0, Input("q")), Node(1, Tool("add", TEXT), {"a": Value(0)}), ask(2, 1))
    await talk.say(start(Graph(nodes, (Value(2),)), tools=["add"], q="x"))
    call = await talk.next("tool")
    assert (call.tool, json.loads(call.arguments), call.attempt) == ("add", {"a": "x"}, 1)
    run = talk.seen[0].run
    assert call.idempotency_key == f"{run}/{call.node}"
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json='"sum"')))
    assert (await talk.finished()).outputs[0].text.text == "<Q: sum>"


async def test_tool_of_the_client_that_raises(talk: Conversation) -> None:
    nodes = (Node(0, Tool("add", TEXT), {}, "adder", "app.py:4"), ask(1, 0))
    await talk.say(start(Graph(nodes, (Value(1),), "p"), tools=["add"]))
    call = await talk.next("tool")
    fault = value_pb2.Fault(code="tool_failed", message="ZeroDivisionError: division by zero")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, fault=fault)))
    result = await talk.finished()
    assert (result.fault.code, result.fault.message) == ("tool_failed", fault.message)
    assert (result.fault.location, result.fault.program) == ("app.py:4", "p")


async def test_tool_of_the_client_is_asked_again_with_the_same_key(talk: Conversation) -> None:
    node = Node(0, Tool("add", TEXT), {}, policy=Policy(attempts=2, backoff_s=0.0))
    await talk.say(start(Graph((node,), (Value(0),)), tools=["add"]))
    first = await talk.next("tool")
    fault = value_pb2.Fault(code="tool_failed", message="m")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=first.node, attempt=1, fault=fault)))
    second = await talk.next("tool")
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.idempotency_key == second.idempotency_key
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=second.node, attempt=1, json='"late"')))
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=second.node, attempt=2, json='"good"')))
    assert (await talk.finished()).outputs[0].text.text == "good"


@pytest.mark.parametrize("answer", ["3", "{", "[" * 50_000])
async def test_tool_that_returns_what_it_does_not_promise(talk: Conversation, answer: str) -> None:
    await talk.say(start(Graph((Node(0, Tool("add", TEXT), {}),), (Value(0),)), tools=["add"]))
    call = await talk.next("tool")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json=answer)))
    fault = (await talk.finished()).fault
    assert fault.code == "tool_failed"
    assert "'add'" in fault.message


async def test_program_that_grows(talk: Conversation, stage: Any) -> None:
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), (Value(0),)), wanted=[Value(0)]))
    first = await talk.next("known")
    assert first.datum.text.text == "<hello>"
    second = Graph((ask(1, 0),), (Value(1),), outside={Value(0): TEXT})
    await talk.say(extend(second, wanted=[Value(0), Value(1)], stream=[Value(1)]))
    assert (await talk.next("known")).value == encode_value(Value(0))
    assert (await talk.next("known")).datum.text.text == "<Q: <hello>>"
    assert stage.workers["w1"].contexts, "a run that grows keeps what it has read"
    await talk.say(finish({"answer": 42}))
    result = await talk.finished()
    assert json.loads(result.outputs[0].json) == {"answer": 42}


@pytest.mark.parametrize(
    ("overrides", "streamed"),
    [({}, worker_pb2.STREAM_PARTS), ({"passes_off": ["pipeline_decode"]}, worker_pb2.STREAM_NONE)],
)
async def test_parts_of_a_list_are_streamed_to_a_program_that_grows_if_it_may_take_them(
    talk: Conversation, stage: Any, streamed: int
) -> None:
    worker = stage.workers["w1"]
    worker.text = lambda read: '["a", "b"]'
    await talk.say(start(None))
    texts = JsonSchema('{"type": "array", "items": {"type": "string"}}')
    listed = Node(
        0, Generate((Message("raw", ("hello",)),), STRINGS, constraint=texts), {}, "ask", "app.py:3"
    )
    await talk.say(extend(Graph((listed,), (Value(0),)), wanted=[Value(0)]))
    assert json.loads((await talk.next("known")).datum.json) == ["a", "b"]
    tasks = [task for fragment in worker.fragments() for task in fragment.tasks]
    assert [task.stream for task in tasks] == [worker_pb2.STREAM_NONE, streamed]


async def test_effects_under_way_are_waited_for(talk: Conversation, stage: Any) -> None:
    await talk.say(start(None, tools=["note"]))
    await talk.say(extend(Graph((Node(0, Tool("note", TEXT), {}),), (Value(0),))))
    await talk.say(finish(None))
    call = await talk.next("tool")
    assert not any(event.HasField("finished") for event in talk.seen)
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json='"noted"')))
    assert (await talk.finished()).info.state == "done"


async def test_what_nobody_takes_ends_with_the_program(talk: Conversation, stage: Any, until: Any) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), (Value(0),))))
    await until(worker.fragments)
    await talk.say(finish("early"))
    run = (await talk.finished()).info.run
    await until(lambda: worker.cancelled(run) and not worker.contexts)


async def test_search_of_an_index_that_an_earlier_increment_fills(talk: Conversation) -> None:
    await talk.say(start(None))
    documents = Node(0, Const('["text"]', STRINGS))
    ingest = Node(1, Ingest("fresh"), {"documents": Value(0)})
    await talk.say(extend(Graph((documents, ingest), (Value(1),))))
    query, k = Node(2, Const('"x"', TEXT)), Node(3, Const("1", INTEGER))
    found = Node(4, Search("fresh"), {"query": Value(2), "k": Value(3), "after": Value(1, 1)})
    outside = {Value(1, 1): Effect("fresh")}
    await talk.say(extend(Graph((query, k, found), (Value(4),), outside=outside), wanted=[Value(4)]))
    known = await talk.next("known")
    assert json.loads(known.datum.json)[0]["text"] == "from fresh"


async def test_increment_that_is_wrong_fails_the_run_and_says_why(talk: Conversation) -> None:
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), (Value(0),))))
    wrong = encode_graph(Graph((Node(1, Format(("x",))),), (Value(1),)))
    wrong.nodes[0].args["q"].node = 99
    await talk.say(pb.RunRequest(extend=pb.Extend(increment=wrong)))
    fault = (await talk.finished()).fault
    assert fault.code == "invalid"
    assert "%1" in fault.message


async def test_program_that_raises(talk: Conversation) -> None:
    await talk.say(start(None))
    fault = value_pb2.Fault(code="internal", message="ValueError: no")
    await talk.say(pb.RunRequest(finish=pb.Finish(fault=fault)))
    result = await talk.finished()
    assert (result.info.state, result.fault.message) == ("failed", "ValueError: no")


@pytest.mark.parametrize("how", ["disconnect", "cancel", "half-close"])
async def test_client_that_goes_away_cancels_its_run(
    talk: Conversation, stage: Any, until: Any, how: str
) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), (Value(0),))))
    await until(worker.fragments)
    run = worker.fragments()[0].run
    if how == "disconnect":
        talk.call.cancel()
    elif how == "cancel":
        await talk.say(pb.RunRequest(cancel=pb.CancelRunRequest(run=run)))
    else:
        await talk.call.done_writing()
    await until(lambda: worker.cancelled(run) and not worker.contexts)
    assert stage.server.orchestrator.records[run].state == "cancelled"
    assert not stage.server.orchestrator.shell.runs


async def test_first_request_must_be_a_start(talk: Conversation) -> None:
    await talk.say(finish(None))
    with pytest.raises(Exception, match="must be `start`"):
        await talk.finished()


async def test_a_growing_run_may_begin_with_its_first_increment(talk: Conversation) -> None:
    first = pb.SubmitRequest(graph=encode_graph(Graph((ask(0),), (), "p")))
    await talk.say(pb.RunRequest(start=pb.Start(submit=first, grows=True)))
    await talk.say(extend(Graph((), ()), wanted=[Value(0)]))
    assert (await talk.next("known")).datum.text.text == "<hello>"
    await talk.say(finish(None))
    assert (await talk.finished()).info.program == "p"


async def test_a_growing_run_may_use_workers_that_join_while_it_lives(bare: Any) -> None:
    talk = Conversation(bare.stub)
    await talk.say(start(None))
    for name, worker in enumerate(("m", "m2")):
        await talk.say(extend(Graph((Node(2 * name, Const("1")),), ()), wanted=[Value(2 * name)]))
        await talk.next("known")
        await bare.worker(worker, llm(worker))
        written = Generate((Message("raw", ("hello",)),), model="" if worker == "m" else worker)
        number = 2 * name + 1
        await talk.say(extend(Graph((Node(number, written),), ()), wanted=[Value(number)]))
        assert (await talk.next("known")).datum.text.text == "<hello>"
        assert bare.workers[worker].nodes()


async def test_what_nobody_offers_makes_a_growing_run_fail_as_unavailable(bare: Any) -> None:
    talk = Conversation(bare.stub)
    await talk.say(start(None))
    await talk.say(extend(Graph((ask(0),), ())))
    fault = (await talk.finished()).fault
    assert fault.code == "unavailable"
    assert "no worker offers 'llm'; start one with" in fault.message


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (extend(Graph((), ())), "started with grows=true and has not finished can grow"),
        (finish(None), "started with grows=true is finished by its client"),
        (pb.RunRequest(start=pb.Start()), "takes extend, tool, finish and cancel, not start"),
        (pb.RunRequest(), "takes extend, tool, finish and cancel, not None"),
    ],
)
async def test_what_a_run_cannot_take_fails_it(
    talk: Conversation, stage: Any, request_: pb.RunRequest, message: str
) -> None:
    stage.workers["w1"].gated = {Decode}
    await talk.say(start(Graph((ask(0),), (Value(0),))))
    await talk.say(request_)
    fault = (await talk.finished()).fault
    assert fault.code == "invalid"
    assert message in fault.message


async def test_only_tools_of_the_client_are_answered_by_it(
    talk: Conversation, stage: Any, until: Any
) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    await talk.say(start(Graph((ask(0),), (Value(0),))))
    await until(lambda: any(isinstance(node.op, Decode) for node in worker.nodes()))
    decode = worker.nodes()[-1].id
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=decode, attempt=1, json='"mine"')))
    assert "is not a tool of the client" in (await talk.finished()).fault.message
