"""Constrained decoding: which tokens a constraint allows next, and a guard that the text ends in time.

The masks are xgrammar's. The length guard is weft's: a constrained text always completes within its token
budget. It keeps this invariant: after each token a way to complete the text within the remaining budget is
known. A sampled token that would break it is replaced by the first token of the way that is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache

import torch
import xgrammar

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex

from .closing_grammar import ClosingGrammar, UnsupportedGrammarError, Vocabulary
from .json_grammar import GrammarError, json_grammar, regex_grammar
from .length_guard import AMBIGUOUS, LengthGuard, SharedGuard
from .tokenizer import Tokenizer

__all__ = ["CompiledGrammar", "GrammarCompiler", "GrammarError", "Matcher", "apply_mask"]

_CACHED_GRAMMARS = 256
_CACHED_SPELLINGS = 4096  # of forced texts
_MOST_MASK_S = 0.5  # of computing for the mask of one token, which all requests of a step wait for
_REHEARSED = 16  # tokens

_Made = tuple[xgrammar.CompiledGrammar, SharedGuard | None]


class GrammarCompiler:
    """Compiles constraints for one model. Any thread may use it; compiled grammars are cached."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: frozenset[int]) -> None:
        """Prepare for logits of `vocab_size` columns (at least the tokenizer's) and the given end tokens."""
        self._token_bytes = [
            b"" if token in eos_ids else tokenizer.token_bytes(token) for token in range(vocab_size)
        ]
        self._vocabulary = Vocabulary(self._token_bytes)
        info = xgrammar.TokenizerInfo(
            self._token_bytes, xgrammar.VocabType.RAW, vocab_size=vocab_size, stop_token_ids=sorted(eos_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._spell = lru_cache(maxsize=_CACHED_SPELLINGS)(tokenizer.encode_continuation)
        self._eos_ids = eos_ids
        self._cached = lru_cache(maxsize=_CACHED_GRAMMARS)(self._compile)

    def compile(self, constraint: Constraint, max_tokens: int) -> CompiledGrammar:
        """Compile `constraint` for texts of at most `max_tokens` tokens. Blocks, for milliseconds to seconds.

        Raises:
            GrammarError: the constraint is malformed or uses a feature that cannot be enforced, or no
            conforming
                text fits into `max_tokens`.
        """
        made = self._cached(constraint)
        if isinstance(made, GrammarError):
            raise GrammarError(*made.args)
        compiled, guards = made
        grammar = CompiledGrammar(compiled, guards, self._token_bytes, self._eos_ids, max_tokens, self._spell)
        if grammar.min_tokens > max_tokens:
            raise GrammarError(
                f"max_tokens must be at least {grammar.min_tokens} for this type, not {max_tokens}: "
                "its shortest value takes that many tokens"
            )
        return grammar

    def _compile(self, constraint: Constraint) -> _Made | GrammarError:
        """What refuses a constraint may have taken seconds to find, so it is kept like what is compiled."""
        try:
            grammar = _grammar(constraint)
            guards = self._guards(grammar)
            compiled = self._compiler.compile_grammar(grammar)
            self._rehearse(compiled, guards)
        except GrammarError as problem:
            return problem
        return compiled, guards

    def _guards(self, grammar: xgrammar.Grammar) -> SharedGuard | None:
        """Build the length guard of a grammar; None if it cannot follow that. Raises GrammarError."""
        try:
            return SharedGuard(ClosingGrammar(grammar.serialize_json(), self._vocabulary))
        except UnsupportedGrammarError:
            return None

    def _rehearse(self, compiled: xgrammar.CompiledGrammar, guards: SharedGuard | None) -> None:
        """Compute the masks along the shortest text, here where nobody else waits for one that takes long."""
        way: Sequence[int] = ()
        if guards is not None:
            guard = guards.current()
            way = (guard.closing(guard.start) or ())[:_REHEARSED]
            with suppress(UnsupportedGrammarError):
                guard.advance(guard.start, b"".join(self._token_bytes[token] for token in way))
        mask = torch.zeros(len(way) + 1, (len(self._token_bytes) + 31) // 32, dtype=torch.int32)
        _fill(xgrammar.GrammarMatcher(compiled), mask, 0, way)


def _grammar(constraint: Constraint) -> xgrammar.Grammar:
    match constraint:
        case JsonSchema(schema):
            return json_grammar(schema)
        case Regex(pattern):
            return regex_grammar(pattern)
        case Choices(options):
            return xgrammar.Grammar.from_ebnf("root ::= " + " | ".join(map(_literal, options)))


def _literal(text: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text) + '"'


class CompiledGrammar:
    """A constraint, ready to be matched by any number of decodes."""

    guarded: bool
    """Whether texts are certain to complete within their budget.

    False only for grammars that the guard cannot follow, of more than 100,000 symbols or bytes: a
    `minLength`, a repetition count, or repetitions within repetitions of that size. Such a decode may run
    out of tokens in the middle of its text; so may one whose regex goes on in so many ways that the guard
    gives up.
    """
    min_tokens: int
    """The fewest tokens that a conforming text takes; 1 if not `guarded`."""

    def __init__(
        self,
        compiled: xgrammar.CompiledGrammar,
        guards: SharedGuard | None,
        token_bytes: Sequence[bytes],
        eos_ids: frozenset[int],
        max_tokens: int,
        spell: Callable[[str], Sequence[int]],
    ) -> None:
        self.spell = spell
        self.compiled = compiled
        self.guards = guards
        self.token_bytes = token_bytes
        self.eos_ids = eos_ids
        self.max_tokens = max_tokens
        self.guarded = guards is not None
        self.min_tokens = guards.min_tokens if guards is not None else 1

    def matcher(self) -> Matcher:
        """Return a matcher for a new text."""
        return Matcher(self)


class Matcher:
    """The state of one constrained text. Not thread-safe."""

    finished: bool
    """Whether the text is complete: an end token came, nothing may follow, or the budget is spent."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.finished = False
        self._grammar = grammar
        self._matcher = xgrammar.GrammarMatcher(grammar.compiled)
        self._remaining = grammar.max_tokens
        self._guard = grammar.guards.current() if grammar.guards is not None else None
        if self._guard is not None:
            self._state = self._guard.start
            self._way: list[int] | None = None  # a known completion; None: that of the state's own cost

    def fill(self, mask: torch.Tensor, row: int, draft: Sequence[int] = ()) -> None:
        """Write into `mask[row]` which tokens may come next, and into the rows below after each of `draft`.

        `mask` is int32 [rows, ceil(vocab_size / 32)] on the CPU; bit `i` of word `w` is token `32 w + i`.
        Rows behind a token that is not allowed, or with which the text ends, stay as they are.

        Raises:
            GrammarError: it takes so long that other texts of the step would suffer.
        """
        _fill(self._matcher, mask, row, draft)

    def forced(self) -> Sequence[int]:
        """The text that must follow whatever is sampled, as the tokenizer would write it; often empty.

        Other tokens may spell the same text, so these are likely, not certain.
        """
        try:
            text = self._matcher.find_jump_forward_string()
        except UnicodeDecodeError as error:  # it begins or ends within a character
            text = error.object[: error.start].decode()
        return self._grammar.spell(text) if text else ()

    def accept(self, token: int) -> int:
        """Append the sampled `token`, or the one that the length guard puts in its place; return which.

        Raises:
            GrammarError: the constraint does not allow `token` here, so it was sampled without the mask.
        """
        guard = self._guard
        taken = token if guard is None or self._keeps_invariant(guard, token) else self._forced(guard)
        if not self._matcher.accept_token(taken):
            if taken == token:
                raise GrammarError(f"token {token} is not allowed here; apply the mask before sampling")
            self._guard = None  # it took a repetition to be longer than it is: see ClosingGrammar
            return self.accept(token)
        self._remaining -= 1
        self.finished = self._matcher.is_terminated() or self._is_closed()
        return taken

    def _is_closed(self) -> bool:
        if self._guard is None:
            return self._remaining == 0 and self._matcher.is_completed()
        return self._state.closed or (self._remaining == 0 and self._state.complete)

    def _keeps_invariant(self, guard: LengthGuard, token: int) -> bool:
        """Tell whether the text can still complete in time after `token`; if so, move on to it."""
        if token in self._grammar.eos_ids:
            return True
        try:
            state = guard.advance(self._state, self._grammar.token_bytes[token])
        except UnsupportedGrammarError:
            self._guard = None
            return True
        way = None if state.cost < self._remaining else guard.closing(state)
        if state.cost >= self._remaining and (way is None or len(way) >= self._remaining):
            return False
        self._state, self._way = state, way
        return True

    def _forced(self, guard: LengthGuard) -> int:
        """Take the first token of the known way to complete the text; an end token if it is complete."""
        way = guard.closing(self._state) if self._way is None else self._way
        if not way:
            return min(self._grammar.eos_ids)
        self._state = guard.advance(self._state, self._grammar.token_bytes[way[0]])
        self._way = way[1:]
        return way[0]


def _fill(matcher: xgrammar.GrammarMatcher, mask: torch.Tensor, row: int, draft: Sequence[int]) -> None:
    _fill_row(matcher, mask, row)
    taken = 0
    for token in draft:
        allowed = int(mask[row + taken, token // 32]) >> token % 32 & 1
        if not (allowed and matcher.accept_token(token)):  # it warns of special tokens
            break
        taken += 1
        if matcher.is_terminated():
            break
        _fill_row(matcher, mask, row + taken)
    if taken:
        matcher.rollback(taken)


def _fill_row(matcher: xgrammar.GrammarMatcher, mask: torch.Tensor, row: int) -> None:
    began = time.thread_time()
    matcher.fill_next_token_bitmask(mask, row)
    if time.thread_time() - began > _MOST_MASK_S:
        raise GrammarError(AMBIGUOUS)


def apply_mask(logits: torch.Tensor, mask: torch.Tensor, rows: Sequence[int]) -> None:
    """Set the logits of all tokens that `mask` forbids to -inf, in place, in the given rows.

    `logits` is [rows, vocab_size], `mask` int32 [rows, ceil(vocab_size / 32)] on the same device.
    """
    xgrammar.apply_token_bitmask_inplace(logits, mask, vocab_size=logits.shape[-1], indices=list(rows))
