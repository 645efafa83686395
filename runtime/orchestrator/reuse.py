"""Results of equal work in place of work.

A deterministic primitive is looked up as soon as all that it depends on is known: of an embedding or a
reranking its operands, of a decode or a score every text of its prompt. What is found counts as its results
before the scheduler hears that it could run, and so do the contexts that only it was to read.

Runs of one batch wait for each other besides: what one of them computes, the others do not begin. Their
primitives stand behind *gates*, values that the scheduler waits for and that are opened one by one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from weft.graph.ir import Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.ops.common import Embed, Input
from weft.graph.ops.primitive import Decode, Prefill, Rate, Score
from weft.graph.ops.user import Rerank
from weft.graph.values import Datum, KvValue
from weft.runtime.scheduler.primitive import Primitive, describe

from .durable import Durable
from .fingerprint import Contents, fingerprint
from .recipe import recipe
from .shared_results import Asker, Kept, Key, Results

__all__ = ["Reuse"]


class Reuse:
    """The primitives of one run that equal work may stand for.

    `values` is what the run knows, `started` the nodes that are being computed. `batch` names the batch that
    the run belongs to; empty: none.
    """

    def __init__(
        self,
        results: Results,
        run: str,
        namespace: str,
        batch: str,
        graph: LiveGraph,
        values: Mapping[Value, Datum],
        started: Container[int],
        durable: Durable | None = None,
    ) -> None:
        self._results = results
        self._run = run
        self._namespace = namespace
        self._batch = batch
        self._graph = graph
        self._values = values
        self._started = started
        self._durable = durable
        self._contents = Contents(values)
        self._missing: dict[int, set[Value]] = {}  # by node: what it depends on and is not known
        self._waiting: dict[Value, list[int]] = {}
        self._due: list[int] = []  # nodes that can be looked up
        self._keys: dict[int, Key] = {}  # of nodes that this run computes
        self._given: dict[int, tuple[Datum, ...]] = {}  # results that other runs of the batch have handed on
        self._gates: dict[int, Value] = {}
        self._open: list[Value] = []  # gates that the scheduler has not heard of yet
        self._put_off: set[int] = set()  # nodes to be looked up once somebody needs them

    # ---- nodes

    def add(self, growth: Growth) -> None:
        """Take note of new nodes."""
        if self._durable is not None:
            self._durable.add(growth)
        for node in growth.nodes:
            if not (self._may_be_found(node) or (self._durable is not None and self._durable.keeps(node))):
                continue
            missing = {value for value in self._leaves(node) if value not in self._values}
            self._missing[node.id] = missing
            for value in missing:
                self._waiting.setdefault(value, []).append(node.id)
            if not missing:
                self._due.append(node.id)

    def gated(self, primitives: Sequence[Primitive]) -> tuple[Primitive, ...]:
        """The same primitives; those of a batch that may be found wait at gates, and what the journal guards.

        So does the last piece of a prompt that only they continue: it would be read for nothing.
        """
        if not (self._batch or self._durable):
            return tuple(primitives)
        durable = self._durable
        guarded = {p.node.id for p in primitives if durable is not None and durable.guards(p.node)}
        shared = (p.node for p in primitives) if self._batch else ()
        held = guarded | {node.id for node in shared if self._may_be_found(node)}
        users: dict[int, set[int]] = {}
        for primitive in primitives:
            if primitive.context is not None:
                users.setdefault(primitive.context, set()).add(primitive.node.id)
        held |= {p.node.id for p in primitives if _is_read_for(p, users.get(p.node.id, set()), held)}
        return tuple(
            part for p in primitives for part in (self._behind_gate(p) if p.node.id in held else (p,))
        )

    def _behind_gate(self, primitive: Primitive) -> tuple[Primitive, Primitive]:
        gate = Value(self._graph.new_id())
        self._gates[primitive.node.id] = gate
        (waited_for,) = describe([Node(gate.node, Input("gate"))])
        return waited_for, replace(primitive, producers=(*primitive.producers, gate.node))

    # ---- what becomes known

    def learned(self, values: Iterable[Value]) -> None:
        """Values have become known."""
        for value in values:
            for number in self._waiting.pop(value, ()):
                self._missing[number].discard(value)
                if not self._missing[number]:
                    self._due.append(number)

    def ask_again(self, number: int) -> None:
        """Another run that was to compute this node's results will not."""
        self._due.append(number)

    def hand(self, number: int, kept: Kept) -> None:
        """Another run has computed this node's results."""
        self._keep(number, kept)
        self._given[number] = self._whole(number, kept)

    def found(self) -> dict[int, tuple[Datum, ...]]:
        """The results of nodes that need not run, those of a context before those that continue it."""
        found: dict[int, tuple[Datum, ...]] = {}
        if not (self._due or self._given):
            return found
        for number in self._due:
            if number in self._graph.shelved:
                self._put_off.add(number)
                continue
            node = self._graph.nodes[number]
            kept = self._recalled(node)
            if kept is None and self._may_be_found(node):
                kept = self._shared(node)
            if kept is not None:
                found |= self._with_contexts(number, self._whole(number, kept))
        for number, results in self._given.items():
            found |= self._with_contexts(number, results)
        self._due.clear()
        self._given.clear()
        return found

    def _recalled(self, node: Node) -> Kept | None:
        """What the journal has; a node that it guards may begin when it says so."""
        durable = self._durable
        if durable is None or not durable.keeps(node):
            return None
        kept = durable.recall(node, self._digest(node, ""))
        if kept is None and durable.guards(node):
            durable.begin(node, partial(self._let_run, node.id))
        return kept

    def _shared(self, node: Node) -> Kept | None:
        """What equal work has given; if nothing, and nobody else of the batch is at it, the node may run.

        One that was taken up again runs in any case: its gate is open.
        """
        number, key = node.id, self._key(node)
        kept = self._results.get(key)
        if kept is not None:
            self._keep(number, kept)
        elif self._batch and not self._results.lead(key, self._run) and number in self._gates:
            self._results.follow(key, Asker(self._run, number))
        else:
            self._keys[number] = key
            self._let_run(number)
        return kept

    def _keep(self, number: int, kept: Kept) -> None:
        if self._durable is not None:
            self._durable.put(number, kept)

    def opened(self) -> list[Value]:
        """The gates that have opened since this was asked last."""
        opened, self._open = self._open, []
        return opened

    def done(self, number: int, results: tuple[Datum, ...]) -> tuple[Kept, tuple[Asker, ...]]:
        """Keep what a node gave, if that may be reused; those who wait for it, and what they are to get."""
        key = self._keys.pop(number, None)
        if key is None and self._durable is None:
            return (), ()
        kept = tuple(result for result in results if not isinstance(result, KvValue))
        self._keep(number, kept)
        if key is None:
            return (), ()
        self._results.put(key, kept)
        return kept, self._results.landed(key)

    def give_up(self, numbers: Iterable[int]) -> tuple[Asker, ...]:
        """The run does not compute these nodes now: those who waited for it to do so."""
        led = {number: self._keys.pop(number) for number in numbers if number in self._keys}
        self._put_off |= led.keys()
        return tuple(asker for key in led.values() for asker in self._results.abandon(key, self._run))

    def take_up(self, numbers: Iterable[int]) -> None:
        """The run computes these nodes after all, unless equal work has been done."""
        again = self._put_off.intersection(numbers)
        self._put_off -= again
        self._due += sorted(again)

    def end(self) -> tuple[Asker, ...]:
        """The run is over: those who waited for what it has not computed."""
        return tuple(a for key in self._keys.values() for a in self._results.abandon(key, self._run))

    # ---- what a node depends on

    def _may_be_found(self, node: Node) -> bool:
        if node.op.kind not in _KINDS:
            return False
        match node.op:
            case Embed() | Rerank() | Rate():
                return True
            case Decode(cache=cache) | Score(cache=cache):
                return node.op.deterministic and (cache or bool(self._batch))
            case _:
                return False

    def _leaves(self, node: Node) -> Iterator[Value]:
        """The values that a node's results depend on; of a context the texts that were read."""
        for link in self._chain(node):
            context = _context(link)
            yield from (value for value in link.args.values() if value != context)
            if isinstance(link.op, Decode) and link is not node:
                yield Value(link.id, 1)

    def _chain(self, node: Node) -> Iterator[Node]:
        """The node, and those that made the contexts before it, back to the first."""
        yield node
        while (context := _context(node)) is not None:
            node = self._graph.nodes[context.node]
            yield node

    def _key(self, node: Node) -> Key:
        kept = isinstance(node.op, Embed | Rerank | Rate) or getattr(node.op, "cache", False)
        scope = "" if kept else self._batch
        return Key(self._namespace, self._digest(node, f"{self._results.origin(node.op)} {scope}"))

    def _digest(self, node: Node, origin: str) -> bytes:
        context = _context(node)
        operands = {name: self._contents.of(v) for name, v in node.args.items() if v != context}
        read = None if context is None else recipe(self._run, context, self._graph.nodes, self._values)
        return fingerprint(node.op, origin, operands, read)

    # ---- what is found

    def _whole(self, number: int, kept: Kept) -> tuple[Datum, ...]:
        return (_UNREAD, *kept) if isinstance(self._graph.nodes[number].op, Decode) else kept

    def _with_contexts(self, number: int, results: tuple[Datum, ...]) -> dict[int, tuple[Datum, ...]]:
        """The results of a node, after those of the contexts before it that nobody has begun to read."""
        contexts = [
            link.id for link in self._chain(self._graph.nodes[number]) if isinstance(link.op, Prefill)
        ]
        unread = [c for c in reversed(contexts) if Value(c) not in self._values and c not in self._started]
        return dict.fromkeys(unread, (_UNREAD,)) | {number: results}

    def _let_run(self, number: int) -> None:
        """Open the gate of a node, and that of the context that it continues."""
        context = _context(self._graph.nodes[number])
        for opened in (number, context.node if context is not None else number):
            gate = self._gates.pop(opened, None)
            if gate is not None:
                self._open.append(gate)


_KINDS: Final = frozenset({"llm", "embed", "rerank"})
"""Of the nodes that may be found: the look that is cheap, since all nodes of all runs pass it."""

_UNREAD: Final = KvValue("")
"""In place of a context that no worker holds; who continues it is sent all that it consists of."""


def _context(node: Node) -> Value | None:
    """What a language model is to continue; what a tool calls its arguments is its own affair."""
    return node.args.get("kv") if node.op.kind == "llm" else None


def _is_read_for(primitive: Primitive, users: set[int], held: set[int]) -> bool:
    return isinstance(primitive.node.op, Prefill) and bool(users) and users <= held
