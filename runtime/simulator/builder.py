"""Writing programs for the simulator: calls of a model, tools and retrieval.

A program is written once. As a *graph*, prompts that begin with the same constants, or with a conversation,
are one context that forks, and what stands before the result of a tool or a search is read while that is
waited for: what weft's passes do. As *calls*, each call reads its whole prompt once all of it is known: what
a client does that sends one request a call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from weft.graph.analyses.depth import remaining_ms
from weft.graph.analyses.forecast import Forecast
from weft.graph.analyses.objectives import Aim, Objective, objectives
from weft.graph.costs import ModelCosts
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Search, Tool
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import Rerank
from weft.runtime.scheduler.prefixes import Block, FixedContent, digest
from weft.runtime.scheduler.primitive import Primitive, Role, beginning, engine_of

from .programs import Increment, Program, Truth

__all__ = ["Builder", "Form", "Text"]

Form = Literal["graph", "calls"]


class Text(NamedTuple):
    """A known text, by any name that tells it from others, and its length in tokens."""

    name: str
    tokens: int
    constant: bool = True  # whether it stands in the program, or is an input of a run

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The text as one block."""
        return (Block(digest(self.name), float(self.tokens)),)


Part = Text | Value
"""A part of a prompt: a known text, or what a node gives."""

_MODEL: Final = "m"


@dataclass(eq=False)
class _Draft:
    """A node while the program is being written."""

    id: int
    node: Node
    ms: float
    reads: float
    writes: float
    adds: tuple[FixedContent | Value, ...] = ()
    truth: Truth = field(default_factory=Truth)
    tokens: float = 0.0  # of the context that it makes

    def primitive(self, remaining: float, objective: Objective) -> Primitive:
        """The node as the scheduler sees it."""
        op, args = self.node.op, self.node.args
        context = args.get("kv")
        client = isinstance(op, Tool) and op.where == "client"
        return Primitive(
            node=self.node,
            role=Role.CLIENT if client else Role.ENGINE,
            key=engine_of(op),
            producers=tuple({value.node: None for value in args.values()}),
            context=None if context is None else context.node,
            adds=(Value(self.id, 1),) if isinstance(op, Decode) else self.adds,
            makes_context=isinstance(op, (Prefill, Decode)),
            begins=beginning(self.adds) if isinstance(op, Prefill) and context is None else None,
            forecast=Forecast(self.ms, remaining, self.reads, self.writes, objective),
        )


class Builder:
    """Collects the nodes of one program."""

    def __init__(self, name: str, costs: ModelCosts, form: Form, identity: str) -> None:
        """`identity` tells the texts that this run writes from those of others."""
        self.name = name
        self._costs = costs
        self._form = form
        self.identity = identity
        self._ids = itertools.count()
        self._nodes: list[_Draft] = []
        self._all: dict[int, _Draft] = {}
        self._increments: dict[int | None, Increment] = {}
        self._trigger: int | None = None
        self._contexts: dict[tuple[Part, ...], int] = {}  # graph form: contexts by what has been read

    def input(self, name: str, tokens: int) -> Text:
        """A text that the run is given."""
        return Text(f"{self.identity} {name}", tokens, constant=False)

    # ---- nodes

    def write(self, prompt: Sequence[Part], tokens: int, expected: float | None = None) -> Value:
        """A model reads a prompt and writes; the text."""
        context = self._read(tuple(prompt))
        expected = float(tokens) if expected is None else expected
        length = self._length(context)
        ms = expected * self._costs.decode_ms(1, length)
        node = self._add(Decode(_MODEL), {"kv": Value(context)}, ms, writes=expected)
        node.truth = Truth(writes=tokens, gives=self._given(node.id, tokens))
        node.tokens = length + tokens
        text = Value(node.id, 1)
        self._contexts[(*prompt, text)] = node.id
        return text

    def weigh(self, prompt: Sequence[Part], options: float) -> Value:
        """A model reads a prompt and weighs choices of so many tokens in all; the choice."""
        context = self._read(tuple(prompt))
        ms = self._costs.prefill_ms(self._length(context), options)
        node = self._add(Score(_MODEL, ("a", "b")), {"kv": Value(context)}, ms, reads=options)
        node.truth = Truth(options=options, gives=self._given(node.id, 1))
        return Value(node.id)

    def tool(
        self,
        name: str,
        ms: float,
        takes: Iterable[Value] = (),
        *,
        tokens: int = 0,
        expected_ms: float = 100.0,
        where: Literal["client", "server"] = "client",
    ) -> Value:
        """A call of a tool; its result, which has so many tokens."""
        op = Tool(name, where=where, idempotent=True)
        node = self._add(op, {f"x{n}": value for n, value in enumerate(takes)}, expected_ms)
        node.truth = Truth(ms=ms, gives=self._given(node.id, tokens))
        return Value(node.id)

    def embed(self, items: int, takes: Iterable[Value] = (), *, ms: float = 5.0) -> Value:
        """Embeddings of so many texts."""
        node = self._add(Embed(), {f"x{n}": value for n, value in enumerate(takes)}, ms)
        node.truth = Truth(items=items)
        return Value(node.id)

    def search(self, takes: Iterable[Value], *, tokens: int, items: int = 1, ms: float = 5.0) -> Value:
        """Passages of so many tokens."""
        node = self._add(Search("i"), {f"x{n}": value for n, value in enumerate(takes)}, ms)
        node.truth = Truth(items=items, gives=self._given(node.id, tokens))
        return Value(node.id)

    def rerank(self, takes: Iterable[Value], *, items: int, tokens: int, ms: float = 20.0) -> Value:
        """The best passages of `items`, of so many tokens."""
        node = self._add(Rerank(), {f"x{n}": value for n, value in enumerate(takes)}, ms)
        node.truth = Truth(items=items, gives=self._given(node.id, tokens))
        return Value(node.id)

    def after(self, value: Value) -> None:
        """What follows is added when this value is known."""
        self._close()
        self._trigger = value.node

    def build(self, *, namespace: str = "", priority: int = 0, deadline_s: float | None = None) -> Program:
        """The program."""
        self._close()
        return Program(self.name, self._increments, namespace, priority, deadline_s)

    # ---- prompts

    def _read(self, prompt: tuple[Part, ...]) -> int:
        """The node that has read a prompt."""
        if self._form == "calls":
            return self._prefill(None, prompt)
        known = next(n for n in range(len(prompt), -1, -1) if not n or prompt[:n] in self._contexts)
        context = self._contexts[prompt[:known]] if known else None
        begin = known
        for end in range(known + 1, len(prompt) + 1):
            if end == len(prompt) or self._is_cut(prompt, end):
                context = self._prefill(context, prompt[begin:end])
                self._contexts[prompt[:end]] = context
                begin = end
        assert context is not None, "a prompt must not be empty"
        return context

    def _is_cut(self, prompt: tuple[Part, ...], end: int) -> bool:
        """Whether the first `end` parts of a prompt are read on their own."""
        part = prompt[end]
        if isinstance(part, Value):  # while the model writes, reading ahead gains nothing
            return not isinstance(self._all[part.node].node.op, Decode)
        head = all(isinstance(before, Text) and before.constant for before in prompt[:end])
        return head and not part.constant

    def _prefill(self, context: int | None, parts: tuple[Part, ...]) -> int:
        args = {f"x{n}": part for n, part in enumerate(parts) if isinstance(part, Value)}
        if context is not None:
            args["kv"] = Value(context)
        reads = sum(self._tokens(part) for part in parts)
        before = self._length(context)
        node = self._add(Prefill(_MODEL, ()), args, self._costs.prefill_ms(before, reads), reads=reads)
        node.adds = tuple(FixedContent(p.blocks) if isinstance(p, Text) else p for p in parts)
        node.tokens = before + reads
        return node.id

    def _tokens(self, part: Part) -> float:
        if isinstance(part, Text):
            return float(part.tokens)
        return sum(block.tokens for block in self._all[part.node].truth.gives)

    def _length(self, context: int | None) -> float:
        return 0.0 if context is None else self._all[context].tokens

    def _given(self, node: int, tokens: int) -> tuple[Block, ...]:
        return Text(f"{self.identity}/{node}", tokens).blocks if tokens else ()

    # ---- increments

    def _add(
        self, op: Op, args: dict[str, Value], ms: float, *, reads: float = 0.0, writes: float = 0.0
    ) -> _Draft:
        number = next(self._ids)
        node = Node(number, op, args, self.name, f"{self.name}:{op.label()}")
        draft = _Draft(number, node, ms, reads, writes)
        self._nodes.append(draft)
        self._all[number] = draft
        return draft

    def _close(self) -> None:
        nodes = {draft.id: draft for draft in self._nodes}
        graph = Graph.inferred(tuple(draft.node for draft in self._nodes), (), self.name, {}, {})
        taken = {value.node for node in graph for value in node.args.values()}
        wanted: dict[Value, Aim] = {Value(node.id): "latency" for node in graph if node.id not in taken}
        remaining = remaining_ms(graph, lambda node: nodes[node.id].ms)
        aims = objectives(graph, wanted)
        primitives = tuple(d.primitive(remaining[d.id], aims[d.id]) for d in self._nodes)
        truths = {draft.id: draft.truth for draft in self._nodes}
        self._increments[self._trigger] = Increment(primitives, truths)
        self._nodes = []
