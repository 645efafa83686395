"""What the scheduler wants of workers, as commands to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from weft.graph.codec import node_bytes
from weft.graph.errors import GraphError
from weft.graph.ir import Value
from weft.proto import worker_pb2
from weft.runtime.scheduler.actions import Dispatch, Keep
from weft.runtime.scheduler.faults import Fault

from .fleet import Fleet
from .run import Run
from .timer import now
from .workers import WorkerLink

__all__ = ["Refused", "Sender"]

_RELEASE_S: Final = 0.02  # workers may hold what nobody takes any more for as long

Refused = Callable[[Run, int, int, Fault], None]
"""Takes the run, node and attempt of a task that cannot be sent, and why."""

_Task = tuple[int, int]  # node, attempt
_Part = tuple[Run, list[tuple[_Task, ...]]]  # fragments of a run
_Takers = dict[Value, _Task]  # operands, and the first task that takes each


class _UnwritableError(Exception):
    """A task or an operand of it cannot be written."""

    def __init__(self, task: _Task, problem: str) -> None:
        super().__init__(problem)
        self.task = task


class Sender:
    """Sends commands. What is dispatched to a worker leaves as one batch at the next `flush`.

    A command for a worker that is gone is dropped: the event that it was lost is on its way. Tasks whose
    operands cannot be written, or do not fit into a message of `max_bytes`, which would break the connection,
    are `refused`. `head_start` says how many seconds a node of a run counts as having waited.
    """

    def __init__(
        self, fleet: Fleet, refused: Refused, head_start: Callable[[str, int], float], *, max_bytes: int
    ) -> None:
        self._fleet = fleet
        self._head_start = head_start
        self._refused = refused
        self._max_bytes = max_bytes
        self._parts: dict[str, dict[str, _Part]] = {}  # by worker and run
        self._pins: dict[str, list[Keep]] = {}  # by worker
        self._sources: dict[tuple[str, int], worker_pb2.KvSource] = {}  # by run and node

    def dispatch(self, action: Dispatch, runs: Mapping[str, Run]) -> None:
        """Hand out the tasks of fragments; those of runs that are over are left out."""
        if self._fleet.get(action.worker) is None:
            return
        at = now()
        parts = self._parts.setdefault(action.worker, {})
        for run_id, tasks in action.fragments:
            run = runs.get(run_id)
            if run is not None:
                for number, attempt in tasks:
                    run.begin(number, attempt, action.worker, at)
                parts.setdefault(run_id, (run, []))[1].append(tasks)
        if action.keep:
            self._pins.setdefault(action.worker, []).extend(action.keep)
        for source in action.sources:
            link = self._fleet.get(source.worker)
            if link is not None:
                address = link.info.address
                advice = worker_pb2.KvSource(address=address, wait_s=source.wait_s)
                self._sources[source.run, source.node] = advice

    def flush(self) -> None:
        """Send what has been dispatched so far."""
        while self._parts:
            worker, parts = self._parts.popitem()
            link = self._fleet.get(worker)
            if link is not None and parts:
                self._send_batch(link, list(parts.values()))
        self._sources.clear()
        self._pins.clear()

    def cancel(self, worker: str, run: str, nodes: Sequence[int]) -> None:
        """Have tasks of a run stopped, all if none are named."""
        self.flush()
        link = self._fleet.get(worker)
        if link is not None:
            link.send(worker_pb2.Command(cancel=worker_pb2.Cancel(run=run, nodes=nodes)))

    def release(self, worker: str, run: str, values: Sequence[Value], dead: Sequence[Value] = ()) -> None:
        """Have values of a run forgotten, all if none are named; the KV of the `dead` is of no use."""
        self.flush()
        link = self._fleet.get(worker)
        if link is None:
            return
        if values:
            link.holds.get(run, set()).difference_update(values)
        else:
            link.holds.pop(run, None)
        release = worker_pb2.Release(run=run, keys=map(str, values), dead=map(str, dead))
        link.send(worker_pb2.Command(release=release), _RELEASE_S)

    def _send_batch(self, link: WorkerLink, parts: Sequence[_Part]) -> None:
        """Send fragments in one message, those of each run as one; in several if that is too large."""
        sent: list[tuple[_Part, _Takers]] = []
        command = worker_pb2.Command()
        messages = command.batch.fragments
        for part in parts:
            run, fragments = part
            lacking = _lacking(run, link, fragments)
            try:
                self._write(messages.add(), run, fragments, lacking)
            except _UnwritableError as problem:
                del messages[-1]
                self._refused(run, *problem.task, Fault("invalid", str(problem), worker=link.id))
            else:
                sent.append((part, lacking))
        command.batch.pins.extend(map(_pin, self._pins.pop(link.id, ())))
        size = command.ByteSize()
        if size <= self._max_bytes:
            for (run, _), values in sent:
                link.holds.setdefault(run.id, set()).update(values)
            link.send(command)
        elif len(sent) > 1:
            for part, _ in sent:
                self._send_batch(link, [part])
        elif sent:
            (run, fragments), operands = sent[0]
            if len(fragments) > 1:
                for fragment in fragments:
                    self._send_batch(link, [(run, [fragment])])
            else:
                self._refuse_large(link, run, messages[0], operands, size)

    def _refuse_large(
        self, link: WorkerLink, run: Run, fragment: worker_pb2.Fragment, operands: _Takers, size: int
    ) -> None:
        """Refuse the task of a fragment that takes the largest operand."""
        message = (
            f"its operands take {size} bytes, more than the {self._max_bytes} of one message; "
            "pass less, or raise max_message_mb in the settings"
        )
        largest = max(operands, key=lambda value: fragment.values[str(value)].ByteSize(), default=None)
        first = fragment.tasks[0]
        task = (first.id, first.attempt) if largest is None else operands[largest]
        self._refused(run, *task, Fault("too_large", message, worker=link.id))

    def _write(
        self,
        message: worker_pb2.Fragment,
        run: Run,
        fragments: Sequence[tuple[_Task, ...]],
        operands: _Takers,
    ) -> None:
        """Make an empty message say fragments of a run, with operands of theirs. Raises _UnwritableError."""
        tasks = [task for fragment in fragments for task in fragment]
        nodes = [run.node(number) for number, _ in tasks]
        internal = run.internal(nodes) if len(tasks) > 1 else ()
        message.run, message.namespace, message.priority = run.id, run.namespace, run.priority
        message.head_start_s = self._head_start(run.id, tasks[0][0])
        blamed = tasks[0]
        try:
            for node, task in zip(nodes, tasks, strict=True):
                blamed = number, attempt = task
                message.tasks.add(
                    node=node_bytes(node),
                    id=number,
                    stream=run.streamed(number),
                    attempt=attempt,
                    timeout_s=node.policy.timeout_s or 0.0,
                    internal=number in internal,
                    source=self._sources.get((run.id, number)),
                )
            for value, task in operands.items():
                blamed = task
                run.write(value, message.values[str(value)])
        except GraphError as problem:
            raise _UnwritableError(blamed, str(problem)) from None


def _pin(keep: Keep) -> worker_pb2.KvPin:
    return worker_pb2.KvPin(
        run=keep.run,
        key=str(Value(keep.node)),
        seconds=keep.expires - now(),
        begins_seconds=max(keep.begins - now(), 0.0),
    )


def _lacking(run: Run, link: WorkerLink, fragments: Sequence[tuple[_Task, ...]]) -> _Takers:
    """The known operands of fragments that the worker does not hold."""
    holds = link.holds.get(run.id, ())
    takers: _Takers = {}
    for fragment in fragments:
        for task in fragment:
            for value in run.node(task[0]).args.values():
                if value in run.values and value not in holds:
                    takers.setdefault(value, task)
    return takers
