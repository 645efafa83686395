"""Real runs as programs for the simulator: what if they came faster, with other policies, or to more workers?

A recording is what the orchestrator says of runs that are over, one a line: `RunInfo` with the times, tokens
and operands of every primitive. Texts are not in it: what was found in a cache of the beginning of a prompt
counts as shared by all calls of that line of the program, and everything else as new.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from weft.graph.analyses.depth import remaining_ms
from weft.graph.analyses.forecast import Forecast
from weft.graph.analyses.objectives import objectives
from weft.graph.costs import ModelCosts
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Format, Search, Tool
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import Rerank
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.scheduler.prefixes import Block, FixedContent
from weft.runtime.scheduler.primitive import Primitive, describe

from .builder import Text
from .programs import Arrival, Increment, Program, Truth

__all__ = ["RecordingError", "arrivals_of", "read_recording", "write_recording"]

_GAP_S: Final = 0.002  # before a primitive, beyond which its client is taken to have kept it
_ENGINES: Final[Mapping[str, Op]] = {"embed": Embed(), "index": Search("i"), "rerank": Rerank()}


class RecordingError(ValueError):
    """A line that is no run; the message names it."""


def write_recording(runs: Iterable[pb.RunInfo]) -> Iterator[str]:
    """A line for each run."""
    for run in runs:
        yield MessageToJson(run, preserving_proto_field_name=True, indent=None)


def read_recording(lines: Iterable[str]) -> list[pb.RunInfo]:
    """The runs. Raises RecordingError."""
    runs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                runs.append(Parse(line, pb.RunInfo()))
            except ParseError as error:
                raise RecordingError(f"line {number} is no recorded run: {error}") from None
    return runs


def arrivals_of(runs: Sequence[pb.RunInfo], costs: ModelCosts) -> list[Arrival]:
    """The runs that ended well as programs, each at its time after the first."""
    good = sorted((run for run in runs if run.state == "done"), key=lambda run: run.started_unix_s)
    lines = _Lines.of(good)
    return [
        Arrival(run.started_unix_s - good[0].started_unix_s, _Recorded(run, lines, costs).program())
        for run in good
    ]


class _Lines(NamedTuple):
    """What the calls of each line of each program have in common."""

    shared: Mapping[tuple[str, str], float]  # tokens with which their prompts begin
    written: Mapping[tuple[str, str], float]  # tokens that they write in the mean

    @classmethod
    def of(cls, runs: Iterable[pb.RunInfo]) -> _Lines:
        shared: dict[tuple[str, str], float] = defaultdict(float)
        written: dict[tuple[str, str], list[int]] = defaultdict(list)
        for run in runs:
            for stat in run.stats:
                key = _key(run, stat)
                if stat.timing.generated_tokens:
                    written[key].append(stat.timing.generated_tokens)
                shared[key] = max(shared[key], stat.timing.cached_tokens)
        return cls(shared, {key: statistics.fmean(counts) for key, counts in written.items()})


def _key(run: pb.RunInfo, stat: pb.NodeStat) -> tuple[str, str]:
    return run.program, stat.location or stat.label


@dataclass
class _Draft:
    node: Node
    truth: Truth
    ms: float
    reads: float = 0.0
    writes: float = 0.0
    adds: tuple[FixedContent | Value, ...] = ()
    tokens: float = 0.0  # of the context that it makes


class _Recorded:
    """One run on its way to a program."""

    def __init__(self, run: pb.RunInfo, lines: _Lines, costs: ModelCosts) -> None:
        self._run, self._lines, self._costs = run, lines, costs
        self._stats = {stat.node: stat for stat in run.stats}
        self._drafts: dict[int, _Draft] = {}
        self._users: dict[int, list[pb.NodeStat]] = defaultdict(list)  # of each context
        for stat in run.stats:
            context = self._context(stat)
            if context is not None:
                self._users[context].append(stat)

    def program(self) -> Program:
        """All of the run at once: what its client added later waits for the client."""
        self._next = max(self._stats, default=0) + 1
        for stat in sorted(self._stats.values(), key=lambda stat: (stat.finished_s, stat.node)):
            self._draft(stat)
        drafts = self._drafts
        graph = Graph.inferred(tuple(draft.node for draft in drafts.values()), (), "", {}, {})
        remaining = remaining_ms(graph, lambda node: drafts[node.id].ms)
        taken = {value.node for node in graph for value in node.args.values()}
        aims = objectives(graph, {Value(node.id): "latency" for node in graph if node.id not in taken})
        primitives = []
        for primitive in describe(draft.node for draft in drafts.values()):
            draft = drafts[primitive.node.id]
            number = primitive.node.id
            forecast = Forecast(draft.ms, remaining[number], draft.reads, draft.writes, aims[number])
            primitives.append(_with(primitive, draft, forecast))
        truths = {number: draft.truth for number, draft in drafts.items()}
        return Program(self._run.program, {None: Increment(tuple(primitives), truths)})

    # ---- nodes

    def _draft(self, stat: pb.NodeStat) -> None:
        if stat.node in self._drafts:
            return
        producers = [
            self._stats[v.node] for v in stat.operands if v.node in self._stats and v.node != stat.node
        ]
        for producer in producers:
            self._draft(producer)
        args = {f"x{n}": Value(producer.node) for n, producer in enumerate(producers)}
        ready = max((producer.finished_s for producer in producers), default=0.0)
        if stat.ready_s - ready > _GAP_S:
            args["after"] = self._gap(stat.ready_s, ready)
        context = self._context(stat)
        if context is not None:
            args = {name: value for name, value in args.items() if value.node != context}
            args["kv"] = Value(context)
        if stat.kind == "llm":
            self._drafts[stat.node] = self._llm(stat, args, context)
            return
        ms = (stat.finished_s - max(stat.ready_s, stat.dispatched_s)) * 1e3
        if stat.kind == "tool":
            op: Op = Tool("recorded", where="client", idempotent=True)
        else:
            op = _ENGINES.get(stat.kind, Format(()))
        self._drafts[stat.node] = _Draft(self._node(stat, op, args), Truth(ms=ms), ms)

    def _gap(self, until: float, ready: float) -> Value:
        """The client's own time, after the last thing that it had heard of."""
        before = [
            stat for stat in self._stats.values() if stat.node in self._drafts and stat.finished_s <= until
        ]
        last = max(before, key=lambda stat: stat.finished_s, default=None)
        since = last.finished_s if last is not None else 0.0
        number, self._next = self._next, self._next + 1
        args = {"x": Value(last.node)} if last is not None else {}
        ms = (until - since) * 1e3
        node = Node(number, Tool("client", where="client"), args, "", "client")
        self._drafts[number] = _Draft(node, Truth(ms=ms), ms)
        return Value(number)

    def _llm(self, stat: pb.NodeStat, args: Mapping[str, Value], context: int | None) -> _Draft:
        timing, before = stat.timing, 0.0 if context is None else self._drafts[context].tokens
        if "decode" in stat.label:
            writes = self._lines.written.get(_key(self._run, stat), float(timing.generated_tokens))
            gives = Text(f"{self._run.run}/{stat.node}", timing.generated_tokens).blocks
            node = self._node(stat, Decode("m"), args)
            ms = writes * self._costs.decode_ms(1, before)
            steps = timing.generated_tokens + (timing.finish == "stop")  # what ends a text is drawn, too
            truth = Truth(writes=max(steps, 1), gives=gives)
            tokens = before + timing.generated_tokens
            return _Draft(node, truth, ms, 0.0, writes, (Value(stat.node, 1),), tokens)
        if "prefill" in stat.label:
            reads = max(self._length(stat, before) - before, 1.0)
            node = self._node(stat, Prefill("m", ()), args)
            ms = self._costs.prefill_ms(before, reads)
            adds = (FixedContent(self._blocks(stat, reads, first=context is None)),)
            return _Draft(node, Truth(), ms, reads, 0.0, adds, before + reads)
        options = max(timing.cached_tokens + timing.computed_tokens - before, 1.0)
        node = self._node(stat, Score("m", ("a", "b")), args)
        return _Draft(node, Truth(options=options), self._costs.prefill_ms(before, options), options)

    def _length(self, stat: pb.NodeStat, before: float) -> float:
        """The tokens of the context that a prefill makes; what follows on it at once may have read them."""
        read = stat.timing.cached_tokens + stat.timing.computed_tokens
        return max(
            [before, float(read), *(float(user.timing.prompt_tokens) for user in self._users[stat.node])]
        )

    def _blocks(self, stat: pb.NodeStat, tokens: float, *, first: bool) -> tuple[Block, ...]:
        own = f"{self._run.run}/{stat.node}"
        shared = 0.0
        if first:
            users = [stat, *self._users[stat.node]]
            shared = max(self._lines.shared.get(_key(self._run, user), 0.0) for user in users)
            shared = min(shared, tokens - 1)
        common = (
            Text(f"{self._run.program} {stat.location or stat.label}", int(shared)).blocks if shared else ()
        )
        return (*common, *Text(own, int(tokens - int(shared))).blocks)

    def _context(self, stat: pb.NodeStat) -> int | None:
        """The node whose context a primitive of a model continues."""
        if stat.kind != "llm":
            return None
        for value in stat.operands:
            maker = self._stats.get(value.node)
            if maker is not None and maker.kind == "llm" and value.output == 0 and _makes_context(maker):
                return int(value.node)
        return None

    def _node(self, stat: pb.NodeStat, op: Op, args: Mapping[str, Value]) -> Node:
        return Node(stat.node, op, dict(args), "", stat.location)


def _makes_context(stat: pb.NodeStat) -> bool:
    return "prefill" in stat.label or "decode" in stat.label


def _with(primitive: Primitive, draft: _Draft, forecast: Forecast) -> Primitive:
    return replace(primitive, adds=draft.adds, forecast=forecast)
