"""Runs from their beginning to their end: what the service offers, without gRPC."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from weft.graph.codec import decode_graph, decode_value
from weft.graph.errors import GraphError
from weft.graph.evaluate import lift
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.observed import duration_key, length_key
from weft.graph.ops.common import Interrupt, Tool
from weft.graph.ops.primitive import Decode, Rate
from weft.graph.values import Datum
from weft.proto import graph_pb2, value_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import Settings
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.primitive import Primitive
from weft.runtime.scheduler.scheduler import Scheduler

from .answers import bad_result, check_type, tool_result
from .caller import CALLER
from .compiler import Compiler, filled_indexes
from .counts import Counts
from .door import check_names, in_full, invalid, read_inputs
from .durable import Durable
from .faults import decode_fault, fault_of, past_deadline
from .fleet import Fleet
from .journal_store import LastingRun
from .keeping import Keeping
from .record import RunRecord, State
from .records import Records
from .resumption import Resumption
from .run import Run
from .shared_results import Results
from .shell import Shell
from .timer import now
from .told import tool_arguments

__all__ = ["Orchestrator"]

_log = logging.getLogger(__name__)

_BYTES_PER_MB: Final = 2**20
_ENVELOPE: Final = 4096  # bytes of a message besides the values
_SHUTTING_DOWN: Final = "the server is shutting down"
_GOES_ON: Final = "; the run goes on when it is started again"


class Begun(NamedTuple):
    """A program as written, its live graph, what to begin with, and the indexes that are filled."""

    source: Graph
    live: LiveGraph
    nodes: tuple[Node, ...]
    indexes: frozenset[str]
    primitives: tuple[Primitive, ...] | None = None  # of a plan


class Orchestrator:
    """All runs of a server. Its methods must be called in the event loop's thread.

    Raises ValueError when the settings switch off a pass that cannot be.
    """

    def __init__(self, settings: Settings, scheduler: Scheduler | None = None) -> None:
        self.settings = settings
        scheduler = scheduler or Scheduler(settings.scheduler)
        preferred = settings.models[0].name if settings.models else ""
        self.fleet = Fleet(preferred, grace_s=scheduler.grace_s)
        self.max_bytes = settings.max_message_mb * _BYTES_PER_MB
        self.compiler = Compiler(settings, self.fleet, self.max_bytes)
        self.results = Results(self.fleet, settings.result_cache_mb * _BYTES_PER_MB)
        self.shell = Shell(scheduler, self.fleet, self, max_bytes=self.max_bytes)
        self.resumption = Resumption(self, settings, self.fleet, self.compiler, scheduler.grace_s)
        self.keeping = Keeping(settings, self.shell.stir, self._fail)
        self.records = Records()
        self.counts = Counts()
        self.watchers: list[Callable[[RunRecord], None]] = []
        """Called with each run that is over, once its client has been told."""

    def take_up(self) -> None:
        """Open the journal, and take up the runs that an earlier server has left. Raises JournalError."""
        left = self.keeping.open()
        for message in left.outcomes.values():
            self.records.take_up(pb.RunResult.FromString(message), now())
        for record in self.resumption.take_up(left.runs):
            self.records.add(record)
            self.counts.started += 1

    def close(self) -> None:
        """End all runs, or leave them to the next server, and end all memberships of workers."""
        self.keeping.leave()
        for run in list(self.shell.runs.values()):
            self.stop(run, _SHUTTING_DOWN + (_GOES_ON if run.durable else ""))
        for record in self.resumption.close():
            self._conclude(record, "cancelled", _cancelled(record, _SHUTTING_DOWN + _GOES_ON))
        for link in self.fleet:
            link.lost.set()
        self.shell.close()

    # ---- what clients ask for

    def start(
        self,
        request: pb.SubmitRequest,
        *,
        grows: bool = False,
        stream: Iterable[graph_pb2.Value] = (),
        follow: bool = False,
        tools: frozenset[str] = frozenset(),
        once: bool = False,
        lasting: bool = False,
    ) -> Run:
        """Begin a run. Raises DoorError, and nothing has happened then.

        `once`: the program will not come again, so its plan is not kept. `lasting`: the run is to outlive the
        server, if that has a journal.
        """
        with self.counts.starting():
            if not request.deadline_s >= 0:  # as NaN is not, either
                raise invalid(f"deadline_s must be 0 (none) or positive, not {request.deadline_s}")
            begun = self._begin_growing(request, tools) if grows else self._instantiate(request, tools, once)
            inputs = read_inputs(begun.source, request.inputs)
            record = RunRecord(
                "r-" + secrets.token_hex(6),
                begun.source.name,
                now(),
                time.time(),
                request.namespace,
                CALLER.get({}),
                lasting=lasting,
            )
            if grows or once:
                record.read_bytes = request.graph.ByteSize()
            durable = self.keeping.durable(record.id) if lasting else None
            run = self._run_of(record, begun, request, durable, grows=grows, tools=tools)
            run.told.follow = follow
            try:
                run.stream(decode_value(value) for value in stream)
            except GraphError as problem:
                raise invalid(str(problem)) from None
            record.emit(pb.RunEvent(started=record.info(record.started_s)), record.started_s)
            if durable is not None:
                self.keeping.submit(record, in_full(request, self.settings.programs))
            self._begin(run, begun, inputs, request.deadline_s)
            return run

    def go_on(self, record: RunRecord, request: pb.SubmitRequest, left: LastingRun) -> None:
        """Begin a run with what an earlier server has left of it. Raises DoorError."""
        begun = self._instantiate(request, frozenset(), once=False)
        inputs = read_inputs(begun.source, request.inputs)
        run = self._run_of(record, begun, request, self.keeping.durable(record.id, left))
        self._begin(run, begun, inputs, request.deadline_s)

    def _run_of(
        self,
        record: RunRecord,
        begun: Begun,
        request: pb.SubmitRequest,
        durable: Durable | None,
        *,
        grows: bool = False,
        tools: frozenset[str] = frozenset(),
    ) -> Run:
        run = Run(
            record,
            begun.live,
            grows,
            request.namespace,
            request.priority,
            self.results,
            request.batch,
            tools,
            durable,
        )
        run.outputs = begun.source.outputs
        run.indexes |= begun.indexes
        return run

    def _begin(self, run: Run, begun: Begun, inputs: Mapping[str, Datum], deadline_s: float) -> None:
        with self.shell.together():
            self._register(run, deadline_s)
            self._launch(run, begun.nodes, inputs, begun.primitives)

    def _instantiate(self, request: pb.SubmitRequest, tools: frozenset[str], once: bool) -> Begun:
        """A static program, compiled before or now."""
        program = self.compiler.compile(request, tools) if once else self.compiler.program(request, tools)
        plan = program.plan
        live = plan.live if once else plan.instantiate()
        return Begun(plan.source, live, plan.nodes, program.indexes, program.primitives)

    def _begin_growing(self, request: pb.SubmitRequest, tools: frozenset[str]) -> Begun:
        """A growing program, with its first increment if the request has one."""
        live = self.compiler.live_graph()
        if request.WhichOneof("source") is None:
            return Begun(Graph((), ()), live, (), frozenset())
        source = self.compiler.read(request)
        check_names(source, self.fleet, tools, ())
        try:
            return Begun(source, live, live.extend(source, closed=False), filled_indexes(source))
        except GraphError as problem:
            raise invalid(str(problem)) from None

    def _register(self, run: Run, deadline_s: float) -> None:
        self.records.add(run.record)
        self.shell.runs[run.id] = run
        deadline = run.record.started_s + deadline_s if deadline_s else None
        self.shell.handle(ev.RunStarted(run.id, run.priority, run.grows, run.namespace, deadline))
        if deadline is not None:
            loop, fault = asyncio.get_running_loop(), past_deadline(deadline_s)
            run.deadline = loop.call_later(max(0.0, deadline - now()), self.run_failed, run, fault)

    def _launch(
        self,
        run: Run,
        nodes: tuple[Node, ...],
        inputs: Mapping[str, Datum],
        primitives: tuple[Primitive, ...] | None = None,
    ) -> None:
        """Let nodes run, with the inputs among them bound."""
        known = run.bind(nodes, inputs)
        try:
            with self.shell.together():
                self.shell.grown(run, Growth(nodes), primitives)
                self.shell.known(run, known)
        except Exception as problem:
            self.run_failed(run, fault_of(problem, f"run {run.id}"))
        self.shell.settle(run)

    def extend(self, run: Run, request: pb.Extend) -> None:
        """Let a run grow. Raises DoorError or GraphError; the run cannot go on then."""
        if not run.grows or run.finishing is not None:
            raise invalid("only a run that was started with grows=true and has not finished can grow")
        run.record.read_bytes += request.increment.ByteSize()
        graph = decode_graph(request.increment)
        inputs = read_inputs(graph, {})
        check_names(graph, self.fleet, run.client_tools, run.indexes)
        run.graph.redeploy(self.fleet.profile)
        nodes = run.graph.extend(graph, closed=False)
        run.indexes |= filled_indexes(graph)
        run.stream(decode_value(value) for value in request.stream)
        run.withdraw(decode_value(value) for value in request.withdrawn)
        run.want([decode_value(value) for value in request.wanted], now())
        self._launch(run, nodes, inputs)
        if request.withdrawn:
            self.shell.shelve(run)

    def finish(self, run: Run, request: pb.Finish) -> None:
        """The program of a growing run has returned or raised. Effects that are under way are waited for."""
        if not run.grows:
            raise invalid("only a run that was started with grows=true is finished by its client")
        if request.HasField("fault"):
            self.run_failed(run, decode_fault(request.fault))
            return
        run.finishing = value_pb2.Datum(json=request.result or "null")
        self.shell.settle(run)

    def answer(self, run: Run, answer: pb.ToolAnswer) -> None:
        """A tool in the client's process gave a result or raised; late answers are dropped."""
        if run.id not in self.shell.runs or not run.is_current(answer.node, answer.attempt):
            return
        node = run.node(answer.node)
        if not (isinstance(node.op, Tool) and node.op.where == "client"):
            raise invalid(f"{node.where()} is not a tool of the client")
        try:
            result = lift(tool_result(node.op, answer))
        except (ValueError, RecursionError) as problem:
            fault = decode_fault(answer.fault) if answer.HasField("fault") else bad_result(node.op, problem)
            self.shell.task_failed(run.id, answer.node, answer.attempt, fault)
            return
        self.shell.task_done(run, node, (result,))

    def resume(self, run_id: str, number: int | None, text: str) -> RunRecord:
        """Give a run the answer of a person, as JSON text. Raises DoorError; the run waits on then."""
        record = self.records.find(run_id)
        run = self.shell.runs.get(run_id)
        waiting = [question.node for question in run.questions()] if run else []
        if run is None or not waiting:
            raise invalid(f"run {run_id!r} does not wait for anybody; it is {record.state}")
        if number is None and len(waiting) > 1:
            raise invalid(f"run {run_id!r} waits for several answers; name a node: {_listed(waiting)}")
        number = waiting[0] if number is None else number
        if number not in waiting:
            raise invalid(f"run {run_id!r} waits for no answer to node {number}, but to: {_listed(waiting)}")
        try:
            value = json.loads(text)
            check_type(value, run.graph.types[Value(number)], "the answer")
        except (ValueError, RecursionError) as problem:
            raise invalid(str(problem)) from None
        self.shell.task_done(run, run.node(number), (lift(value),))
        return record

    def flush(self) -> None:
        """Have all models forget what they have read and no running primitive uses."""
        for link in self.fleet:
            link.send(worker_pb2.Command(flush=worker_pb2.Flush()))

    def cancel(self, run_id: str, reason: str) -> RunRecord:
        """Cancel a run if it is not over. Raises DoorError for an unknown one."""
        record = self.records.find(run_id)
        run = self.shell.runs.get(run_id)
        if run is not None:
            self.stop(run, reason)
        else:
            self.resumption.cancel(run_id, _cancelled(record, reason))
        return record

    def stop(self, run: Run, reason: str) -> None:
        """Cancel a run if it is not over; one that is may have been forgotten."""
        self._end(run, "cancelled", _cancelled(run.record, reason))

    def info(self, record: RunRecord) -> pb.RunInfo:
        """A run in short, with what it waits for people to answer."""
        info = record.info(now())
        run = self.shell.runs.get(record.id)
        if run is not None and (questions := run.questions()):
            info.state = "waiting"
            info.waiting.extend(questions)
        return info

    # ---- what the shell reports

    def _fail(self, run_id: str, fault: Fault) -> None:
        run = self.shell.runs.get(run_id)
        if run is not None:
            self.run_failed(run, fault)

    def run_failed(self, run: Run, fault: Fault) -> None:
        """A run cannot go on."""
        self._end(run, "failed", replace(fault, program=fault.program or run.record.program))

    def run_complete(self, run: Run) -> None:
        """Nothing is left to do of a run."""
        try:
            outputs = run.results()
        except GraphError as problem:
            self.run_failed(run, Fault("invalid", f"the result cannot be sent: {problem}"))
            return
        size = sum(output.ByteSize() for output in outputs)
        if size + _ENVELOPE > self.max_bytes:
            message = (
                f"the result takes {size} bytes, which do not fit into a message of {self.max_bytes}; "
                "return less, or raise max_message_mb in the settings"
            )
            self.run_failed(run, Fault("too_large", message))
            return
        self._end(run, "done", None, outputs)

    def ask_client(self, run: Run, node: Node, attempt: int) -> None:
        """Have the client of a run call one of its tools, or a person answer."""
        if isinstance(node.op, Interrupt):
            run.record.emit(pb.RunEvent(interrupted=run.question(node)), now())
            return
        assert isinstance(node.op, Tool)
        call = pb.ToolCall(
            node=node.id,
            attempt=attempt,
            tool=node.op.tool,
            arguments=tool_arguments(node, run.values),
            idempotency_key=f"{run.id}/{node.id}",
        )
        run.record.emit(pb.RunEvent(tool=call), now())

    def _end(
        self, run: Run, state: State, fault: Fault | None, outputs: Sequence[value_pb2.Datum] = ()
    ) -> None:
        if self.shell.runs.pop(run.id, None) is None:
            return
        at = now()
        if run.deadline:
            run.deadline.cancel()
        run.break_off(fault, at)
        self._conclude(run.record, state, fault, outputs)
        if run.durable is not None:
            self.keeping.end(run.record)
        self.shell.handle(ev.RunEnded(run.id))
        self.shell.pass_on(run)

    def give_up(self, record: RunRecord, state: State, fault: Fault) -> None:
        """A run that an earlier server has left has ended without having gone on."""
        self._conclude(record, state, replace(fault, program=record.program))
        self.keeping.end(record)

    def _conclude(
        self, record: RunRecord, state: State, fault: Fault | None, outputs: Sequence[value_pb2.Datum] = ()
    ) -> None:
        record.end(state, fault, outputs, now())
        self.counts.over(record)
        if fault:
            _log.info("run %s %s: %s", record.id, state, fault.message)
        self.records.ended(record)
        asyncio.get_running_loop().call_soon(self._remember, record)  # once the client has been told

    def _remember(self, record: RunRecord) -> None:
        """Learn from a run what primitives take, tell the watchers, and forget runs of long ago."""
        observed = self.compiler.observed
        for times in record.times.values():
            if times.reused:
                continue
            node = times.node
            if isinstance(node.op, Decode):
                observed.add(length_key(node), times.timing.generated_tokens)
            elif node.op.kind in ("embed", "index", "rerank", "tool") or isinstance(node.op, Rate):
                observed.add(duration_key(node), times.seconds * 1e3)
        for watcher in self.watchers:
            watcher(record)
        for old in self.records.forget_old(now()):
            self.keeping.forget(old.id)


def _cancelled(record: RunRecord, reason: str) -> Fault:
    return Fault("cancelled", f"the run was cancelled: {reason}", program=record.program)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
