"""What the engine needs of text: a stream of pieces per decode, and grammars. Ids alone do without either."""

from __future__ import annotations

from typing import Protocol

from weft.graph.sampling import Constraint

from .config import ModelShape
from .detokenize import FinalText, TextStream
from .errors import ModelError, RequestError
from .grammar import CompiledGrammar, GrammarCompiler
from .tokenizer import Tokenizer

__all__ = ["IdsOnly", "Stream", "TextBackend", "TokenizerText"]


class Stream(Protocol):
    """The text of one running decode."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been completed."""

    def push(self, token: int) -> str:
        """Take a sampled token; returns the text that may be emitted now."""

    def finish(self) -> FinalText:
        """End the stream."""


class TextBackend(Protocol):
    """Makes streams and grammars; used from several threads."""

    eos_ids: frozenset[int]
    """The tokens that end a text."""

    def check(self, stop: tuple[str, ...], constraint: Constraint | None) -> None:
        """Raise `RequestError` if these cannot be served."""

    def stream(self, stop: tuple[str, ...]) -> Stream:
        """The stream of a decode that ends at any of `stop`."""

    def compile(self, constraint: Constraint, max_tokens: int) -> CompiledGrammar:
        """Compile a constraint, blocking; raises if it is bad."""


class TokenizerText:
    """Text by a tokenizer, grammars for its vocabulary."""

    def __init__(self, tokenizer: Tokenizer, config: ModelShape) -> None:
        """Raises `ModelError` if the tokenizer has ids that the model does not know."""
        if tokenizer.vocab_size > config.vocab_size:
            raise ModelError(
                f"the tokenizer has {tokenizer.vocab_size} ids, but the model only {config.vocab_size}: "
                "they do not belong together"
            )
        self.eos_ids = config.eos_ids | tokenizer.eos_ids
        self._tokenizer = tokenizer
        self._compiler = GrammarCompiler(tokenizer, config.vocab_size, self.eos_ids)

    def check(self, stop: tuple[str, ...], constraint: Constraint | None) -> None:
        """Everything can be served."""

    def stream(self, stop: tuple[str, ...]) -> Stream:
        """A streaming detokenizer."""
        return TextStream(self._tokenizer, stop)

    def compile(self, constraint: Constraint, max_tokens: int) -> CompiledGrammar:
        """Compile for this vocabulary; raises `GrammarError`."""
        return self._compiler.compile(constraint, max_tokens)


class IdsOnly:
    """No text: every piece is empty, and neither stop strings nor constraints are served."""

    def __init__(self, config: ModelShape) -> None:
        self.eos_ids = config.eos_ids

    def check(self, stop: tuple[str, ...], constraint: Constraint | None) -> None:
        """Refuse what needs text."""
        if stop or constraint is not None:
            raise RequestError("this engine has no tokenizer: it serves neither stop strings nor constraints")

    def stream(self, stop: tuple[str, ...]) -> Stream:
        """A stream that collects ids."""
        return _IdStream()

    def compile(self, constraint: Constraint, max_tokens: int) -> CompiledGrammar:
        """Never possible; raises `RequestError`."""
        raise RequestError("this engine has no tokenizer: it serves no constraints")


class _IdStream:
    stopped = False

    def __init__(self) -> None:
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        self._ids.append(token)
        return ""

    def finish(self) -> FinalText:
        return FinalText("", tuple(self._ids), "", "")
