"""One orchestrator's stream: commands in, reports out, and the tasks between them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from functools import partial

from google.protobuf.message import Message

from weft.graph.codec import encode_datum
from weft.graph.errors import GraphError
from weft.proto import value_pb2, worker_pb2

from .catalog import Catalog
from .engines.base import Emit, Operands, Outcome, Task, Timing
from .faults import TaskError, fault_of
from .fragments import decode_tasks, decode_values
from .runs import Ready, Runs

__all__ = ["Session"]

_log = logging.getLogger(__name__)

_STATUS_S = 1.0  # between two status reports
_GATHER_S = 0.001  # the deltas of one step of an engine come within this


class Session:
    """Runs the tasks that one orchestrator sends, until its stream ends. Belongs to one event loop."""

    def __init__(self, catalog: Catalog, worker: str) -> None:
        """`worker`: the id that faults name."""
        self._catalog = catalog
        self._worker = worker
        self._runs = Runs()
        self._active: dict[Task, asyncio.Task[None]] = {}
        self._outbox: asyncio.Queue[worker_pb2.Report | None] = asyncio.Queue()
        self._deltas: list[worker_pb2.Delta] = []
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._changed.set()

    async def serve(
        self, commands: AsyncIterator[worker_pb2.Command]
    ) -> AsyncGenerator[worker_pb2.Report, None]:
        """Carry out the commands; yields reports until the commands end or `close` is called."""
        reader = self._reader = asyncio.create_task(self._read(commands))
        status = asyncio.create_task(self._report_status())
        try:
            while (report := await self._outbox.get()) is not None:
                yield report
        finally:
            reader.cancel()
            status.cancel()
            self.cancel_all()
            await asyncio.gather(reader, status, *self._active.values(), return_exceptions=True)

    def close(self) -> None:
        """Take no more commands, and end the stream once the reports so far are sent."""
        if self._reader is not None:
            self._reader.cancel()
        self._outbox.put_nowait(None)

    def cancel_all(self) -> None:
        """Stop every task and forget every value."""
        self._stop(self._runs.cancel_all())

    async def _read(self, commands: AsyncIterator[worker_pb2.Command]) -> None:
        try:
            async for command in commands:
                self._obey(command)
        except Exception:
            _log.exception("the stream of an orchestrator broke")
        finally:
            self._outbox.put_nowait(None)

    def _obey(self, command: worker_pb2.Command) -> None:
        match command.WhichOneof("command"):
            case "batch":
                for fragment in command.batch.fragments:
                    self._take_fragment(fragment)
            case "push":
                self._take_push(command.push)
            case "cancel":
                self._stop(self._runs.cancel(command.cancel.run, command.cancel.nodes))
            case "release":
                self._runs.release(command.release.run, command.release.keys)
            case "flush":
                self._catalog.flush()
            case _:
                _log.warning("a command of a kind that this worker does not know was left out")
        self._changed.set()

    def _take_fragment(self, fragment: worker_pb2.Fragment) -> None:
        try:
            tasks = decode_tasks(fragment)
            values = decode_values(fragment.values)
        except GraphError as problem:
            fault = value_pb2.Fault(code="invalid", message=str(problem), worker=self._worker)
            for message in fragment.tasks:
                self._report_failure(fragment.run, message.node.id, message.attempt, fault)
            return
        for task in tasks:
            self._stop(self._runs.cancel(fragment.run, [task.node.id]))  # an earlier attempt
        self._start(self._runs.add(tasks, values))

    def _take_push(self, push: worker_pb2.Push) -> None:
        try:
            self._start(self._runs.push(push.run, decode_values(push.values)))
        except GraphError as problem:
            waiting = self._runs.waiting_for(push.run, push.values.keys())
            for task in waiting:
                self._runs.cancel(push.run, [task.node.id])
                self._report_fault(task, problem)

    def _start(self, ready: Iterable[Ready]) -> None:
        for task, operands in ready:
            running = asyncio.create_task(self._work(task, operands), name=f"{task.run} {task.node.where()}")
            self._active[task] = running
            running.add_done_callback(partial(self._ended, task))

    def _stop(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._active[task].cancel()

    def _ended(self, task: Task, _: asyncio.Task[None]) -> None:
        del self._active[task]
        self._runs.leave(task)
        self._changed.set()

    async def _work(self, task: Task, operands: Operands) -> None:
        """Compute a task and report how it ended; one that is cancelled from here reports nothing."""
        try:
            outcome = await self._compute(task, operands)
            report = _done(task, outcome)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # there is one
                raise
            self._report_fault(task, TaskError("cancelled", "the computation cancelled itself"))
        except Exception as error:
            self._report_fault(task, error)
        else:
            self._send(report)
            self._start(self._runs.finish(task, outcome.results))

    async def _compute(self, task: Task, operands: Operands) -> Outcome:
        engine = self._catalog.find(task.node.op)
        limit = asyncio.timeout(task.timeout_s)
        try:
            async with limit:
                return await engine.execute(task, operands, self._emit(task))
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"took longer than its timeout of {task.timeout_s:g} s"
            raise TaskError("timeout", message, retryable=True) from None

    def _report_fault(self, task: Task, error: Exception) -> None:
        fault = fault_of(error, task.node, self._worker)
        self._report_failure(task.run, task.node.id, task.attempt, fault)

    def _report_failure(self, run: str, node: int, attempt: int, fault: value_pb2.Fault) -> None:
        failed = worker_pb2.TaskFailed(run=run, node=node, attempt=attempt, fault=fault)
        self._send(worker_pb2.Report(failed=failed))

    def _emit(self, task: Task) -> Emit:
        def emit(text: str) -> None:
            if not self._deltas:
                asyncio.get_running_loop().call_later(_GATHER_S, self._flush)
            self._deltas.append(
                worker_pb2.Delta(run=task.run, node=task.node.id, text=text, attempt=task.attempt)
            )

        return emit

    def _flush(self) -> None:
        """Send the deltas that have gathered, before anything that follows them."""
        if self._deltas:
            deltas, self._deltas = self._deltas, []
            self._outbox.put_nowait(worker_pb2.Report(deltas=worker_pb2.Deltas(deltas=deltas)))

    def _send(self, report: worker_pb2.Report) -> None:
        self._flush()
        self._outbox.put_nowait(report)

    async def _report_status(self) -> None:
        """Report the status whenever it has changed, the last change included."""
        last: Message | None = None
        while True:
            await self._changed.wait()
            self._changed.clear()
            status = self._status()
            if status != last:
                self._outbox.put_nowait(worker_pb2.Report(status=status))
                last = status
            await asyncio.sleep(_STATUS_S)

    def _status(self) -> worker_pb2.Status:
        gauges = self._catalog.gauges()
        return worker_pb2.Status(
            kv_free=gauges.kv_free,
            kv_cached=gauges.kv_cached,
            kv_running=gauges.kv_running,
            contexts=self._runs.contexts,
            running=self._runs.running,
            waiting=self._runs.waiting,
            indexes=gauges.indexes,
        )


def _done(task: Task, outcome: Outcome) -> worker_pb2.Report:
    done = worker_pb2.TaskDone(
        run=task.run,
        node=task.node.id,
        attempt=task.attempt,
        results=map(encode_datum, outcome.results),
        timing=_encode_timing(outcome.timing),
    )
    return worker_pb2.Report(done=done)


def _encode_timing(timing: Timing) -> worker_pb2.Timing:
    return worker_pb2.Timing(
        queued=timing.queued,
        prefill=timing.prefill,
        decode=timing.decode,
        compute=timing.compute,
        cached_tokens=timing.cached_tokens,
        computed_tokens=timing.computed_tokens,
        generated_tokens=timing.generated_tokens,
        batch=timing.batch,
        prompt_tokens=timing.prompt_tokens,
        finish=timing.finish,
        reused=timing.reused,
    )
