"""A small orchestrator for the client's tests: real gRPC, real live graphs, and a model that only echoes."""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc
import numpy as np
import pytest

from weft.frontend.client import Client
from weft.frontend.client import client as client_module
from weft.graph import draw
from weft.graph.codec import (
    decode_graph,
    decode_value,
    encode_datum,
    encode_graph,
    encode_value,
)
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.errors import GraphError
from weft.graph.evaluate import evaluate, lift
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Const, Embed, Input, Search, Tool
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Score, Upsert
from weft.graph.prompt import Fixed, Message, Piece
from weft.graph.sampling import Choices, JsonSchema
from weft.graph.values import EFFECT, Datum, Json, KvValue, TextValue, VectorsValue, plain, render
from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, value_pb2

PASSAGES = [
    {
        "id": f"p{number}",
        "text": f"passage {number}",
        "score": 1.0 - number / 10,
        "source": "",
        "metadata": {},
    }
    for number in range(3)
]


class Template:
    """A chat template: `<role>text` for each message."""

    def render(self, messages: Any, *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for message in messages:
            assert isinstance(message, Message)
            pieces.append(Fixed(f"<{message.role}>"))
            pieces += [Fixed(part) if isinstance(part, str) else part for part in message.parts]
        return (*pieces, Fixed("<assistant>"))


DEPLOYMENT = Deployment(
    {"echo": ModelSpec("echo", 1000, Template())}, "echo", indexes=frozenset({"handbook"}), reranker="ranker"
)


T = TypeVar("T")
Steps = Generator[pb.RunEvent, None, T]
"""What goes to the client while something is computed."""


class Failed(Exception):
    """A node failed."""

    def __init__(self, fault: value_pb2.Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def example(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A small value that conforms to a schema."""
    if "$ref" in schema:
        return example(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: example(inner, root) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [example(schema.get("items", {}), root)] * 2
        case "integer":
            return 7
        case "number":
            return 1.5
        case "boolean":
            return True
        case _:
            return "word"


class MiniRun:
    """One run, executed node by node in the thread of its call."""

    def __init__(self, server: MiniServer, number: int, start: pb.Start) -> None:
        self.id = f"r{number}"
        self.server = server
        self.start = start
        self.live = LiveGraph(DEPLOYMENT)
        self._begun = time.monotonic()
        self.requests: queue.Queue[pb.RunRequest | None] = queue.Queue()
        self.cancelled = threading.Event()
        self.events: list[pb.RunEvent] = []
        self.extends: list[pb.Extend] = []
        self.finish: pb.Finish | None = None
        self.graph = decode_graph(start.submit.graph)
        self._read: dict[Value, str] = {}  # what a kv value has read
        self._values: dict[Value, Datum] = {}
        self._streams = {decode_value(value) for value in start.stream}
        self._wanted: list[Value] = []
        self._todo: list[Node] = []

    def execute(self) -> Steps[None]:
        """The events of the run, to its end."""
        yield self._event(started=pb.RunInfo(run=self.id, program=self.graph.name, state="running"))
        try:
            outputs = yield from self._all()
        except Failed as problem:
            fault = problem.fault
            fault.program = self.graph.name
            state = "cancelled" if fault.code == "cancelled" else "failed"
            result = pb.RunResult(info=pb.RunInfo(run=self.id, state=state), fault=fault)
        else:
            result = pb.RunResult(info=pb.RunInfo(run=self.id, state="done"), outputs=outputs)
        yield self._event(finished=result)

    def _all(self) -> Steps[list[value_pb2.Datum]]:
        yield from self._grow(self.graph, closed=not self.start.grows)
        while self.start.grows and self.finish is None:
            request = self._next()
            if request.HasField("extend"):
                self.extends.append(request.extend)
                self._streams |= {decode_value(value) for value in request.extend.stream}
                self._wanted += [decode_value(value) for value in request.extend.wanted]
                yield from self._grow(decode_graph(request.extend.increment), closed=False)
            elif request.HasField("finish"):
                self.finish = request.finish
        if self.finish is not None and self.finish.HasField("fault"):
            raise Failed(self.finish.fault)
        if self.finish is not None:
            return [value_pb2.Datum(json=self.finish.result)]
        return [encode_datum(self._values[self.live.resolve(value)]) for value in self.graph.outputs]

    def _grow(self, graph: Graph, *, closed: bool) -> Steps[None]:
        nodes = self.live.extend(graph, closed=closed)
        self._todo += sorted(nodes, key=lambda node: not isinstance(node.op, Const))  # which bodies share
        while self._todo:
            node = self._todo.pop(0)
            yield from self._step(node)
        for value in self._wanted:
            datum = encode_datum(self._values[self.live.resolve(value)])
            yield self._event(known=pb.Known(value=encode_value(value), datum=datum))
        self._wanted.clear()

    def _step(self, node: Node) -> Steps[None]:
        args = {name: self._values[value] for name, value in node.args.items() if value in self._values}
        if node.op.kind == "control":
            self._todo[:0] = self.live.expand(node.id, args).nodes
            return
        op = node.op.label()
        event: dict[str, Any] = {"node": node.id, "label": op, "op": op, "name": node.name}
        yield self._event(node=pb.NodeEvent(**event, phase="started"))
        results = yield from self._compute(node, args)
        for output, datum in enumerate(results):
            self._values[Value(node.id, output)] = datum
        made = {Value(node.id, output): datum for output, datum in enumerate(results)}
        for control in self.live.learned(made):
            self._todo += self.live.advance(control).nodes
        yield self._event(node=pb.NodeEvent(**event, phase="done"))

    def _compute(self, node: Node, args: dict[str, Datum]) -> Steps[Sequence[Datum]]:
        match node.op:
            case Input(name=name, default=default):
                return [lift(json.loads(self.start.submit.inputs.get(name, default or "null")))]
            case Prefill():
                return self._prefill(node, node.op, args)
            case Decode():
                return (yield from self._decode(node, node.op))
            case Score(choices=choices):
                return [TextValue(choices[-1]), Json([0.0] * len(choices))]
            case Tool():
                return (yield from self._tool(node, node.op, args))
            case _:
                return _host_or_index(node, args)

    def _prefill(self, node: Node, op: Prefill, args: dict[str, Datum]) -> list[Datum]:
        text = self._read.get(node.args["kv"], "") if "kv" in node.args else ""
        for piece in op.pieces:
            text += piece.text if isinstance(piece, Fixed) else render(args[piece.name])
        self._read[Value(node.id)] = text
        return [KvValue(f"{self.id}/{node.id}")]

    def _decode(self, node: Node, op: Decode) -> Steps[Sequence[Datum]]:
        prompt = self._read[node.args["kv"]]
        self.server.prompts.append(prompt)
        self.server.seeds.append(op.sampling.seed)
        if "HANG" in prompt:
            self._hang()
        if "FAIL" in prompt:
            raise Failed(_fault("internal", "the model broke", node))
        match op.constraint:
            case JsonSchema(schema=schema):
                text = json.dumps(example(json.loads(schema), json.loads(schema)))
            case Choices(options=options):
                text = options[0]
            case _:
                text = f"[{prompt}]"
        self._read[Value(node.id)] = prompt + text
        names = [encode_value(n) for n in self._streams if self.live.resolve(n) == Value(node.id, 1)]
        if names or (self.start.follow and node.name):
            value = names[0] if names else None
            for piece, again in (
                (text[:3], False),
                *((p, True) for p in self.server.again),
                (text[3:], False),
            ):
                delta = pb.TextDelta(value=value, text=piece, node=node.id, name=node.name, again=again)
                yield self._event(delta=delta)
        return [KvValue(f"{self.id}/{node.id}"), TextValue(text)]

    def _tool(self, node: Node, op: Tool, args: dict[str, Datum]) -> Steps[Sequence[Datum]]:
        arguments = json.dumps({name: plain(datum) for name, datum in args.items()})
        for attempt in range(1, node.policy.attempts + 1):
            told: dict[str, Any] = {"node": node.id, "tool": op.tool}
            if self.start.follow:
                yield self._event(tool_started=pb.ToolStarted(**told, arguments=arguments))
            call = pb.ToolCall(**told, attempt=attempt, arguments=arguments)
            yield self._event(tool=call)
            request = self._next()
            while not request.HasField("tool"):
                request = self._next()
            if self.start.follow:
                failed = request.tool.HasField("fault")
                told["fault" if failed else "json"] = request.tool.fault if failed else request.tool.json
                yield self._event(tool_ended=pb.ToolEnded(**told))
            if not request.tool.HasField("fault"):
                return [lift(json.loads(request.tool.json))]
            if not request.tool.fault.retryable:
                break
        fault = request.tool.fault
        raise Failed(_fault(fault.code, fault.message, node))

    def _next(self) -> pb.RunRequest:
        while not self.cancelled.is_set():
            if self._late():
                raise Failed(value_pb2.Fault(code="timeout", message="the run is out of time"))
            try:
                request = self.requests.get(timeout=0.02)
            except queue.Empty:
                continue
            if request is None:
                break
            return request
        raise Failed(value_pb2.Fault(code="cancelled", message="the run was cancelled"))

    def _late(self) -> bool:
        limit_s = self.start.submit.deadline_s
        return 0 < limit_s < time.monotonic() - self._begun

    def _hang(self) -> None:
        self.cancelled.wait(timeout=30)
        raise Failed(value_pb2.Fault(code="cancelled", message="the run was cancelled"))

    def _event(self, **event: Any) -> pb.RunEvent:
        message = pb.RunEvent(run=self.id, at_s=float(len(self.events)), **event)
        self.events.append(message)
        return message


def _host_or_index(node: Node, args: dict[str, Datum]) -> tuple[Datum, ...] | list[Datum]:
    match node.op:
        case Embed():
            return [VectorsValue(np.ones((1, 2), np.float32))]
        case Chunk():
            return [Json(plain(args["documents"])), Json(["text"])]
        case Upsert():
            return [Json({"passages_added": 1}), EFFECT]
        case Search():
            return [Json(PASSAGES[: plain(args["k"])])]
        case op if op.kind == "rerank":
            return [Json(list(reversed(plain(args["passages"])))[: plain(args["k"])])]
        case op:
            return evaluate(op, args)


def _fault(code: str, message: str, node: Node) -> value_pb2.Fault:
    return value_pb2.Fault(code=code, message=message, node=node.label(), location=node.location)


class MiniServer(orchestrator_pb2_grpc.OrchestratorServicer):
    """The service, and what it has seen."""

    def __init__(self) -> None:
        self.address = ""
        self.runs: dict[str, MiniRun] = {}
        self._numbers = itertools.count()  # of runs, which threads begin
        self.prompts: list[str] = []
        self.seeds: list[int] = []
        self.again: list[str] = []  # what takes the place of the beginning of each text

    @property
    def last(self) -> MiniRun:
        """The run that was started last."""
        return list(self.runs.values())[-1]

    def Invoke(self, request: pb.SubmitRequest, context: Any) -> pb.RunResult:
        """A whole run in one answer."""
        run = self._begin(pb.Start(submit=request), context)
        _cancel_with(context, run)
        *_, last = run.execute()
        return last.finished

    def Join(self, request: Any, context: grpc.ServicerContext) -> NoReturn:
        """This server has no workers."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server has no workers")

    def Run(self, request_iterator: Iterator[pb.RunRequests], context: Any) -> Iterator[pb.RunEvents]:
        """One run over one stream."""
        first = next(request_iterator).requests
        run = self._begin(first[0].start, context)
        _cancel_with(context, run)
        for request in first[1:]:
            run.requests.put(request)
        threading.Thread(target=_pass_on, args=(request_iterator, run.requests), daemon=True).start()
        yield from (pb.RunEvents(events=[event]) for event in run.execute())

    def Submit(self, request: pb.SubmitRequest, context: Any) -> pb.RunInfo:
        """A run that goes on alone."""
        run = self._begin(pb.Start(submit=request), context)
        threading.Thread(target=lambda: list(run.execute()), daemon=True).start()
        return pb.RunInfo(run=run.id, state="running")

    def Watch(self, request: pb.WatchRequest, context: Any) -> Iterator[pb.RunEvents]:
        """The events from the beginning."""
        if request.run not in self.runs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown run {request.run!r}")
        events = self.runs[request.run].events
        position = 0
        while not (position and events[position - 1].HasField("finished")):
            if position < len(events):
                position += 1
                yield pb.RunEvents(events=[events[position - 1]])
            else:
                time.sleep(0.005)

    def Resume(self, request: pb.ResumeRequest, context: grpc.ServicerContext) -> NoReturn:
        """Runs of this server ask nobody."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "runs of this server ask nobody")

    def Cancel(self, request: pb.CancelRunRequest, context: Any) -> pb.RunInfo:
        """Cancel a run and wait for its end."""
        run = self.runs[request.run]
        run.cancelled.set()
        while not run.events[-1].HasField("finished"):
            time.sleep(0.005)
        return pb.RunInfo(run=run.id, state="cancelled")

    def Trace(self, request: pb.TraceRequest, context: Any) -> pb.TraceResponse:
        """An empty trace."""
        return pb.TraceResponse(json=json.dumps({"traceEvents": [], "run": request.run}))

    def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        """All runs."""
        return pb.ListRunsResponse(runs=[pb.RunInfo(run=name) for name in self.runs])

    def Describe(self, request: pb.DescribeServerRequest, context: Any) -> pb.ServerInfo:
        """Who answers."""
        return pb.ServerInfo(version="test", default_model="echo")

    def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """The passes over a graph."""
        live = LiveGraph(DEPLOYMENT)
        live.extend(decode_graph(request.graph), closed=True)
        return pb.ExplainResponse(
            passes=[
                pb.PassReport(
                    name=report.name,
                    summary=report.summary,
                    graph=encode_graph(report.graph),
                    text=draw.text(report.graph),
                    mermaid=draw.mermaid(report.graph),
                )
                for report in live.reports
            ]
        )

    def _begin(self, start: pb.Start, context: Any) -> MiniRun:
        try:
            run = MiniRun(self, next(self._numbers), start)
            DEPLOYMENT.check(run.graph, start.tools)
        except GraphError as problem:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        self.runs[run.id] = run
        return run


def _cancel_with(context: Any, run: MiniRun) -> None:
    """Cancel a run with its call, which may have ended already."""
    if not context.add_callback(run.cancelled.set):
        run.cancelled.set()


def _pass_on(messages: Iterator[pb.RunRequests], into: queue.Queue[pb.RunRequest | None]) -> None:
    try:
        for message in messages:
            for request in message.requests:
                into.put(request)
    except grpc.RpcError:
        pass
    finally:
        into.put(None)


@pytest.fixture(scope="session")
def _grpc_server() -> Iterator[tuple[grpc.Server, MiniServer]]:
    service = MiniServer()
    server = grpc.server(ThreadPoolExecutor(32))
    orchestrator_pb2_grpc.add_OrchestratorServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield server, service
    server.stop(grace=0).wait()


@pytest.fixture
def server(
    _grpc_server: tuple[grpc.Server, MiniServer], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MiniServer]:
    """The server that programs of the test use; it has seen nothing yet."""
    service = _grpc_server[1]
    service.prompts.clear()
    service.seeds.clear()
    client = Client(service.address)
    monkeypatch.setattr(client_module, "_default", client)
    yield service
    client.close()
