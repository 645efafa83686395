"""One live run: its graph, the values known so far, and what its client waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from weft.graph.codec import encode_datum, encode_value
from weft.graph.errors import GraphError
from weft.graph.ir import Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Input, Interrupt
from weft.graph.ops.primitive import Decode
from weft.graph.sampling import JsonSchema
from weft.graph.types import Data
from weft.graph.values import Datum, KvValue, TextValue, fits, plain
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2
from weft.runtime.scheduler.faults import Fault

from .faults import encode_fault
from .foresight import Foresight
from .recipe import context_key, recipe
from .record import RunRecord
from .reuse import Reuse
from .shared_results import Results
from .trace import ORCHESTRATOR

__all__ = ["Attempt", "Run", "label"]

_OBSERVED: Final = frozenset({"llm", "embed", "index", "rerank", "tool"})
"""Kinds of nodes whose phases clients hear of; the rest takes microseconds."""


def label(node: Node) -> str:
    """How observers name a node: `%3 decode 'draft'`."""
    return f"%{node.id} {node.op.label()}" + (f" {node.name!r}" if node.name else "")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The current attempt of a node."""

    number: int
    worker: str  # or the name of another track
    since_s: float  # monotonic


@dataclass(eq=False)
class Run:
    """A run while it lives. Values are those of the live graph; clients' names are resolved by it."""

    record: RunRecord
    graph: LiveGraph
    grows: bool
    namespace: str
    priority: int
    shared: Results
    batch: str = ""
    client_tools: Collection[str] = ()
    outputs: tuple[Value, ...] = ()  # of a run that does not grow, in the client's ids
    values: dict[Value, Datum] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)  # of nodes that are handed out
    pending: set[int] = field(default_factory=set)  # nodes that are not done
    effects: set[int] = field(default_factory=set)  # those of them whose effects outlive the run
    indexes: set[str] = field(default_factory=set)  # that the run itself fills
    finishing: value_pb2.Datum | None = None  # what a growing program returned
    deadline: asyncio.TimerHandle | None = None
    _added_s: dict[int, float] = field(default_factory=dict)
    _finished_s: dict[int, float] = field(default_factory=dict)
    _wanted: dict[Value, list[Value]] = field(default_factory=dict)  # live value -> the client's names
    _streams: dict[int, list[Value]] = field(default_factory=dict)  # decode -> the client's names of its text
    unblocked: list[int] = field(default_factory=list)  # maps that may begin further bodies
    foresight: Foresight = field(init=False)
    reuse: Reuse = field(init=False)

    def __post_init__(self) -> None:
        self.foresight = Foresight(self.graph)
        self.reuse = Reuse(
            self.shared, self.id, self.namespace, self.batch, self.graph, self.values, self.attempts
        )

    @property
    def id(self) -> str:
        """The run's name."""
        return self.record.id

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all nodes, or of a program that has returned, all effects."""
        if self.grows:
            return self.finishing is not None and not self.effects
        return not self.pending

    def node(self, number: int) -> Node:
        """A node of the live graph."""
        return self.graph.nodes[number]

    def add(self, nodes: Sequence[Node], now: float) -> None:
        """Count new nodes; a node with a known id is the successor of a control node."""
        for node in nodes:
            self.record.nodes += node.id not in self._added_s
            self._added_s[node.id] = now
            self.pending.add(node.id)
            if node.op.effectful:
                self.effects.add(node.id)
            else:
                self.effects.discard(node.id)
        self.reuse.add(nodes)

    def bind(self, nodes: Iterable[Node], inputs: Mapping[str, Datum]) -> dict[Value, Datum]:
        """The values of the input nodes among `nodes`."""
        return {Value(node.id): inputs[node.op.name] for node in nodes if isinstance(node.op, Input)}

    def operands(self, node: Node) -> dict[str, Datum]:
        """The known operands of a node, all of them."""
        return {name: self.values[value] for name, value in node.args.items()}

    def learn(self, number: int, results: Sequence[Datum], now: float) -> None:
        """Take a node's results and tell the client those that it waits for."""
        for output, datum in enumerate(results):
            value = Value(number, output)
            if isinstance(datum, KvValue):
                datum = KvValue(context_key(self.id, value))
            self.values[value] = datum
        self.pending.discard(number)
        self.effects.discard(number)
        self.attempts.pop(number, None)
        values = {Value(number, output): datum for output, datum in enumerate(results)}
        self.unblocked += self.graph.learned(values)
        self.reuse.learned(values)
        self._finished_s[number] = now
        self.record.nodes_done += 1
        for written in results:
            if isinstance(written, TextValue):
                self.graph.streams.ended(number, written.text)
        for output in range(len(results)):
            for name in self._wanted.pop(Value(number, output), ()):
                self._send_known(name, Value(number, output), now)

    def check(self, number: int, results: Sequence[Datum]) -> None:
        """Refuse results that are not what the node promised. Raises GraphError."""
        where = self.node(number).where()
        for output, datum in enumerate(results):
            try:
                kind = self.graph.type_of(Value(number, output))
            except KeyError:
                raise GraphError(f"{where} gave {len(results)} results, more than it has") from None
            if not fits(datum, kind):
                raise GraphError(f"{where} promised {kind} as result {output}, not {type(datum).__name__}")

    def is_current(self, number: int, attempt: int) -> bool:
        """Whether this attempt of a node is under way."""
        current = self.attempts.get(number)
        return current is not None and current.number == attempt

    # ---- what the client wants

    def want(self, names: Iterable[Value], now: float) -> None:
        """Send these values of the client as soon as they are known. Raises GraphError for an unknown one."""
        for name in names:
            value = self.graph.resolve(name)
            if value in self.values:
                self._send_known(name, value, now)
            else:
                self._wanted.setdefault(value, []).append(name)

    def stream(self, names: Iterable[Value]) -> None:
        """Send the deltas of these texts of the client, if a model writes them."""
        for name in names:
            value = self.graph.resolve(name)
            self._streams.setdefault(value.node, []).append(name)

    def is_streamed(self, number: int) -> bool:
        """Whether anybody wants the deltas of a node, or may come to want them."""
        return number in self._streams or self._is_read(number)

    def _is_read(self, number: int) -> bool:
        """Whether parts of what a node writes are taken before it is complete, or may come to be."""
        if self.graph.streams.follows(number):
            return True
        op = self.node(number).op
        return self.grows and isinstance(op, Decode) and isinstance(op.constraint, JsonSchema)

    def send_delta(self, number: int, text: str, now: float) -> None:
        """Tell the client what a model has just written."""
        for name in self._streams.get(number, ()) if number in self.attempts else ():
            delta = pb.TextDelta(value=encode_value(name), text=text)
            self.record.emit(pb.RunEvent(delta=delta), now)

    def _send_known(self, name: Value, value: Value, now: float) -> None:
        known = pb.Known(value=encode_value(name), datum=encode_datum(self.values[value]))
        self.record.emit(pb.RunEvent(known=known), now)

    def results(self) -> tuple[value_pb2.Datum, ...]:
        """What the run returns, once it is complete."""
        if self.finishing is not None:
            return (self.finishing,)
        return tuple(encode_datum(self.values[self.graph.resolve(name)]) for name in self.outputs)

    # ---- what observers see

    def begin(self, number: int, attempt: int, track: str, now: float) -> None:
        """An attempt of a node is handed out."""
        self.attempts[number] = Attempt(attempt, track, now)
        if self._is_read(number):
            self.graph.streams.begin(number)
        self.observe(number, "started", now, worker=track)

    def observe(
        self,
        number: int,
        phase: str,
        now: float,
        *,
        worker: str = "",
        timing: worker_pb2.Timing | None = None,
        fault: Fault | None = None,
    ) -> None:
        """Tell the followers what happens to a primitive."""
        node = self.node(number)
        if node.op.kind not in _OBSERVED:
            return
        event = pb.NodeEvent(
            node=number,
            label=label(node),
            phase=phase,
            worker=worker,
            timing=timing,
            fault=encode_fault(fault) if fault else None,
        )
        self.record.emit(pb.RunEvent(node=event), now)

    def note_reused(self, number: int, now: float) -> None:
        """Record that a node need not run: equal work has given its results."""
        self.attempts[number] = Attempt(0, ORCHESTRATOR, now)
        self.note(number, worker_pb2.Timing(reused=True), now)

    def note(self, number: int, timing: worker_pb2.Timing, now: float) -> None:
        """Record when a node, which is about to be done, was ready, handed out and finished."""
        node, attempt = self.node(number), self.attempts[number]
        known = [self._finished_s.get(value.node, 0.0) for value in node.args.values()]
        begin = self.record.started_s
        self.record.stats[number] = pb.NodeStat(
            node=number,
            label=label(node),
            worker=attempt.worker,
            ready_s=max([self._added_s[number], *known]) - begin,
            dispatched_s=attempt.since_s - begin,
            finished_s=now - begin,
            timing=timing,
            location=node.location,
            operands=[encode_value(value) for value in node.args.values()],
            predicted_ms=self.graph.estimator.duration_ms(node),
            kind=node.op.kind,
        )
        self.observe(number, "done", now, worker=attempt.worker, timing=timing)

    # ---- values on their way to workers

    def questions(self) -> list[pb.Interrupted]:
        """What people have been asked and have not answered yet."""
        return [self.question(self.node(number)) for number in self.attempts if self.is_question(number)]

    def is_question(self, number: int) -> bool:
        """Whether a node asks a person."""
        return isinstance(self.node(number).op, Interrupt)

    def question(self, node: Node) -> pb.Interrupted:
        """What a person is asked."""
        assert isinstance(node.op, Interrupt)
        value = json.dumps(plain(self.operands(node)["value"]), ensure_ascii=False)
        schema = node.op.type.schema if isinstance(node.op.type, Data) else '{"type":"string"}'
        return pb.Interrupted(node=node.id, label=label(node), value=value, type=schema)

    def message_of(self, value: Value) -> value_pb2.Datum:
        """A known value for a worker that does not hold it; a KV value in full."""
        datum = self.values[value]
        if isinstance(datum, KvValue):
            datum = recipe(self.id, value, self.graph.nodes, self.values)
        return encode_datum(datum)
