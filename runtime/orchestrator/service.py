"""The gRPC service `weft.v1.Orchestrator`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from importlib.metadata import version
from itertools import islice
from typing import Any, NoReturn

import grpc

from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, worker_pb2
from weft.runtime.access import carries_key
from weft.runtime.results import CacheStats

from .caller import CALLER, caller_of
from .door import DoorError, invalid, not_begun, unwritten
from .explain import explained
from .faults import fault_of
from .journal_store import JournalError
from .orchestrator import Orchestrator
from .run import Run as LiveRun
from .trace import chrome_trace
from .workers import WorkerLink

__all__ = ["Service"]

_LISTED = 50  # runs, unless the caller says otherwise
_ONE_SIDED = (
    "this server has no key, without which the worker takes no calls; start the worker without WEFT_API_KEY, "
    "or the server with it"
)

Context = grpc.aio.ServicerContext[Any, Any]


class Service(orchestrator_pb2_grpc.OrchestratorServicer):
    """Translates between gRPC and the orchestrator; see the .proto file for what each method does."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._started_s = time.monotonic()

    async def Invoke(self, request: pb.SubmitRequest, context: Context) -> pb.RunResult:
        """Run a graph to its end; it is cancelled if the caller goes away."""
        _note_caller(context)
        try:
            run = self._orchestrator.start(request)
        except DoorError as problem:
            await _refuse(context, problem)
        try:
            await run.record.ended.wait()
        finally:
            self._orchestrator.stop(run, "its client went away")
        return run.record.result(quiet=request.quiet)

    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.RunInfo:
        """Start a graph that goes on without the caller, and over restarts of the server."""
        _note_caller(context)
        try:
            run = self._orchestrator.start(request, lasting=True)
            await self._accepted(run)
        except DoorError as problem:
            await _refuse(context, problem)
        return run.record.info(time.monotonic())

    async def _accepted(self, run: LiveRun) -> None:
        """Wait until a run is in the journal. Raises DoorError, and the run has ended then."""
        try:
            await self._orchestrator.keeping.written(run.id)
        except JournalError as problem:
            self._orchestrator.stop(run, str(problem))
            raise not_begun(problem) from None
        except asyncio.CancelledError:
            self._orchestrator.stop(run, "its client went away before the run was accepted")
            raise

    async def Run(
        self, request_iterator: AsyncIterator[pb.RunRequests], context: Context
    ) -> AsyncIterator[pb.RunEvents]:
        """One run over one stream."""
        _note_caller(context)
        first = await context.read()
        requests = list(first.requests) if isinstance(first, pb.RunRequests) else []
        try:
            run, quiet = self._start(requests)
        except DoorError as problem:
            await _refuse(context, problem)
        reader = asyncio.create_task(self._read(run, requests[1:], context), name=f"requests of {run.id}")
        try:
            async for events in run.record.log.follow(quiet=quiet):
                yield events
        finally:
            reader.cancel()
            self._orchestrator.stop(run, "its client went away")
            await asyncio.gather(reader, return_exceptions=True)

    def _start(self, requests: Sequence[pb.RunRequest]) -> tuple[LiveRun, bool]:
        if not requests or requests[0].WhichOneof("request") != "start":
            raise invalid("the first request of a Run stream must be `start`")
        start = requests[0].start
        run = self._orchestrator.start(
            start.submit,
            grows=start.grows,
            stream=start.stream,
            follow=start.follow,
            tools=frozenset(start.tools),
        )
        return run, start.submit.quiet

    async def _read(self, run: LiveRun, requests: Iterable[pb.RunRequest], context: Context) -> None:
        self._take_all(run, requests)
        while isinstance(message := await context.read(), pb.RunRequests):
            self._take_all(run, message.requests)
        if run.grows and run.finishing is None:
            self._orchestrator.stop(run, "its client ended the stream before the program had finished")

    def _take_all(self, run: LiveRun, requests: Iterable[pb.RunRequest]) -> None:
        for request in requests:
            try:
                self._take(run, request)
            except DoorError as problem:
                self._orchestrator.run_failed(run, problem.fault)
            except Exception as problem:
                self._orchestrator.run_failed(run, fault_of(problem, f"a request of run {run.id}"))

    def _take(self, run: LiveRun, request: pb.RunRequest) -> None:
        if run.record.state != "running":
            return
        match request.WhichOneof("request"):
            case "extend":
                self._orchestrator.extend(run, request.extend)
            case "tool":
                self._orchestrator.answer(run, request.tool)
            case "finish":
                self._orchestrator.finish(run, request.finish)
            case "cancel":
                self._orchestrator.stop(run, "its client asked for it")
            case other:
                raise invalid(
                    f"after its start a Run stream takes extend, tool, finish and cancel, not {other}"
                )

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.RunEvents]:
        """The events of a run from its beginning."""
        try:
            record = self._orchestrator.records.find(request.run)
        except DoorError as problem:
            await _refuse(context, problem)
        async for events in record.log.follow():
            yield events

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.RunInfo:
        """Answer what a run has asked a person."""
        node = request.node if request.HasField("node") else None
        try:
            info = self._orchestrator.info(self._orchestrator.resume(request.run, node, request.value))
            await self._orchestrator.keeping.written(request.run)
        except DoorError as problem:
            await _refuse(context, problem)
        except JournalError as problem:
            taken = "the run goes on with the answer, but would ask again if the server were started again"
            await _refuse(context, unwritten(f"{taken}: {problem}"))
        return info

    async def Cancel(self, request: pb.CancelRunRequest, context: Context) -> pb.RunInfo:
        """Cancel a run; one that is over stays as it is."""
        try:
            record = self._orchestrator.cancel(request.run, "somebody asked for it")
        except DoorError as problem:
            await _refuse(context, problem)
        return record.info(time.monotonic(), stats=True)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """The latest runs, latest first."""
        records = reversed(self._orchestrator.records.values())
        infos = (self._orchestrator.info(record) for record in records)
        wanted = (info for info in infos if request.state in ("", info.state))
        return pb.ListRunsResponse(runs=islice(wanted, request.limit or _LISTED))

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceResponse:
        """A run's trace, so far as it has come."""
        try:
            record = self._orchestrator.records.find(request.run)
        except DoorError as problem:
            await _refuse(context, problem)
        return pb.TraceResponse(json=chrome_trace(record))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """The graph as written and after each pass."""
        try:
            return explained(self._orchestrator.compiler.program(request, None).plan.live)
        except DoorError as problem:
            await _refuse(context, problem)

    async def Describe(self, request: pb.DescribeServerRequest, context: Context) -> pb.ServerInfo:
        """The workers, their models, indexes and tools."""
        fleet = self._orchestrator.fleet
        return pb.ServerInfo(
            version=version("weft"),
            workers=[link.describe() for link in fleet],
            default_model=fleet.deployment.default_model,
            uptime_s=time.monotonic() - self._started_s,
            status={link.id: link.status for link in fleet if link.status},
            programs=sorted(self._orchestrator.settings.programs),
            results=_encode_stats(self._orchestrator.results.stats),
        )

    async def Join(self, request: worker_pb2.WorkerInfo, context: Context) -> AsyncIterator[pb.JoinEvent]:
        """A worker is a member for as long as this stream and the Execute stream are open."""
        shell, fleet = self._orchestrator.shell, self._orchestrator.fleet
        key = self._orchestrator.settings.key
        link = WorkerLink(request, key, shell.report, shell.worker_lost)
        try:
            fleet.check(request)
            if key is None and carries_key(context.invocation_metadata()):
                raise ValueError(_ONE_SIDED)
            await link.open()
        except (ValueError, ConnectionError) as problem:
            await link.close()
            yield pb.JoinEvent(accepted=False, message=str(problem))
            return
        predecessor = fleet.get(link.id)
        if predecessor:
            shell.worker_lost(predecessor, "a worker of the same id has joined")
            predecessor.lost.set()
        shell.worker_joined(link)
        self._orchestrator.resumption.workers_changed()
        try:
            yield pb.JoinEvent(accepted=True, message=f"worker {link.id!r} has joined")
            await link.lost.wait()
        finally:
            shell.worker_lost(link, "it left or its process ended")
            await link.close()


def _note_caller(context: Context) -> None:
    CALLER.set(caller_of(context.invocation_metadata() or ()))


def _encode_stats(stats: CacheStats) -> pb.ResultCache:
    return pb.ResultCache(
        hits=stats.hits,
        misses=stats.misses,
        evictions=stats.evictions,
        entries=stats.entries,
        bytes=stats.size,
    )


async def _refuse(context: Context, problem: DoorError) -> NoReturn:
    await context.abort(problem.status, str(problem))
    raise AssertionError("abort raises")
