"""The directory of prefixes: which engines hold the KV of which beginnings of prompts, as far as is known.

Engines do not report what they evict. The directory reckons with it instead: what has not been used while an
engine wrote as many new tokens as its cache has room for, beside what it computes with, is taken for gone.
It is told what engines found in their caches, and mends itself where it was wrong; until then a wrong entry
costs time, never correctness.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from .engines import EngineState
from .prefixes import Boundary

__all__ = ["NOWHERE", "Directory", "Found"]

_SAMPLE: Final = 4  # holders that are looked at; of many any few will do
_PART: Final = 64  # one in so many prefixes is forgotten before it must be, so that it happens seldom


class Found(NamedTuple):
    """The longest prefix of a prompt that is known to be held anywhere, and some of its holders."""

    tokens: float
    holders: Sequence[EngineState]
    key: int = 0


NOWHERE: Final = Found(0.0, ())


class _Several:
    """More than one holder of a prefix."""

    __slots__ = ("engines", "turn", "used")

    def __init__(self, used: dict[EngineState, float]) -> None:
        self.used = used  # when, in the tokens that each had written
        self.engines = list(used)
        self.turn = 0  # of the holder that is looked at first next time

    def note(self, engine: EngineState, written: float) -> None:
        """An engine uses the prefix."""
        if engine not in self.used:
            self.engines.append(engine)
        self.used[engine] = written


_Holder = tuple[EngineState, float] | _Several
"""Of a prefix: the only engine, and when it last used it, in the tokens that it had written."""


class Directory:
    """Holders by prefix key; of more than `limit` prefixes those used last.

    Most prefixes have one holder, and all that an engine notes at once are used at the same time: so that one
    tuple is all there is of them beside their keys. What so many entries would add to it, the garbage
    collector would look at again and again. When each of several holders used a prefix is kept together,
    since all of them are asked about at the same time.
    """

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._holders: dict[int, _Holder] = {}  # those noted last come last

    def __len__(self) -> int:
        return len(self._holders)

    def note(self, engine: EngineState, prefixes: Iterable[Boundary]) -> None:
        """An engine holds these prefixes, or will as soon as it has done what it was given."""
        holders, only = self._holders, (engine, engine.written)
        for key, _ in prefixes:
            holder = holders.pop(key, None)
            if isinstance(holder, _Several):
                holder.note(*only)
                holders[key] = holder
            elif holder is None or holder[0] is engine:
                holders[key] = only
            else:
                holders[key] = _Several(dict([holder, only]))
        excess = len(holders) - self._limit
        if excess > 0:
            for key in list(islice(holders, excess + self._limit // _PART)):
                del holders[key]

    def longest(self, prefixes: Sequence[Boundary]) -> Found:
        """The longest of a prompt's prefixes (shortest first) that anybody holds."""
        for key, tokens in reversed(prefixes):
            holder = self._holders.get(key)
            if isinstance(holder, _Several):
                some = self._sample(key, holder)
                if some:
                    return Found(tokens, some, key)
            elif holder is not None and holder[0].keeps(key, holder[1]):
                return Found(tokens, [holder[0]], key)
        return NOWHERE

    def held(self, engine: EngineState, prefixes: Sequence[Boundary]) -> float:
        """How many tokens of a prompt an engine holds."""
        for key, tokens in reversed(prefixes):
            used = self._used_by(engine, key)
            if used is not None and engine.keeps(key, used):
                return tokens
        return 0.0

    def missed(self, engine: EngineState, prefixes: Iterable[Boundary], cached: float) -> None:
        """An engine was found to hold only `cached` tokens of a prompt."""
        for key, tokens in prefixes:
            if tokens > cached and self._used_by(engine, key) is not None:
                self._drop(engine, key)

    def _sample(self, key: int, holders: _Several) -> list[EngineState]:
        """Some that hold a prefix still; those that do not are forgotten on the way."""
        found: list[EngineState] = []
        engines, used = holders.engines, holders.used
        looked = 0
        while looked < len(engines) and len(found) < _SAMPLE:
            engine = engines[(holders.turn + looked) % len(engines)]
            if engine.keeps(key, used[engine]):
                found.append(engine)
                looked += 1
            else:
                self._drop(engine, key)
        holders.turn += looked
        return found

    def _used_by(self, engine: EngineState, key: int) -> float | None:
        holder = self._holders.get(key)
        if isinstance(holder, _Several):
            return holder.used.get(engine)
        return holder[1] if holder is not None and holder[0] is engine else None

    def _drop(self, engine: EngineState, key: int) -> None:
        holder = self._holders[key]
        if isinstance(holder, _Several):
            holder.engines.remove(engine)
            del holder.used[engine]
            if holder.engines:
                return
        del self._holders[key]
