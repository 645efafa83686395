"""The directory of prefixes: which engines hold the KV of which beginnings of prompts, as far as is known.

Engines do not report what they evict. The directory reckons with it instead: what has not been used while an
engine wrote as many new tokens as its cache has room for, beside what it computes with, is taken for gone.
It is told what engines found in their caches, and mends itself where it was wrong; until then a wrong entry
costs time, never correctness.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .engines import EngineState
from .prefixes import Boundary

__all__ = ["NOWHERE", "Directory", "Found"]

_SAMPLE: Final = 4  # holders that are looked at; of many any few will do


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


class Directory:
    """Holders by prefix key; of more than `limit` prefixes those used last.

    Most prefixes have one holder, which then is all that is kept of them here, beside when it last used them:
    what so many entries would add, the garbage collector would look at again and again. When each of several
    holders did is kept together, since all of them are asked about at the same time.
    """

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._holders: OrderedDict[int, EngineState | _Several] = OrderedDict()
        self._used: dict[int, float] = {}  # by the only holder

    def __len__(self) -> int:
        return len(self._holders)

    def note(self, engine: EngineState, prefixes: Iterable[Boundary]) -> None:
        """An engine holds these prefixes, or will as soon as it has done what it was given."""
        holders, used, written = self._holders, self._used, engine.written
        for key, _ in prefixes:
            holder = holders.get(key)
            if holder is None:
                holders[key] = engine
                used[key] = written
                if len(holders) > self._limit:
                    self._forget_oldest()
                continue
            holders.move_to_end(key)
            if holder is engine:
                used[key] = written
            elif isinstance(holder, _Several):
                if engine not in holder.used:
                    holder.engines.append(engine)
                holder.used[engine] = written
            else:
                holders[key] = _Several({holder: used.pop(key), engine: written})

    def longest(self, prefixes: Sequence[Boundary]) -> Found:
        """The longest of a prompt's prefixes (shortest first) that anybody holds."""
        for key, tokens in reversed(prefixes):
            holder = self._holders.get(key)
            if isinstance(holder, _Several):
                some = self._sample(key, holder)
                if some:
                    return Found(tokens, some, key)
            elif holder is not None and holder.keeps(self._used[key]):
                return Found(tokens, [holder], key)
        return NOWHERE

    def held(self, engine: EngineState, prefixes: Sequence[Boundary]) -> float:
        """How many tokens of a prompt an engine holds."""
        for key, tokens in reversed(prefixes):
            used = self._used_by(engine, key)
            if used is not None and engine.keeps(used):
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
            if engine.keeps(used[engine]):
                found.append(engine)
                looked += 1
            else:
                self._drop(engine, key)
        holders.turn += looked
        return found

    def _used_by(self, engine: EngineState, key: int) -> float | None:
        holder = self._holders.get(key)
        if holder is engine:
            return self._used[key]
        return holder.used.get(engine) if isinstance(holder, _Several) else None

    def _drop(self, engine: EngineState, key: int) -> None:
        holder = self._holders[key]
        if isinstance(holder, _Several):
            holder.engines.remove(engine)
            del holder.used[engine]
            if holder.engines:
                return
        else:
            del self._used[key]
        del self._holders[key]

    def _forget_oldest(self) -> None:
        key, holder = self._holders.popitem(last=False)
        if not isinstance(holder, _Several):
            del self._used[key]
