"""What only users write; `lower` turns each into primitives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from ..errors import OperandError
from ..prompt import Message
from ..sampling import DEFAULT_SAMPLING, Choices, Constraint, Sampling
from ..types import INTEGER, JSON, PASSAGES, STRINGS, TEXT, TOKENS, Data, Effect, Text, Type, list_type
from .base import Dialect, EngineKind, Op, expect, expect_operands
from .common import expect_renderable

__all__ = ["PARAGRAPHS", "Chunking", "Generate", "Ingest", "Probe", "Rerank", "ScoreMethod", "Select"]

ScoreMethod = Literal["mean", "greedy", "unconditional"]
"""How choices are compared (SGLang's choices methods).

mean: the mean log-probability of the choice's tokens; greedy: token by token, the likeliest survive;
unconditional: the mean log-probability less that of the choice without the prompt.
"""

_MOST_SAMPLES: Final = 1024  # each is a node of its own


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut into passages.

    `paragraph`: a passage is a paragraph (blank lines separate them); the markdown headings above it become
    its metadata `heading` (`"Companies > Hipujas"`). A paragraph longer than `max_chars` is cut at the ends
    of sentences, else at white space.
    `fixed`: windows of at most `max_chars` over the whole text, cut at white space, each beginning up to
    `overlap` characters before the end of the one before it.

    With `titles` each paragraph begins with a line of its headings, so that searches find it by them and
    models know what it is about; the line does not count towards `max_chars`.

    Lengths are in characters (Unicode code points).
    """

    strategy: Literal["paragraph", "fixed"] = "paragraph"
    max_chars: int = 1000
    overlap: int = 0
    titles: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in ("paragraph", "fixed"):
            raise ValueError(f"strategy must be 'paragraph' or 'fixed', not {self.strategy!r}")
        if self.max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, not {self.max_chars}")
        if not 0 <= self.overlap < self.max_chars:
            raise ValueError(f"overlap must lie in [0, max_chars), not {self.overlap}")
        if self.overlap and self.strategy == "paragraph":
            raise ValueError("overlap is for strategy='fixed'; paragraphs do not overlap")
        if self.titles and self.strategy == "fixed":
            raise ValueError("titles is for strategy='paragraph'; windows know no headings")


PARAGRAPHS = Chunking()
"""A passage for every paragraph of up to 1,000 characters."""


@dataclass(frozen=True, slots=True)
class Generate(Op):
    """Text or a typed value written by a model; with `n` > 1, a list of that many samples.

    `ids` are a whole prompt as tokens of the model, in place of messages.
    With `logprobs` each sampled token comes with its log-probability and that many of its likeliest rivals.
    """

    messages: tuple[Message, ...]
    type: Type = TEXT
    sampling: Sampling = DEFAULT_SAMPLING
    constraint: Constraint | None = None
    n: int = 1
    model: str = ""  # empty: the deployment's default
    logprobs: int | None = None
    cache: bool = False  # whether later runs may take the same text for the same prompt; only if greedy
    ids: tuple[int, ...] = ()
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "user"

    @property
    def deterministic(self) -> bool:
        """When greedy."""
        return self.sampling.greedy

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The typed value, and the text as the model wrote it; lists of both when `n` > 1.

        With `logprobs` the tokens follow, see `TOKENS`.
        """
        _expect_prompt(self.messages, args, self.ids)
        if not isinstance(self.type, (Text, Data)):
            raise OperandError(f"a model can write text or data, not {self.type}")
        if not 1 <= self.n <= _MOST_SAMPLES:
            raise OperandError(f"n must be at least 1 and at most {_MOST_SAMPLES}, not {self.n}")
        if self.sampling.ignore_eos and self.constraint is not None:
            raise OperandError(
                "a constrained text ends with its form: leave out ignore_eos or the constraint"
            )
        if self.cache and not self.deterministic:
            raise OperandError(
                "only greedy texts can be cached: leave out cache, or set the temperature to 0"
            )
        if self.logprobs is None:
            return (self.type, TEXT) if self.n == 1 else (list_type(self.type), STRINGS)
        if self.n > 1:
            raise OperandError("logprobs go with n = 1; generate several times for several samples")
        return (self.type, TEXT, TOKENS)


@dataclass(frozen=True, slots=True)
class Select(Op):
    """The one of `choices` that the model finds likeliest after the prompt."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    method: ScoreMethod = "mean"
    model: str = ""
    cache: bool = False  # whether later runs may take the same scores for the same prompt
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "user"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The choice, and the score of each choice in their order."""
        _expect_prompt(self.messages, args)
        expect_choices(self.choices)
        return (TEXT, Data('{"items":{"type":"number"},"type":"array"}'))


@dataclass(frozen=True, slots=True)
class Probe(Op):
    """How likely a model finds the tokens of a prompt, from token number `start` on; without it, none.

    The model has read the prompt afterwards, which is all that a probe without `start` is for. `ids` are
    tokens of the model in place of messages. `top`: how many of the likeliest tokens come with each.
    """

    messages: tuple[Message, ...] = ()
    ids: tuple[int, ...] = ()
    start: int | None = None
    top: int = 0
    model: str = ""
    kind: ClassVar[EngineKind] = "llm"
    dialect: ClassVar[Dialect] = "user"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The number of tokens of the prompt, and the tokens that were weighed."""
        if bool(self.messages) == bool(self.ids):
            raise OperandError("a probe takes either messages or ids")
        _expect_prompt(self.messages, args, self.ids)
        return (INTEGER, TOKENS)


@dataclass(frozen=True, slots=True)
class Ingest(Op):
    """Cut documents into passages, embed them and put them into an index.

    `documents`: a list of texts or of {id, text, source?, metadata?}. A document that is there already
    is replaced.
    """

    index: str
    chunking: Chunking = PARAGRAPHS
    kind: ClassVar[EngineKind] = "index"
    dialect: ClassVar[Dialect] = "user"

    @property
    def effectful(self) -> bool:
        """It changes the index."""
        return True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """A report {passages_added, passages_replaced, version}, and the order for later searches."""
        expect_operands(args, ("documents",), ("after",))
        expect(args, "documents", Data)
        expect(args, "after", Effect)
        return (JSON, Effect(self.index))


@dataclass(frozen=True, slots=True)
class Rerank(Op):
    """The best `k` of `passages` for `query`, scored by a cross-encoder or by the default model."""

    kind: ClassVar[EngineKind] = "rerank"
    batchable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """Passages, best first."""
        expect_operands(args, ("query", "passages", "k"))
        expect(args, "query", Text, Data)
        expect(args, "passages", Data)
        expect(args, "k", Data)
        return (PASSAGES,)


def expect_choices(choices: tuple[str, ...]) -> None:
    """Refuse an empty list of choices, an empty choice, and one choice twice."""
    try:
        Choices(choices)
    except ValueError as problem:
        raise OperandError(str(problem)) from None
    if "" in choices:
        raise OperandError("a choice must not be empty: it has no tokens to score")


def _expect_prompt(
    messages: tuple[Message, ...], args: Mapping[str, Type], ids: tuple[int, ...] = ()
) -> None:
    if not messages and not ids:
        raise OperandError("the prompt has no messages")
    if messages and ids:
        raise OperandError("the prompt is given twice: as messages and as ids")
    expect_operands(args, tuple(dict.fromkeys(name for message in messages for name in message.slots)))
    expect_renderable(args)
