"""What the scheduler wants of workers, as commands to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from weft.graph.codec import node_bytes
from weft.graph.ir import Value
from weft.proto import worker_pb2
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


class Sender:
    """Sends commands. Fragments of one run for one worker leave together at the next `flush`.

    A command for a worker that is gone is dropped: the event that it was lost is on its way. Messages of more
    than `max_bytes`, which would break the connection, are `refused`.
    """

    def __init__(self, fleet: Fleet, refused: Refused, *, max_bytes: int) -> None:
        self._fleet = fleet
        self._refused = refused
        self._max_bytes = max_bytes
        self._fragments: dict[tuple[str, str], tuple[Run, list[_Tasks]]] = {}  # by worker and run

    def dispatch(self, run: Run, worker: str, tasks: _Tasks) -> None:
        """Hand out the tasks of a fragment."""
        if self._fleet.get(worker) is None:
            return
        at = now()
        for number, attempt in tasks:
            run.begin(number, attempt, worker, at)
        self._fragments.setdefault((worker, run.id), (run, []))[1].append(tasks)

    def flush(self) -> None:
        """Send the fragments so far."""
        while self._fragments:
            (worker, _), (run, fragments) = self._fragments.popitem()
            link = self._fleet.get(worker)
            if link is not None:
                self._send_fragments(run, link, fragments)

    def push(self, run: Run, worker: str, values: Sequence[Value]) -> None:
        """Send values that tasks on the worker wait for."""
        self.flush()
        link = self._fleet.get(worker)
        if link is None:
            return
        lacking = _lacking(run, link, values)
        push = worker_pb2.Push(run=run.id, values={str(value): run.message_of(value) for value in lacking})
        if self._send_checked(run, link, worker_pb2.Command(push=push), lacking):
            return
        waiting = next(n for n in run.attempts if any(v in values for v in run.node(n).args.values()))
        self._refuse(run, link, waiting, run.attempts[waiting].number, push.ByteSize())

    def cancel(self, worker: str, run: str, nodes: Sequence[int]) -> None:
        """Have tasks of a run stopped, all if none are named."""
        self.flush()
        link = self._fleet.get(worker)
        if link is not None:
            link.send(worker_pb2.Command(cancel=worker_pb2.Cancel(run=run, nodes=nodes)))

    def release(self, worker: str, run: str, values: Sequence[Value]) -> None:
        """Have values of a run forgotten, all if none are named."""
        self.flush()
        link = self._fleet.get(worker)
        if link is None:
            return
        if values:
            link.holds.get(run, set()).difference_update(values)
        else:
            link.holds.pop(run, None)
        release = worker_pb2.Release(run=run, keys=map(str, values))
        link.send(worker_pb2.Command(release=release), _RELEASE_S)

    def _send_fragments(self, run: Run, link: WorkerLink, fragments: Sequence[_Tasks]) -> None:
        """Send fragments as one; each alone if that is too large."""
        tasks = [task for fragment in fragments for task in fragment]
        nodes = [run.node(number) for number, _ in tasks]
        wanted = {v: None for node in nodes for v in node.args.values() if v in run.values}
        lacking = _lacking(run, link, wanted)
        internal = run.internal(nodes) if len(tasks) > 1 else ()
        message = worker_pb2.Fragment(
            run=run.id,
            tasks=[
                worker_pb2.Task(
                    node=node_bytes(node),
                    id=number,
                    stream=run.is_streamed(number),
                    attempt=attempt,
                    timeout_s=node.policy.timeout_s or 0.0,
                    internal=number in internal,
                )
                for node, (number, attempt) in zip(nodes, tasks, strict=True)
            ],
            values={str(value): run.message_of(value) for value in lacking},
            namespace=run.namespace,
            priority=run.priority,
        )
        if self._send_checked(run, link, worker_pb2.Command(fragment=message), lacking):
            return
        if len(fragments) == 1:
            self._refuse(run, link, *tasks[0], message.ByteSize())
            return
        for fragment in fragments:
            self._send_fragments(run, link, [fragment])

    def _send_checked(
        self, run: Run, link: WorkerLink, command: worker_pb2.Command, values: Sequence[Value]
    ) -> bool:
        """Send a command unless it is too large; the worker holds the `values` from now on."""
        if command.ByteSize() > self._max_bytes:
            return False
        link.holds.setdefault(run.id, set()).update(values)
        link.send(command)
        return True

    def _refuse(self, run: Run, link: WorkerLink, number: int, attempt: int, size: int) -> None:
        message = (
            f"its operands take {size} bytes, more than the {self._max_bytes} of one message; "
            "pass less, or raise max_message_mb in the settings"
        )
        self._refused(run, number, attempt, Fault("too_large", message, worker=link.id))


def _lacking(run: Run, link: WorkerLink, values: Iterable[Value]) -> list[Value]:
    """Those values that the worker does not hold."""
    holds = link.holds.get(run.id, ())
    return [value for value in values if value not in holds]
