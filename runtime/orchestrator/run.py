"""One live run: its graph, the values known so far, and what its client waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from weft.graph.codec import encode_datum, encode_value, write_datum
from weft.graph.errors import GraphError
from weft.graph.ir import Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.ops.common import Input, Interrupt, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.sampling import JsonSchema
from weft.graph.types import Data
from weft.graph.values import Datum, KvValue, TextValue, fits, plain
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2
from weft.runtime.scheduler.faults import Fault, repeatable

from .durable import Durable
from .foresight import Foresight
from .needs import Needs
from .own_work import OwnWork
from .recipe import context_key, recipe
from .record import OBSERVED, Attempt, NodeChange, NodeTimes, Outcome, RunRecord, Unfinished
from .reuse import Reuse
from .shared_results import Results
from .told import Told
from .trace import ORCHESTRATOR

__all__ = ["Run"]


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
    durable: Durable | None = None  # of a run that outlives the server
    outputs: tuple[Value, ...] = ()  # of a run that does not grow, in the client's ids
    values: dict[Value, Datum] = field(init=False)  # that are known
    attempts: dict[int, Attempt] = field(default_factory=dict)  # of nodes that are handed out
    pending: set[int] = field(default_factory=set)  # nodes that are not done
    effects: set[int] = field(default_factory=set)  # those of them whose effects outlive the run
    indexes: set[str] = field(default_factory=set)  # that the run itself fills
    finishing: value_pb2.Datum | None = None  # what a growing program returned
    deadline: asyncio.TimerHandle | None = None
    _added_s: dict[int, float] = field(default_factory=dict)
    _finished_s: dict[int, float] = field(default_factory=dict)
    _takers: dict[int, int] = field(default_factory=dict)  # by node: how many take its results
    _wanted: dict[Value, list[Value]] = field(default_factory=dict)  # live value -> the client's names
    unblocked: dict[int, None] = field(default_factory=dict)  # maps and folds that may begin further bodies
    later: dict[int, None] = field(default_factory=dict)  # those that may once others have had their turn
    advancing: bool = False  # whether they are beginning them
    foresight: Foresight = field(init=False)
    told: Told = field(init=False)
    reuse: Reuse = field(init=False)
    own: OwnWork = field(init=False)
    _needs: Needs = field(init=False)
    _failed: dict[int, Fault] = field(default_factory=dict)  # why nodes will never give results

    def __post_init__(self) -> None:
        self.id = self.record.id
        self.values = self.graph.known
        self.foresight = Foresight(self.graph, self._wanted.keys())
        self.told = Told(self.record, self.graph.nodes, self.values)
        self.own = OwnWork(self.values)
        self._needs = Needs(self.graph.nodes, self.pending, self._wanted.keys())
        self.reuse = Reuse(
            self.shared,
            self.id,
            self.namespace,
            self.batch,
            self.graph,
            self.values,
            self.attempts,
            self.durable,
        )

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all nodes, or of a program that has returned, all effects."""
        if self.grows:
            return self.finishing is not None and self.effects <= self.graph.shelved
        return self.pending <= self.graph.shelved

    @property
    def may_guess(self) -> bool:
        """Whether it may do what turns out to be of no use: nobody is told of it, and no journal either."""
        return self.durable is None and not self.told.follow

    def node(self, number: int) -> Node:
        """A node of the live graph."""
        return self.graph.nodes[number]

    def add(self, growth: Growth, now: float) -> None:
        """Count new nodes; a node with a known id is the successor of a control node."""
        nodes, before, takers = growth.nodes, len(self._added_s), self._takers
        for node in nodes:
            self._added_s[node.id] = now
            self.pending.add(node.id)
            for producer in {value.node for value in node.args.values()}:
                takers[producer] = takers.get(producer, 0) + 1
            if node.op.effectful:
                self.effects.add(node.id)
            else:
                self.effects.discard(node.id)
        self.record.nodes += len(self._added_s) - before
        self._needs.add(growth)
        self.reuse.add(growth)
        self.own.add(nodes)

    def bind(self, nodes: Iterable[Node], inputs: Mapping[str, Datum]) -> dict[Value, Datum]:
        """The values of the input nodes among `nodes`."""
        return {Value(node.id): inputs[node.op.name] for node in nodes if isinstance(node.op, Input)}

    def operands(self, node: Node) -> dict[str, Datum]:
        """The known operands of a node, all of them."""
        return {name: self.values[value] for name, value in node.args.items()}

    def promised(self, node: Node, results: Sequence[Datum]) -> dict[Value, Datum]:
        """The results of a node by their names. Raises GraphError if they are not what it promised."""
        values: dict[Value, Datum] = {}
        for output, datum in enumerate(results):
            value = Value(node.id, output)
            kind = self.graph.types.get(value)
            if kind is None:
                raise GraphError(f"{node.where()} gave {len(results)} results, more than it has")
            if not fits(datum, kind):
                made = type(datum).__name__
                raise GraphError(f"{node.where()} promised {kind} as result {output}, not {made}")
            values[value] = KvValue(context_key(self.id, value)) if isinstance(datum, KvValue) else datum
        return values

    def done(self, node: Node, values: Mapping[Value, Datum], timing: worker_pb2.Timing, at: float) -> None:
        """An attempt of a node gave all its results, at that time. Raises as `learn`."""
        number, record, finished = node.id, self.record, self._finished_s
        ready = self._added_s[number]
        for value in node.args.values():
            ready = max(ready, finished.get(value.node, 0.0))
        times = NodeTimes(
            self.attempts.pop(number),
            ready - record.started_s,
            at - record.started_s,
            timing.SerializeToString(),
            timing.reused,
            self.graph.predicted_ms[number],
        )
        record.times[number] = times
        if node.op.kind in OBSERVED:
            record.log.append(times)
        self.learn(number, values, at)

    def given(self, node: Node, results: Sequence[Datum], at: float, *, reused: bool) -> None:
        """The results of a node that nobody was asked for: computed here, or `reused` from equal work.

        Raises as `promised` and `learn`.
        """
        self.attempts[node.id] = Attempt(self.id, at - self.record.started_s, node, ORCHESTRATOR, 0)
        self.done(node, self.promised(node, results), worker_pb2.Timing(reused=reused), at)

    def learn(self, number: int, values: Mapping[Value, Datum], at: float) -> None:
        """All results of a node are known, since that time; tell the client those that it waits for.

        Raises EvaluationError for what cannot be, and GraphError for what cannot be sent.
        """
        self.pending.discard(number)
        self.effects.discard(number)
        self._finished_s[number] = at
        self.record.nodes_done += 1
        self.unblocked.update(dict.fromkeys(self.graph.learned(values)))
        self.reuse.learned(values)
        self.own.learned(values)
        self.told.learned(values, at)
        for value, datum in values.items():
            if isinstance(datum, TextValue):
                self.graph.streams.ended(number, datum.text)
            for name in self._wanted.pop(value, ()):
                self._send_known(name, value, at)

    def internal(self, nodes: Collection[Node]) -> set[int]:
        """Those among the nodes whose results nobody waits for but others of them."""
        inside = {node.id for node in nodes}
        taken: dict[int, int] = {}
        for node in nodes:
            for producer in {value.node for value in node.args.values()}:
                if producer in inside:
                    taken[producer] = taken.get(producer, 0) + 1
        wanted = {value.node for value in self._wanted}
        return {number for number, times in taken.items() if times == self._takers[number]} - wanted

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

    def withdraw(self, names: Iterable[Value]) -> None:
        """The client waits for these values of its no longer. Raises GraphError for an unknown one."""
        for name in names:
            value = self.graph.resolve(name)
            left = [other for other in self._wanted.pop(value, ()) if other != name]
            if left:
                self._wanted[value] = left
            self._needs.withdraw(value.node)

    def give_up(self, growth: Growth) -> bool:
        """Take note of guesses that were wrong; whether there may be something to call back, or to regret."""
        for number in growth.given_up:
            self._needs.withdraw(number)
        return bool(growth.given_up or self._failed)

    def shelve(self) -> list[int]:
        """The nodes that nobody needs any more."""
        before = self.graph.shelved
        self.graph.shelved = before | self._unneeded()
        return sorted(self.graph.shelved - before)

    def take_up(self) -> list[int]:
        """The nodes that were shelved and that somebody needs by now."""
        before = self.graph.shelved
        self.graph.shelved = before & self._unneeded()
        return sorted((before - self.graph.shelved) & self.pending)

    def fail(self, number: int, fault: Fault, now: float) -> None:
        """A node will never give results."""
        self._failed[number] = fault
        self._needs.fail(number)
        attempt = self.attempts.pop(number, None)
        if attempt is not None:  # it ran out of time, or its worker was lost
            self.ended(attempt, "failed", now, worker=attempt.worker, fault=fault)

    def lacks(self) -> Fault | None:
        """Why the run cannot go on: the fault of something that has failed and that somebody needs."""
        if not self._failed:
            return None
        unneeded = self._unneeded(self.graph.guesses)
        return next((fault for number, fault in self._failed.items() if number not in unneeded), None)

    def _unneeded(self, guesses: Collection[int] = ()) -> set[int]:
        # A tool that waits for operands on its worker has not begun; one that must not run twice may have,
        # with results that have not come here yet.
        tools = [attempt.node for attempt in self.attempts.values() if isinstance(attempt.node.op, Tool)]
        known = self.values.keys()
        begun = {tool.id for tool in tools if not repeatable(tool) or known >= set(tool.args.values())}
        return self._needs.unneeded(begun, guesses)

    def call_back(self, numbers: Iterable[int], now: float) -> None:
        """What is under way of these nodes has been given up; of a map or fold that has begun, its bodies."""
        for number in numbers:
            attempt = self.attempts.get(number)
            if attempt is not None and attempt.node.op.kind != "control":
                del self.attempts[number]
                self.ended(attempt, "cancelled", now, worker=attempt.worker)

    def stream(self, names: Iterable[Value]) -> None:
        """Send the deltas of these texts of the client, if a model writes them."""
        for name in names:
            self.told.stream(self.graph.resolve(name).node, name)

    def streamed(self, number: int) -> worker_pb2.Stream.ValueType:
        """What of a node's text is wanted before its end, or may come to be."""
        if self.told.streams(self.node(number)):
            return worker_pb2.STREAM_TEXT
        return worker_pb2.STREAM_PARTS if self._is_read(number) else worker_pb2.STREAM_NONE

    def _is_read(self, number: int) -> bool:
        """Whether parts of what a node writes are taken before it is complete, or may come to be."""
        if self.graph.streams.follows(number):
            return True
        if not (self.grows and self.graph.takes_parts):
            return False
        op = self.node(number).op
        return isinstance(op, Decode) and isinstance(op.constraint, JsonSchema)

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
        node, at_s = self.graph.nodes[number], now - self.record.started_s
        given_up = self.attempts.get(number)
        begun = self.attempts[number] = Attempt(self.id, at_s, node, track, attempt)
        if self._is_read(number):
            self.graph.streams.begin(number)
        self.told.begin(node, now)
        if node.op.kind in OBSERVED:
            self.record.log.append(begun)
            if given_up is not None:
                self.record.unfinished.append(Unfinished(given_up, at_s, "superseded", None))

    def ended(
        self,
        attempt: Attempt,
        outcome: Outcome,
        now: float,
        *,
        worker: str,
        fault: Fault | None = None,
    ) -> None:
        """Tell the followers that an attempt has ended without results."""
        node = attempt.node
        self.told.ended(node, fault or Fault("cancelled", "nobody needs it any more"), now)
        if node.op.kind in OBSERVED:
            at_s = now - self.record.started_s
            self.record.unfinished.append(Unfinished(attempt, at_s, outcome, fault))
            self.record.log.append(NodeChange(self.id, at_s, node, outcome, worker, None, fault))

    def break_off(self, fault: Fault | None, now: float) -> None:
        """The run is over, and with it what is under way; what is to blame for that has failed."""
        for attempt in self.attempts.values():
            blamed = fault if fault and fault.node == attempt.node.label() else None
            self.ended(attempt, "failed" if blamed else "cancelled", now, worker=attempt.worker, fault=blamed)

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
        return pb.Interrupted(node=node.id, label=node.label(), value=value, type=schema, name=node.name)

    def write(self, value: Value, message: value_pb2.Datum) -> None:
        """Make an empty message say a known value for a worker that does not hold it; a KV value in full."""
        datum = self.values[value]
        if isinstance(datum, KvValue):
            datum = recipe(self.id, value, self.graph.nodes, self.values)
        write_datum(datum, message)
