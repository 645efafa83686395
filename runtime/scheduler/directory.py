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
_USABLE: Final = 0.9  # of the slots of an engine, for what is not being computed with


class Found(NamedTuple):
    """The longest prefix of a prompt that is known to be held anywhere, and some of its holders."""

    tokens: float
    holders: Sequence[EngineState]
    key: int = 0


NOWHERE: Final = Found(0.0, ())


class _One:
    """The only holder of a prefix, as of most."""

    __slots__ = ("engine", "stamp")

    def __init__(self, engine: EngineState) -> None:
        self.engine = engine
        self.stamp = engine.written  # when it last used the prefix

    def sample(self) -> Sequence[EngineState]:
        """The holder, if it holds it still."""
        return [self.engine] if _present(self.engine, self.stamp) else []

    def stamp_of(self, engine: EngineState) -> float | None:
        """What an engine had written when it last used the prefix."""
        return self.stamp if engine is self.engine else None


class _Several:
    """Those who hold a prefix."""

    __slots__ = ("holders", "stamps", "turn")

    def __init__(self, first: _One) -> None:
        self.holders = [first.engine]
        self.stamps = {first.engine: first.stamp}
        self.turn = 0  # of the holder that is looked at first next time

    def note(self, engine: EngineState) -> None:
        """It uses the prefix."""
        if engine not in self.stamps:
            self.holders.append(engine)
        self.stamps[engine] = engine.written

    def drop(self, engine: EngineState) -> None:
        """It does not hold it."""
        if engine in self.stamps:
            del self.stamps[engine]
            self.holders.remove(engine)

    def sample(self) -> Sequence[EngineState]:
        """Some that hold it still; those that do not are forgotten on the way."""
        found: list[EngineState] = []
        holders, stamps = self.holders, self.stamps
        looked = 0
        while looked < len(holders) and len(found) < _SAMPLE:
            engine = holders[(self.turn + looked) % len(holders)]
            if _present(engine, stamps[engine]):
                found.append(engine)
                looked += 1
            else:
                self.drop(engine)
        self.turn += looked
        return found

    def stamp_of(self, engine: EngineState) -> float | None:
        """What an engine had written when it last used the prefix."""
        return self.stamps.get(engine)


class Directory:
    """Holders by prefix key; of more than `limit` prefixes those used last."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, _One | _Several] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, engine: EngineState, prefixes: Iterable[Boundary]) -> None:
        """An engine holds these prefixes, or will as soon as it has done what it was given."""
        entries = self._entries
        for key, _ in prefixes:
            entry = entries.get(key)
            if entry is None:
                entries[key] = _One(engine)
                if len(entries) > self._limit:
                    entries.popitem(last=False)
                continue
            entries.move_to_end(key)
            if isinstance(entry, _Several):
                entry.note(engine)
            elif entry.engine is engine:
                entry.stamp = engine.written
            else:
                several = entries[key] = _Several(entry)
                several.note(engine)

    def longest(self, prefixes: Sequence[Boundary]) -> Found:
        """The longest of a prompt's prefixes (shortest first) that anybody holds."""
        for key, tokens in reversed(prefixes):
            entry = self._entries.get(key)
            if entry is not None:
                holders = entry.sample()
                if holders:
                    return Found(tokens, holders, key)
        return NOWHERE

    def held(self, engine: EngineState, prefixes: Sequence[Boundary]) -> float:
        """How many tokens of a prompt an engine holds."""
        for key, tokens in reversed(prefixes):
            entry = self._entries.get(key)
            if entry is not None:
                stamp = entry.stamp_of(engine)
                if stamp is not None and _present(engine, stamp):
                    return tokens
        return 0.0

    def missed(self, engine: EngineState, prefixes: Iterable[Boundary], cached: float) -> None:
        """An engine was found to hold only `cached` tokens of a prompt."""
        for key, tokens in prefixes:
            entry = self._entries.get(key) if tokens > cached else None
            if isinstance(entry, _Several):
                entry.drop(engine)
            elif entry is not None and entry.engine is engine:
                del self._entries[key]


def _present(engine: EngineState, stamp: float) -> bool:
    """Whether an engine still holds what it last used when it had written `stamp` tokens."""
    if not engine.worker.alive:
        return False
    slots = engine.spec.kv_slots
    # The one sum has shared tokens once for each that shares them, the other what may be evicted meanwhile.
    locked = min(engine.context_tokens, engine.kv)
    return not slots or engine.written - stamp <= _USABLE * slots - locked
