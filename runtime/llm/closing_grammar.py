"""A grammar as plain byte-level rules, with the cheapest way to complete each of them.

The form is xgrammar's own serialized grammar, lowered to rules whose alternatives are sequences of byte
ranges and rule references. The cost of a rule is the number of tokens that its cheapest text takes: a least
fixed point over the rules (Knuth, "A Generalization of Dijkstra's Algorithm", 1977), here by relaxation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

__all__ = [
    "Alternative",
    "ByteRange",
    "ClosingGrammar",
    "Symbol",
    "UnsupportedGrammarError",
    "Vocabulary",
    "utf8_ranges",
]

ByteRange = tuple[int, int]
"""First and last byte, both included."""
Symbol = int | ByteRange
"""A rule's index, or a byte of a range."""
Alternative = tuple[Symbol, ...]

_EXACT_REPEATS = 256
_MOST_SYMBOLS = 100_000
_MOST_BYTES = 100_000  # of a text that is worth spelling
_LAST_OF_LENGTH = (
    0x7F,
    0x7FF,
    0xFFFF,
    0x10FFFF,
)  # the last code point that UTF-8 writes with 1, 2, 3, 4 bytes
_SURROGATES = (0xD800, 0xDFFF)  # code points that UTF-8 does not write
_PREFERRED = [*b"0a A_.-", *range(0x20, 0x100), *range(0x20)]


class UnsupportedGrammarError(Exception):
    """A grammar holds something that this lowering does not know, or is too large for it."""


class Vocabulary:
    """The tokens that may spell a text, by their bytes."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Take the bytes of each token id; tokens without bytes (control tokens) spell nothing."""
        self._ids: dict[bytes, int] = {}
        for token, text in enumerate(token_bytes):
            if text:
                self._ids.setdefault(text, token)
        self._longest = max(map(len, self._ids), default=0)

    def __contains__(self, text: bytes) -> bool:
        return text in self._ids

    def lengths(self, text: bytes, start: int) -> Iterator[int]:
        """Yield the length of each token that `text` continues with at `start`."""
        for length in range(1, min(self._longest, len(text) - start) + 1):
            if text[start : start + length] in self._ids:
                yield length

    def spell(self, text: bytes) -> list[int]:
        """Return the fewest tokens that spell `text`; raises UnsupportedGrammarError if none do."""
        cost: list[float] = [0.0] * (len(text) + 1)
        step = [0] * len(text)
        for start in range(len(text) - 1, -1, -1):
            options = ((1 + cost[start + length], -length) for length in self.lengths(text, start))
            cost[start], negative = min(options, default=(math.inf, 0))
            step[start] = -negative
        if math.isinf(cost[0]):
            raise UnsupportedGrammarError(f"no tokens spell {text!r}")
        ids, position = [], 0
        while position < len(text):
            ids.append(self._ids[text[position : position + step[position]]])
            position += step[position]
        return ids


def utf8_ranges(low: int, high: int) -> Iterator[tuple[ByteRange, ...]]:
    """Yield sequences of byte ranges that together write the code points `low` to `high` in UTF-8."""
    for last in _LAST_OF_LENGTH:
        if low <= min(high, last):
            yield from _same_length(low, min(high, last))
            low = last + 1


def _same_length(low: int, high: int) -> Iterator[tuple[ByteRange, ...]]:
    """Split a range whose code points take equally many bytes where a leading byte's followers differ."""
    if low <= _SURROGATES[1] and high >= _SURROGATES[0]:
        yield from utf8_ranges(low, _SURROGATES[0] - 1)
        yield from utf8_ranges(_SURROGATES[1] + 1, high)
        return
    for bits in (6, 12, 18):
        block = (1 << bits) - 1
        if (low & ~block) != (high & ~block):
            if low & block:
                yield from _same_length(low, low | block)
                yield from _same_length((low | block) + 1, high)
                return
            if (high & block) != block:
                yield from _same_length(low, (high & ~block) - 1)
                yield from _same_length(high & ~block, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _complement(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start = 0
    for low, high in sorted(ranges):
        if start < low:
            yield start, low - 1
        start = max(start, high + 1)
    if start <= _LAST_OF_LENGTH[-1]:
        yield start, _LAST_OF_LENGTH[-1]


class ClosingGrammar:
    """Byte-level rules with their costs. Immutable once built; any thread may use it."""

    root: int
    """The rule that the whole text matches."""
    rules: list[list[int]]
    """The alternatives of each rule, as indices into `alternatives`."""
    alternatives: list[Alternative]

    def __init__(self, serialized: str, vocabulary: Vocabulary) -> None:
        """Lower a grammar from `xgrammar.Grammar.serialize_json`.

        Raises:
            UnsupportedGrammarError: an expression is unknown, the grammar or its cheapest text is too large,
            or it has no finite text.
        """
        self.vocabulary = vocabulary
        form: dict[str, Any] = json.loads(serialized)
        self._data: list[int] = form["grammar_expr_data"]
        self._starts: list[int] = form["grammar_expr_indptr"]
        self.rules = [[] for _ in form["rules"]]
        self.alternatives = []
        self._size = 0
        for rule, (_, body, *_) in enumerate(form["rules"]):
            self._add_choices(rule, body)
        self.root = form["root_rule_id"]
        self.costs: list[list[float]] = [[math.inf] * len(a) + [0.0] for a in self.alternatives]
        """The tokens that the rest of each alternative takes, from each position on."""
        self._choice: list[int] = [-1] * len(self.rules)
        self._rule_cost: list[float] = [math.inf] * len(self.rules)
        self._relax()
        if math.isinf(self._rule_cost[self.root]):
            raise UnsupportedGrammarError("no finite text matches")
        self._lengths: dict[int, int] = {}
        if self._length(self.root) > _MOST_BYTES:
            raise UnsupportedGrammarError(f"the cheapest text has more than {_MOST_BYTES} bytes")

    # Lowering

    def _expression(self, index: int) -> tuple[int, list[int]]:
        """Return the kind and the operands of a serialized expression."""
        start = self._starts[index]
        return self._data[start], self._data[start + 2 : start + 2 + self._data[start + 1]]

    def _add_alternative(self, rule: int, symbols: Iterable[Symbol]) -> None:
        alternative = tuple(symbols)
        self._size += len(alternative) + 1
        if self._size > _MOST_SYMBOLS:
            raise UnsupportedGrammarError(f"the grammar has more than {_MOST_SYMBOLS} symbols")
        self.rules[rule].append(len(self.alternatives))
        self.alternatives.append(alternative)

    def _new_rule(self) -> int:
        self.rules.append([])
        return len(self.rules) - 1

    def _add_choices(self, rule: int, body: int) -> None:
        kind, operands = self._expression(body)
        for choice in operands if kind == 6 else [body]:
            self._add_alternative(rule, self._symbols(choice))

    def _symbols(self, index: int) -> Alternative:
        kind, operands = self._expression(index)
        match kind:
            case 0:  # bytes
                return tuple((byte, byte) for byte in operands)
            case 1 | 2:  # character class, or any number of its characters
                one = self._character(operands)
                return (one,) if kind == 1 else (self._repeated(one, 0),)
            case 3:  # the empty text
                return ()
            case 4:  # rule reference
                return (operands[0],)
            case 5:  # sequence
                return tuple(symbol for operand in operands for symbol in self._symbols(operand))
            case 8:  # repetition
                return self._repetition(*operands)
        raise UnsupportedGrammarError(f"grammar expressions of kind {kind} are unknown")

    def _character(self, operands: list[int]) -> int:
        negative, *ends = operands
        ranges: Iterable[tuple[int, int]] = zip(ends[::2], ends[1::2], strict=True)
        rule = self._new_rule()
        for low, high in _complement(ranges) if negative else ranges:
            for sequence in utf8_ranges(low, high):
                self._add_alternative(rule, sequence)
        return rule

    def _repeated(self, item: int, most: int) -> int:
        """Return a rule for up to `most` items; for any number if `most` is 0."""
        rule = self._new_rule()
        self._add_alternative(rule, ())
        if most == 0:
            self._add_alternative(rule, (item, rule))
            return rule
        for _ in range(most):
            previous, rule = rule, self._new_rule()
            self._add_alternative(rule, ())
            self._add_alternative(rule, (item, previous))
        return rule

    def _repetition(self, item: int, least: int, most: int) -> Alternative:
        """Lower `item{least, most}`.

        A long optional part is lowered as if it had no end: the matcher enforces the end, and the cheapest
        way to close never takes an optional item.
        """
        if least > _MOST_SYMBOLS:
            raise UnsupportedGrammarError(f"the grammar has more than {_MOST_SYMBOLS} symbols")
        fixed: Alternative = (item,) * least
        if most == least:
            return fixed
        optional = most - least if 0 <= most - least <= _EXACT_REPEATS else 0
        return (*fixed, self._repeated(item, optional))

    # Costs

    def _relax(self) -> None:
        """Lower the costs of rules until none changes."""
        changed = True
        while changed:
            changed = False
            for rule, alternatives in enumerate(self.rules):
                for index in alternatives:
                    cost = self._update(index)
                    if cost < self._rule_cost[rule]:
                        self._rule_cost[rule], self._choice[rule] = cost, index
                        changed = True

    def _update(self, index: int) -> float:
        """Recompute the costs of one alternative and return that of the whole."""
        symbols, costs = self.alternatives[index], self.costs[index]
        for position in range(len(symbols) - 1, -1, -1):
            symbol = symbols[position]
            if isinstance(symbol, int):
                costs[position] = self._rule_cost[symbol] + costs[position + 1]
            else:
                costs[position] = min(self._literal_costs(index, position), default=math.inf)
        return costs[0]

    def _literal_costs(self, index: int, position: int) -> Iterator[float]:
        """Yield the cost for each token that the cheapest bytes at `position` begin with."""
        text = self._runs[index].get(position)
        if text is None:
            end, symbols = position, self.alternatives[index]
            while end < len(symbols) and not isinstance(symbols[end], int):
                end += 1
            text = self._runs[index][position] = bytes(map(self._byte, symbols[position:end]))
        for length in self.vocabulary.lengths(text, 0):
            yield 1 + self.costs[index][position + length]

    @cached_property
    def _runs(self) -> list[dict[int, bytes]]:
        """The cheapest bytes from each position of each alternative to the next rule reference."""
        return [{} for _ in self.alternatives]

    def _byte(self, symbol: Symbol) -> int:
        """Choose a byte of a range: a plain character where there is one."""
        assert not isinstance(symbol, int)
        low, high = symbol
        allowed = (byte for byte in _PREFERRED if low <= byte <= high)
        return next((byte for byte in allowed if bytes([byte]) in self.vocabulary), low)

    def rest(self, index: int, position: int) -> bytes | None:
        """Return the cheapest text for the rest of an alternative; None if it is too long to be spelled."""
        long = self._rest_length(index, position) > _MOST_BYTES
        return None if long else self._rest(index, position)

    def _rest(self, index: int, position: int) -> bytes:
        symbols = self.alternatives[index][position:]
        parts = [self._text(s) if isinstance(s, int) else bytes([self._byte(s)]) for s in symbols]
        return b"".join(parts)

    def _text(self, rule: int) -> bytes:
        return self._rest(self._choice[rule], 0)

    def _rest_length(self, index: int, position: int) -> int:
        """Return the bytes of the cheapest text for the rest of an alternative."""
        symbols = self.alternatives[index][position:]
        return sum(self._length(symbol) if isinstance(symbol, int) else 1 for symbol in symbols)

    def _length(self, rule: int) -> int:
        if rule not in self._lengths:
            self._lengths[rule] = self._rest_length(self._choice[rule], 0)
        return self._lengths[rule]
