"""One orchestrator's stream: commands in, reports out, and the tasks between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from weft.graph.codec import write_datum
from weft.graph.errors import GraphError
from weft.proto import value_pb2, worker_pb2
from weft.runtime.kv.advice import Advice, Dead, Pin
from weft.runtime.outbox import Outbox

from .catalog import Catalog
from .engines.base import Emit, Operands, Outcome, Task, Timing, Yielding
from .faults import TaskError, fault_of
from .fragments import decode_tasks, decode_values
from .runs import Ready, Runs

__all__ = ["Session"]

_log = logging.getLogger(__name__)

_STATUS_S: Final = 1.0  # between two status reports
_LOOK_S: Final = 5.0  # between two looks at the status while nothing is asked
_STEP_S: Final = 0.001  # the deltas of one step of an engine come within this
_NEWS_S: Final = 0.02  # what nobody waits for may be reported later by this

_Stream = grpc.aio.ServicerContext[Any, worker_pb2.Reports]


class Session:
    """Runs the tasks that one orchestrator sends, until its stream ends. Belongs to one event loop."""

    def __init__(self, catalog: Catalog, worker: str) -> None:
        """`worker`: the id that faults name."""
        self._catalog = catalog
        self._worker = worker
        self._runs = Runs()
        self._active: dict[Task, asyncio.Task[None]] = {}
        self._stopped: set[Task] = set()
        self._reports = worker_pb2.Reports()  # the next message
        self._outbox: Outbox[float] = Outbox()  # when each of them was made, on the monotonic clock
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._changed.set()

    async def serve(self, stream: _Stream) -> None:
        """Carry out the commands and report, until the commands end or `close` is called."""
        reader = self._reader = asyncio.create_task(self._read(stream))
        status = asyncio.create_task(self._report_status())
        try:
            while made := await self._outbox.take():
                message, self._reports = self._reports, worker_pb2.Reports()
                now = time.monotonic()
                for report, at in zip(message.reports, made, strict=True):
                    report.age_s = now - at
                await stream.write(message)
        finally:
            reader.cancel()
            status.cancel()
            self.cancel_all()
            await asyncio.gather(reader, status, *self._active.values(), return_exceptions=True)

    def close(self) -> None:
        """Take no more commands, and end the stream once the reports so far are sent."""
        if self._reader is not None:
            self._reader.cancel()
        self._outbox.close()

    def cancel_all(self) -> None:
        """Stop every task and forget every value."""
        self._stop(self._runs.cancel_all())

    async def _read(self, stream: _Stream) -> None:
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                for command in message.commands:
                    self._obey(command)
                self._changed.set()
        except Exception:
            _log.exception("the stream of an orchestrator broke")
        finally:
            self._outbox.close()

    def _obey(self, command: worker_pb2.Command) -> None:
        match command.WhichOneof("command"):
            case "batch":
                for pin in command.batch.pins:
                    self._advise(pin.run, pin.key, _pin(pin))
                for fragment in command.batch.fragments:
                    self._take_fragment(fragment)
            case "push":
                self._take_push(command.push)
            case "cancel":
                self._stop(self._runs.cancel(command.cancel.run, command.cancel.nodes))
            case "release":
                for key in command.release.dead:
                    self._advise(command.release.run, key, Dead())
                self._runs.release(command.release.run, command.release.keys)
            case "flush":
                self._catalog.flush()
            case _:
                _log.warning("a command of a kind that this worker does not know was left out")

    def _take_fragment(self, fragment: worker_pb2.Fragment) -> None:
        try:
            tasks = decode_tasks(fragment)
            values = decode_values(fragment.values)
        except GraphError as problem:
            fault = value_pb2.Fault(code="invalid", message=str(problem), worker=self._worker)
            for message in fragment.tasks:
                self._report_failure(fragment.run, message.id, message.attempt, fault)
            return
        if tasks and fragment.run in self._runs:
            self._stop(self._runs.cancel(fragment.run, [task.node.id for task in tasks]))  # earlier attempts
        self._start(fragment.run, self._runs.add(tasks, values))

    def _advise(self, run: str, key: str, advice: Advice) -> None:
        """Pass on what is known of a context; it may be gone by now, and then nothing is lost."""
        held = self._runs.context(run, key)
        if held is not None:
            self._catalog.advise(held, advice)

    def _take_push(self, push: worker_pb2.Push) -> None:
        try:
            self._start(push.run, self._runs.push(push.run, decode_values(push.values)))
        except GraphError as problem:
            waiting = self._runs.waiting_for(push.run, push.values.keys())
            for task in waiting:
                self._runs.cancel(push.run, [task.node.id])
                self._report_fault(task, problem)

    def _start(self, run: str, ready: Iterable[Ready]) -> None:
        """Start tasks of a run, and let what has become possible overtake what is read ahead for it."""
        for task in self._runs.overtaken(run):
            engine = self._catalog.find(task.node.op)
            if isinstance(engine, Yielding):
                engine.overtake(task)
        for task, operands in ready:
            self._active[task] = asyncio.create_task(self._work(task, operands))

    def _stop(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._stopped.add(task)
            running = self._active[task]
            running.add_done_callback(partial(self._ended, task))  # it may never have come to its first line
            running.cancel()

    def _ended(self, task: Task, _: asyncio.Task[None] | None = None) -> None:
        if self._active.pop(task, None) is not None:
            self._stopped.discard(task)
            self._runs.leave(task)
            self._changed.set()

    async def _work(self, task: Task, operands: Operands) -> None:
        """Compute a task and report how it ended; one that is cancelled from here reports nothing."""
        try:
            outcome = await self._compute(task, operands)
            self._report_results(task, outcome)
        except asyncio.CancelledError:
            if task in self._stopped:
                raise
            self._report_fault(task, TaskError("cancelled", "the computation cancelled itself"))
        except Exception as error:
            self._report_fault(task, error)
        else:
            self._start(task.run, self._runs.finish(task, outcome.results))
        finally:
            self._ended(task)

    async def _compute(self, task: Task, operands: Operands) -> Outcome:
        work = self._catalog.find(task.node.op).execute(task, operands, self._emit(task))
        if task.timeout_s is None:
            return await work
        limit = asyncio.timeout(task.timeout_s)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"took longer than its timeout of {task.timeout_s:g} s"
            raise TaskError("timeout", message, retryable=True) from None

    def _report_results(self, task: Task, outcome: Outcome) -> None:
        """Report that a task is done. Raises TaskError for results that have no message."""
        reports = self._reports.reports
        try:
            _write_done(reports.add().done, task, outcome)
        except GraphError as problem:  # for which whoever asked is not to blame
            del reports[-1]
            raise TaskError("internal", f"the result cannot be sent: {problem}") from None
        except Exception:
            del reports[-1]
            raise
        self._made(_NEWS_S if task.internal else 0.0)

    def _report_fault(self, task: Task, error: Exception) -> None:
        fault = fault_of(error, task.node, self._worker)
        self._report_failure(task.run, task.node.id, task.attempt, fault)

    def _report_failure(self, run: str, node: int, attempt: int, fault: value_pb2.Fault) -> None:
        failed = worker_pb2.TaskFailed(run=run, node=node, attempt=attempt, fault=fault)
        self._reports.reports.add(failed=failed)
        self._made()

    def _emit(self, task: Task) -> Emit:
        def emit(text: str) -> None:
            delta = worker_pb2.Delta(run=task.run, node=task.node.id, text=text, attempt=task.attempt)
            self._reports.reports.add(delta=delta)
            self._made(_STEP_S if text else _NEWS_S)

        return emit

    def _made(self, within_s: float = 0.0) -> None:
        """The last report is complete, and leaves within so many seconds."""
        self._outbox.put(time.monotonic(), within_s=within_s)

    async def _report_status(self) -> None:
        """Report the status whenever it has changed, the last change included.

        Tasks change it, and so do other workers, with which this one shares indexes.
        """
        last: Message | None = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_S)
            self._changed.clear()
            status = self._status()
            if status != last:
                self._reports.reports.add(status=status)
                self._made()
                last = status
            await asyncio.sleep(_STATUS_S)

    def _status(self) -> worker_pb2.Status:
        gauges = self._catalog.gauges()
        return worker_pb2.Status(
            kv_free=gauges.kv_free,
            kv_cached=gauges.kv_cached,
            kv_running=gauges.kv_running,
            kv_pins_met=gauges.kv_pins_met,
            kv_pins_broken=gauges.kv_pins_broken,
            contexts=self._runs.contexts,
            running=self._runs.running,
            waiting=self._runs.waiting,
            indexes=gauges.indexes,
        )


def _pin(message: worker_pb2.KvPin) -> Pin:
    now = time.monotonic()
    return Pin(now + message.seconds, now + message.begins_seconds if message.begins_seconds > 0 else 0.0)


def _write_done(message: worker_pb2.TaskDone, task: Task, outcome: Outcome) -> None:
    message.run, message.node, message.attempt = task.run, task.node.id, task.attempt
    for result in outcome.results:
        write_datum(result, message.results.add())
    for name, value in zip(Timing._fields, outcome.timing, strict=True):
        if value:
            setattr(message.timing, name, value)
