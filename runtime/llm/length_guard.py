"""Knows at each point of a constrained text how few tokens can still complete it.

A nondeterministic pushdown automaton walks the text byte by byte beside the grammar matcher. Its stacks are
linked frames, each a position in an alternative; a reference in last position leaves no frame behind, so
that the stacks of right-recursive rules stay flat. The cost of a stack is the sum of its frames' costs,
hence exact up to tokens that could reach across two symbols, and the cheapest completion can be read off the
frames.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from .closing_grammar import ClosingGrammar, UnsupportedGrammarError
from .json_grammar import GrammarError

__all__ = ["AMBIGUOUS", "LengthGuard", "SharedGuard", "State"]

_MOST_FRAMES = 4096  # of one state
_MOST_READINGS = 512  # of one frame: those at the same place of the grammar that it stands for
_MOST_KEPT = 50_000

AMBIGUOUS: Final = (
    "the grammar can be read in too many ways to be enforced; repeat what takes longer, as in "
    "[a-z]{0,100} instead of ([a-z]?){100}, and let alternatives begin differently"
)


class _Frame:
    """What remains of an alternative, then of those that wait for it."""

    __slots__ = ("alternative", "cost", "parent", "position")

    def __init__(self, alternative: int, position: int, parent: _Frame | None, cost: float) -> None:
        self.alternative = alternative
        self.position = position
        self.parent = parent
        self.cost = cost  # tokens


class State:
    """All ways in which the text so far may go on."""

    __slots__ = ("complete", "cost", "frames", "next")

    def __init__(self, frames: tuple[_Frame, ...], complete: bool) -> None:
        self.frames = frames
        self.complete = complete
        """Whether the text may end here."""
        self.cost = 0.0 if complete else min((frame.cost for frame in frames), default=math.inf)
        """At most this many tokens complete the text; infinite if none do."""
        self.next: dict[int, State] = {}

    @property
    def closed(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        return self.complete and not self.frames


class LengthGuard:
    """The automaton of one grammar, built as texts explore it. Any thread may use it."""

    def __init__(self, grammar: ClosingGrammar) -> None:
        """Begin at the empty text. Raises as `advance`, also for left-recursive grammars."""
        self._grammar = grammar
        self._frames: dict[tuple[int, int, int], _Frame] = {}
        self._states: dict[tuple[frozenset[int], bool], State] = {}
        self.start = self._state(self._referenced(grammar.root, None))

    def __len__(self) -> int:
        """Return how much has been built: frames and states."""
        return len(self._frames) + len(self._states)

    def advance(self, state: State, text: bytes) -> State:
        """Return the state after `text`; its cost is infinite if the grammar does not allow it.

        Raises:
            GrammarError: there are too many ways to read the text.
            UnsupportedGrammarError: there are too many ways to go on.
        """
        for byte in text:
            found = state.next.get(byte)
            if found is None:
                found = state.next[byte] = self._step(state, byte)
            state = found
        return state

    def closing(self, state: State) -> list[int] | None:
        """Return the tokens of the cheapest way to complete the text from `state`.

        None if there is none, or it is too long to be spelled.
        """
        if state.complete or math.isinf(state.cost):
            return [] if state.complete else None
        frame: _Frame | None = min(state.frames, key=lambda frame: frame.cost)
        text = b""
        while frame is not None:
            rest = self._grammar.rest(frame.alternative, frame.position)
            if rest is None:
                return None
            text += rest
            frame = frame.parent
        return self._grammar.vocabulary.spell(text)

    def _step(self, state: State, byte: int) -> State:
        reached: list[_Frame | None] = []
        for frame in state.frames:
            symbol = self._grammar.alternatives[frame.alternative][frame.position]
            assert not isinstance(symbol, int)
            if symbol[0] <= byte <= symbol[1]:
                reached.append(self._frame(frame.alternative, frame.position + 1, frame.parent))
        return self._state(reached)

    def _frame(self, alternative: int, position: int, parent: _Frame | None) -> _Frame | None:
        """Return the one frame with these values; its parent if nothing remains of the alternative."""
        costs = self._grammar.costs[alternative]
        if position == len(costs) - 1:
            return parent
        key = (alternative, position, id(parent))
        found = self._frames.get(key)
        if found is None:
            cost = costs[position] + (parent.cost if parent else 0.0)
            found = self._frames.setdefault(key, _Frame(alternative, position, parent, cost))
        return found

    def _referenced(self, rule: int, parent: _Frame | None) -> list[_Frame | None]:
        return [self._frame(alternative, 0, parent) for alternative in self._grammar.rules[rule]]

    def _state(self, pending: list[_Frame | None]) -> State:
        """Follow rule references until every frame expects a byte."""
        seen: set[int] = set()
        frames: list[_Frame] = []
        complete = False
        for first in pending:
            before, followed = len(frames), [first]
            while followed and len(seen) <= _MOST_FRAMES:
                frame = followed.pop()
                if frame is None:
                    complete = True
                elif id(frame) not in seen:
                    seen.add(id(frame))
                    followed += self._expand(frame, frames)
            if len(frames) - before > _MOST_READINGS:
                _expect_few_readings(frames[before:])
            if len(seen) > _MOST_FRAMES:
                raise UnsupportedGrammarError("the grammar is left-recursive or goes on in too many ways")
        key = (frozenset(map(id, frames)), complete)
        return self._states.setdefault(key, State(tuple(frames), complete))

    def _expand(self, frame: _Frame, frames: list[_Frame]) -> list[_Frame | None]:
        """Add a frame that expects a byte to `frames`; return what one with a rule reference stands for."""
        symbol = self._grammar.alternatives[frame.alternative][frame.position]
        if isinstance(symbol, int):
            return self._referenced(symbol, self._frame(frame.alternative, frame.position + 1, frame.parent))
        frames.append(frame)
        return []


def _expect_few_readings(frames: list[_Frame]) -> None:
    """Refuse what one frame stands for if that is many times the same place of the grammar."""
    readings = Counter((frame.alternative, frame.position) for frame in frames)
    if max(readings.values()) > _MOST_READINGS:
        raise GrammarError(AMBIGUOUS)


class SharedGuard:
    """Lets the texts of one grammar share an automaton, replaced when it has grown large."""

    min_tokens: int
    """The fewest tokens that a text of the grammar takes, as far as the guard finds; at least 1."""

    def __init__(self, grammar: ClosingGrammar) -> None:
        """Build the first automaton. Raises as `LengthGuard`."""
        self._grammar = grammar
        self._guard = LengthGuard(grammar)
        self.min_tokens = max(1, len(self._guard.closing(self._guard.start) or ()))

    def current(self) -> LengthGuard:
        """Return the automaton for a new text."""
        if len(self._guard) > _MOST_KEPT:
            self._guard = LengthGuard(self._grammar)
        return self._guard
