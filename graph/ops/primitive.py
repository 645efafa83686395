"""What only workers run; `lower` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import OperandError
from ..prompt import Piece, slots
from ..sampling import DEFAULT_SAMPLING, Constraint, Sampling
from ..types import INTEGER, JSON, PASSAGES, TEXT, TOKENS, Data, Effect, Kv, Text, Type, Vectors
from .base import Dialect, EngineKind, Op, expect, expect_operands
from .common import expect_renderable
from .user import PARAGRAPHS, Chunking, ScoreMethod, expect_choices

__all__ = ["Chunk", "Decode", "Partial", "Prefill", "Rate", "Score", "Upsert", "Weigh"]


@dataclass(frozen=True, slots=True)
class Prefill(Op):
    """`kv × text → kv'`: the model reads `pieces` after what it has read in `kv`, or from the start."""

    model: str
    pieces: tuple[Piece, ...]
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "primitive"
    batchable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The longer context."""
        expect_operands(args, slots(self.pieces), ("kv",))
        _expect_kv(args, self.model)
        expect_renderable({name: kind for name, kind in args.items() if name != "kv"})
        return (Kv(self.model),)


@dataclass(frozen=True, slots=True)
class Decode(Op):
    """`kv → kv' × text`: the model writes, after what it has read in `kv`, or after `ids`."""

    model: str
    sampling: Sampling = DEFAULT_SAMPLING
    constraint: Constraint | None = None
    logprobs: int | None = None  # of each token, with so many of the likeliest; None: not asked for
    cache: bool = False
    ids: tuple[int, ...] = ()
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "primitive"
    batchable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    @property
    def deterministic(self) -> bool:
        """When greedy."""
        return self.sampling.greedy

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The context with what was written, and the text; with `logprobs`, its tokens."""
        expect_operands(args, () if self.ids else ("kv",))
        _expect_kv(args, self.model)
        return (Kv(self.model), TEXT) if self.logprobs is None else (Kv(self.model), TEXT, TOKENS)


@dataclass(frozen=True, slots=True)
class Score(Op):
    """How likely the model finds each of `choices` after what it has read."""

    model: str
    choices: tuple[str, ...]
    method: ScoreMethod = "mean"
    cache: bool = False
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "primitive"
    batchable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The best choice, and the score of each."""
        expect_operands(args, ("kv",))
        _expect_kv(args, self.model)
        expect_choices(self.choices)
        return (TEXT, Data('{"items":{"type":"number"},"type":"array"}'))


@dataclass(frozen=True, slots=True)
class Weigh(Op):
    """How likely the model found what it has read, or `ids`, from token number `start` on."""

    model: str
    ids: tuple[int, ...] = ()
    start: int | None = None  # None: no token is weighed
    top: int = 0
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "primitive"
    batchable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """How many tokens there are, and those that were weighed."""
        expect_operands(args, () if self.ids else ("kv",))
        _expect_kv(args, self.model)
        return (INTEGER, TOKENS)


@dataclass(frozen=True, slots=True)
class Rate(Op):
    """The best `k` of `passages` for `query`, each rated by a model that reads `pieces` with both.

    The rating is the mean of `values` under the probabilities of `choices`, one value a choice, which ranks
    finer than the likeliest choice would. The slots of the prompt are `query` and `passage`.
    """

    model: str
    pieces: tuple[Piece, ...]
    choices: tuple[str, ...]
    values: tuple[float, ...]
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "primitive"
    batchable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """Passages with their ratings, best first."""
        expect_operands(args, ("query", "passages", "k"))
        expect(args, "query", Text, Data)
        expect(args, "passages", Data)
        expect(args, "k", Data)
        expect_choices(self.choices)
        if len(self.values) != len(self.choices):
            raise OperandError(f"{len(self.choices)} choices need as many values, not {len(self.values)}")
        return (PASSAGES,)


@dataclass(frozen=True, slots=True)
class Chunk(Op):
    """Cut documents into passages, and leave out the documents that `index` holds as they are."""

    index: str
    chunking: Chunking = PARAGRAPHS
    kind: ClassVar[EngineKind] = "index"
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The chunks, and their texts for embedding."""
        expect_operands(args, ("documents",), ("after",))
        expect(args, "documents", Data)
        expect(args, "after", Effect)
        return (JSON, Data('{"items":{"type":"string"},"type":"array"}'))


@dataclass(frozen=True, slots=True)
class Partial:
    """A document that is stored in several stages, and how many passages it has in all."""

    document: str
    passages: int


@dataclass(frozen=True, slots=True)
class Upsert(Op):
    """Put embedded chunks into an index, in place of what their documents had there.

    Of `partial` documents other stages of the same ingest store the rest: only what lies beyond their last
    passage is removed.
    """

    index: str
    partial: tuple[Partial, ...] = ()
    kind: ClassVar[EngineKind] = "index"
    dialect: ClassVar[Dialect] = "primitive"

    @property
    def effectful(self) -> bool:
        """It changes the index."""
        return True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """A report, and the order for later searches."""
        expect_operands(args, ("chunks", "vectors"), ("after",))
        expect(args, "chunks", Data)
        expect(args, "vectors", Vectors)
        expect(args, "after", Effect)
        return (JSON, Effect(self.index))


def _expect_kv(args: Mapping[str, Type], model: str) -> None:
    """Refuse to continue what is no context, or what another model has read."""
    expect(args, "kv", Kv)
    kv = args.get("kv")
    if isinstance(kv, Kv) and kv.model != model:
        raise OperandError(f"operand 'kv' was read by model {kv.model!r}; {model!r} cannot continue it")
