"""What the scheduler wants of workers, as commands to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

_Tasks = tuple[tuple[int, int], ...]  # (node, attempt)
_Part = tuple[Run, list[_Tasks]]  # fragments of a run


class Sender:
    """Sends commands. What is dispatched to a worker leaves as one batch at the next `flush`.

    A command for a worker that is gone is dropped: the event that it was lost is on its way. Tasks whose
    operands cannot be written, or do not fit into a message of `max_bytes`, which would break the connection,
    are `refused`.
    """

    def __init__(self, fleet: Fleet, refused: Refused, *, max_bytes: int) -> None:
        self._fleet = fleet
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
        sent: list[tuple[_Part, list[Value]]] = []
        command = worker_pb2.Command()
        messages = command.batch.fragments
        for part in parts:
            run, fragments = part
            lacking = _lacking(run, link, fragments)
            try:
                self._write(messages.add(), run, fragments, lacking)
            except GraphError as problem:
                del messages[-1]
                self._refused(run, *fragments[0][0], Fault("invalid", str(problem), worker=link.id))
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
            self._send_part(link, *sent[0][0], size)

    def _send_part(self, link: WorkerLink, run: Run, fragments: Sequence[_Tasks], size: int) -> None:
        """Send each fragment of a run alone, because together they are too large."""
        if len(fragments) > 1:
            for fragment in fragments:
                self._send_batch(link, [(run, [fragment])])
            return
        message = (
            f"its operands take {size} bytes, more than the {self._max_bytes} of one message; "
            "pass less, or raise max_message_mb in the settings"
        )
        self._refused(run, *fragments[0][0], Fault("too_large", message, worker=link.id))

    def _write(
        self, message: worker_pb2.Fragment, run: Run, fragments: Sequence[_Tasks], values: Iterable[Value]
    ) -> None:
        """Make an empty message say fragments of a run, with values that they take."""
        tasks = [task for fragment in fragments for task in fragment]
        nodes = [run.node(number) for number, _ in tasks]
        internal = run.internal(nodes) if len(tasks) > 1 else ()
        message.run, message.namespace, message.priority = run.id, run.namespace, run.priority
        for node, (number, attempt) in zip(nodes, tasks, strict=True):
            message.tasks.add(
                node=node_bytes(node),
                id=number,
                stream=run.streamed(number),
                attempt=attempt,
                timeout_s=node.policy.timeout_s or 0.0,
                internal=number in internal,
                source=self._sources.get((run.id, number)),
            )
        for value in values:
            run.write(value, message.values[str(value)])


def _pin(keep: Keep) -> worker_pb2.KvPin:
    return worker_pb2.KvPin(run=keep.run, key=str(Value(keep.node)), seconds=keep.expires - now())


def _lacking(run: Run, link: WorkerLink, fragments: Sequence[_Tasks]) -> list[Value]:
    """The known operands of fragments that the worker does not hold."""
    holds = link.holds.get(run.id, ())
    nodes = (run.node(number) for fragment in fragments for number, _ in fragment)
    wanted = dict.fromkeys(value for node in nodes for value in node.args.values())
    return [value for value in wanted if value in run.values and value not in holds]
