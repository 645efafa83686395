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


class _Entry:
    """Who holds a prefix."""

    __slots__ = ("holders", "stamps", "turn")

    def __init__(self) -> None:
        self.holders: list[EngineState] = []
        self.stamps: dict[EngineState, float] = {}  # what each had written when it last used the prefix
        self.turn = 0  # of the holder that is looked at first next time


class Directory:
    """Holders by prefix key; of more than `limit` prefixes those used last."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, engine: EngineState, prefixes: Iterable[Boundary]) -> None:
        """An engine holds these prefixes, or will as soon as it has done what it was given."""
        entries = self._entries
        for key, _ in prefixes:
            entry = entries.get(key)
            if entry is None:
                entry = entries[key] = _Entry()
                if len(entries) > self._limit:
                    entries.popitem(last=False)
            else:
                entries.move_to_end(key)
            if engine not in entry.stamps:
                entry.holders.append(engine)
            entry.stamps[engine] = engine.written

    def longest(self, prefixes: Sequence[Boundary]) -> Found:
        """The longest of a prompt's prefixes (shortest first) that anybody holds."""
        for key, tokens in reversed(prefixes):
            entry = self._entries.get(key)
            if entry is not None:
                holders = self._sample(entry)
                if holders:
                    return Found(tokens, holders, key)
        return NOWHERE

    def held(self, engine: EngineState, prefixes: Sequence[Boundary]) -> float:
        """How many tokens of a prompt an engine holds."""
        for key, tokens in reversed(prefixes):
            entry = self._entries.get(key)
            if entry is not None and _present(entry, engine):
                return tokens
        return 0.0

    def missed(self, engine: EngineState, prefixes: Iterable[Boundary], cached: float) -> None:
        """An engine was found to hold only `cached` tokens of a prompt."""
        for key, tokens in prefixes:
            entry = self._entries.get(key)
            if tokens > cached and entry is not None and engine in entry.stamps:
                _drop(entry, engine)

    def _sample(self, entry: _Entry) -> list[EngineState]:
        """Some that hold it still; those that do not are forgotten on the way."""
        found: list[EngineState] = []
        looked = 0
        while looked < len(entry.holders) and len(found) < _SAMPLE:
            engine = entry.holders[(entry.turn + looked) % len(entry.holders)]
            if _present(entry, engine):
                found.append(engine)
                looked += 1
            else:
                _drop(entry, engine)
        entry.turn += looked
        return found


def _present(entry: _Entry, engine: EngineState) -> bool:
    stamp = entry.stamps.get(engine)
    if stamp is None or not engine.worker.alive:
        return False
    slots = engine.spec.kv_slots
    # The one sum has shared tokens once for each that shares them, the other what may be evicted meanwhile.
    locked = min(engine.context_tokens, engine.kv)
    return not slots or engine.written - stamp <= _USABLE * slots - locked


def _drop(entry: _Entry, engine: EngineState) -> None:
    if engine in entry.stamps:
        del entry.stamps[engine]
        entry.holders.remove(engine)
