"""What only the optimizer makes: parts of values that are still being written, and work cut into stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import OperandError
from ..types import JSON, PASSAGES, VECTORS, Data, Effect, Text, Type, Vectors
from .base import Dialect, EngineKind, Op, expect, expect_operands

__all__ = ["Element", "Key", "Merge", "MergeRule", "Slice", "Stage"]

Key = str | int
"""A field of an object, or a place in a list."""

MergeRule = Literal["passages", "vectors", "top_k", "reports"]
"""How the results of stages become one.

passages: one list after the other, of passages with one id only the first; vectors: row under row; top_k: the
`k` best passages of all, ties in the order of the stages; reports: the sums of ingest reports, and the last
version.
"""


@dataclass(frozen=True, slots=True)
class Element(Op):
    """The value at `path` of the JSON that a model writes as `text`, known as soon as it is closed there.

    The operand is read as a stream. An empty path is the whole. `default` is that of the field at its end.
    """

    path: tuple[Key, ...]
    type: Type = JSON
    default: str | None = None
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The value there."""
        expect_operands(args, ("text",))
        expect(args, "text", Text)
        return (self.type,)


@dataclass(frozen=True, slots=True)
class Slice(Op):
    """Items `start` to `stop` (exclusive) of the list `value`."""

    start: int
    stop: int
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """A list of the same type."""
        expect_operands(args, ("value",))
        expect(args, "value", Data)
        if not 0 <= self.start <= self.stop:
            raise OperandError(f"a slice must run forwards, not from {self.start} to {self.stop}")
        return (args["value"],)


@dataclass(frozen=True, slots=True)
class Merge(Op):
    """One result from those of the stages "0", "1", …"""

    rule: MergeRule
    index: str = ""  # of reports
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """What the stages together would have given as one."""
        extra = {"top_k": ("k",), "reports": ("after",)}.get(self.rule, ())
        stages = tuple(str(number) for number in range(len(args) - len(extra)))
        expect_operands(args, (*stages, *extra))
        expect(args, "after", Effect)
        for stage in stages:
            expect(args, stage, Vectors if self.rule == "vectors" else Data)
        match self.rule:
            case "vectors":
                return (VECTORS,)
            case "reports":
                return (JSON, Effect(self.index))
            case _:
                return (PASSAGES,)


@dataclass(frozen=True, slots=True)
class Stage(Op):
    """Batchable work that is cut into stages of `size` items once it is known how many there are.

    Its operands are those of the operation that it stands for: of `embed` and `rerank`; of `ingest` the
    `chunks`, their `texts`, and what it comes `after`.
    """

    work: Literal["embed", "ingest", "rerank"]
    size: int
    model: str = ""
    index: str = ""
    kind: ClassVar[EngineKind] = "control"
    dialect: ClassVar[Dialect] = "primitive"

    @property
    def effectful(self) -> bool:
        """If it fills an index."""
        return self.work == "ingest"

    @property
    def items(self) -> str:
        """The operand whose items are counted."""
        return {"embed": "texts", "ingest": "texts", "rerank": "passages"}[self.work]

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """As the operation that it stands for."""
        if self.size < 1:
            raise OperandError(f"a stage must hold at least 1 item, not {self.size}")
        match self.work:
            case "embed":
                expect_operands(args, ("texts",))
                return (VECTORS,)
            case "ingest":
                expect_operands(args, ("chunks", "texts"), ("after",))
                expect(args, "after", Effect)
                return (JSON, Effect(self.index))
            case "rerank":
                expect_operands(args, ("query", "passages", "k"))
                return (PASSAGES,)
