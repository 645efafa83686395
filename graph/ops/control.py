"""Control flow that only run time can decide. Each becomes new nodes once its operands are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import OperandError
from ..ir import Graph
from ..types import JSON, PASSAGES, VECTORS, Data, Effect, Kv, Type, list_type
from .base import EngineKind, Op, expect, expect_operands
from .common import Input

__all__ = ["Cond", "Fold", "Loop", "Map", "body_inputs"]


@dataclass(frozen=True, slots=True)
class Map(Op):
    """`body` for every item of the list `items`; other operands are the same for all.

    At most `concurrency` bodies run at a time (0: as many as the server allows by default), begun in the
    order of the items. The results become a list, or by the rule `merge` one value. Searches in the body
    come `after` an effect on their index, if that operand is given.
    """

    body: Graph
    concurrency: int = 0
    merge: Literal["list", "passages", "vectors"] = "list"
    kind: ClassVar[EngineKind] = "control"
    ITEM: ClassVar[str] = "item"

    @property
    def effectful(self) -> bool:
        """As its body."""
        return _effectful(self.body)

    @property
    def deterministic(self) -> bool:
        """As its body."""
        return _deterministic(self.body)

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The bodies' results in the order of the items: a list of them, or what they are together."""
        if self.concurrency < 0:
            raise OperandError(f"concurrency must not be negative, not {self.concurrency}")
        expect(args, "items", Data)
        expect(args, "after", Effect)
        operands = {name: kind for name, kind in args.items() if name != "after"}
        _expect_body(self.body, operands, {"items": self.ITEM}, outputs=1)
        match self.merge:
            case "passages":
                return (PASSAGES,)
            case "vectors":
                return (VECTORS,)
            case _:
                return (list_type(self.body.types[self.body.outputs[0]]),)


@dataclass(frozen=True, slots=True)
class Cond(Op):
    """`then` if `predicate` is true, else `otherwise`; only the branch taken runs."""

    then: Graph
    otherwise: Graph
    kind: ClassVar[EngineKind] = "control"

    @property
    def effectful(self) -> bool:
        """As its branches."""
        return _effectful(self.then) or _effectful(self.otherwise)

    @property
    def deterministic(self) -> bool:
        """As its branches."""
        return _deterministic(self.then) and _deterministic(self.otherwise)

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """What the branches give: their type if they agree, else any data."""
        expect(args, "predicate", Data)
        captured = {name: kind for name, kind in args.items() if name != "predicate"}
        types: list[Type] = []
        for branch in (self.then, self.otherwise):
            used = {n: k for n, k in captured.items() if n in body_inputs(branch)}
            _expect_body(branch, used, {}, outputs=1)
            types.append(branch.types[branch.outputs[0]])
        unused = set(captured) - set(body_inputs(self.then)) - set(body_inputs(self.otherwise))
        if unused or "predicate" not in args:
            expect_operands(args, ("predicate",), tuple(set(captured) - unused))
        return (types[0] if types[0] == types[1] else JSON,)


@dataclass(frozen=True, slots=True)
class Loop(Op):
    """`body` again and again, each time on the last `state`, until it says so or `limit` turns are done.

    The body's results are the next state and whether to stop; after a turn the loop takes the latter as its
    operand `done`. The body runs at least once.
    """

    body: Graph
    limit: int = 16
    kind: ClassVar[EngineKind] = "control"
    STATE: ClassVar[str] = "state"

    @property
    def effectful(self) -> bool:
        """As its body."""
        return _effectful(self.body)

    @property
    def deterministic(self) -> bool:
        """As its body."""
        return _deterministic(self.body)

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The last state."""
        first = "done" not in args
        if self.limit < first:
            raise OperandError(f"limit must be at least 1, not {self.limit}")
        operands = {name: kind for name, kind in args.items() if name != "done"}
        _expect_body(self.body, operands, {"state": self.STATE}, outputs=2)
        return (self.body.types[self.body.outputs[0]],)


@dataclass(frozen=True, slots=True)
class Fold(Op):
    """`body` for one item of the list `items` after the other, on the `state` that the one before gave.

    The last state is the result; without items, the first one. Other operands are the same for all.
    """

    body: Graph
    kind: ClassVar[EngineKind] = "control"
    ITEM: ClassVar[str] = "item"
    STATE: ClassVar[str] = "state"

    @property
    def effectful(self) -> bool:
        """As its body."""
        return _effectful(self.body)

    @property
    def deterministic(self) -> bool:
        """As its body."""
        return _deterministic(self.body)

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The last state."""
        expect(args, "items", Data)
        _expect_body(self.body, args, {"items": self.ITEM, "state": self.STATE}, outputs=1)
        return (self.body.types[self.body.outputs[0]],)


def body_inputs(body: Graph) -> tuple[str, ...]:
    """The names of the values that a body takes."""
    return tuple(node.op.name for node in body if isinstance(node.op, Input))


def _expect_body(body: Graph, args: Mapping[str, Type], renamed: Mapping[str, str], outputs: int) -> None:
    if body.outside:
        raise OperandError("a body must take everything from outside through its inputs")
    if len(body.outputs) != outputs:
        raise OperandError(f"the body must have {outputs} result(s), not {len(body.outputs)}")
    for name, kind in args.items():
        if isinstance(kind, (Kv, Effect)):
            raise OperandError(f"operand {name!r} is a {kind}, which no body can take")
    given = {renamed.get(name, name) for name in args}
    for name in renamed:
        if name not in args:
            raise OperandError(f"lacks the operand {name!r}")
    needed = set(body_inputs(body))
    if needed - given:
        raise OperandError(f"the body takes {sorted(needed - given)[0]!r}, which no operand gives")
    if given - needed - set(renamed.values()):
        raise OperandError(f"the body has no input {sorted(given - needed)[0]!r}")


def _effectful(body: Graph) -> bool:
    return any(node.op.effectful for node in body)


def _deterministic(body: Graph) -> bool:
    return all(node.op.deterministic for node in body)
