"""A program while it runs in the simulator."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from math import ceil

from weft.graph.ir import Value
from weft.graph.ops.primitive import Decode
from weft.runtime.scheduler.prefixes import Block, Content, extend, start
from weft.runtime.scheduler.primitive import Primitive

from .cache import Path
from .programs import Program, Truth

__all__ = ["LiveProgram"]


class LiveProgram:
    """What is known of a run: its nodes so far, what they really take, and where their results are."""

    def __init__(self, id: str, program: Program, started: float) -> None:
        self.id = id
        self.program = program
        self.started = started
        self.pending = 0  # nodes that are not done
        self.nodes: dict[int, Primitive] = {}
        self.answering = 0  # tools of the client that run
        self.answering_since = 0.0
        self.done: set[int] = set()
        self.current: dict[int, tuple[int, str]] = {}  # attempts under way, and the workers that have them
        self.paths: dict[int, Path] = {}  # contexts that are held, by the node that makes them
        self._truths: dict[int, Truth] = {}
        self._made: dict[str, set[int]] = {}

    def add(self, trigger: int | None) -> tuple[Primitive, ...]:
        """The part of the program that follows on a node; nothing for most."""
        increment = self.program.increments.get(trigger)
        if increment is None:
            return ()
        self.nodes.update((primitive.node.id, primitive) for primitive in increment.primitives)
        self._truths.update(increment.truths)
        self.pending += len(increment.primitives)
        return increment.primitives

    def call_off(self, worker: str, nodes: Collection[int]) -> None:
        """What a worker has of these nodes, or of all, will not be heard of."""
        for node, (_, where) in list(self.current.items()):
            if where == worker and (not nodes or node in nodes):
                del self.current[node]

    def truth(self, node: int) -> Truth:
        """What a node really takes."""
        return self._truths[node]

    def made_at(self, worker: str) -> set[int]:
        """The nodes whose results a worker has made."""
        return self._made.setdefault(worker, set())

    def path(self, primitive: Primitive, *, written: bool = False) -> Path:
        """The prompt that a primitive has read or continues; with what it has `written`."""
        if primitive.context is not None:
            path = self.paths[primitive.context]
            base = path[-1]
        else:
            path, base = (), start(primitive.key.model, self.program.namespace)
        adds = primitive.adds if written or not self._truths[primitive.node.id].writes else ()
        blocks = [block for part in adds for block in self._blocks(part)]
        return (*path, *extend(base, blocks))

    def head(self, node: int) -> int:
        """The tokens before the first text that a model has written in the context that a node makes."""
        chain = [self.nodes[node]]
        while (context := chain[-1].context) is not None:
            chain.append(self.nodes[context])
        prompt = takewhile(lambda primitive: not isinstance(primitive.node.op, Decode), reversed(chain))
        parts = [part for primitive in prompt for part in primitive.adds]
        return ceil(sum(block.tokens for part in parts for block in self._blocks(part)))

    def _blocks(self, part: Content | Value) -> Sequence[Block]:
        return self._truths[part.node].gives if isinstance(part, Value) else part.blocks
