"""Transfer policies: whether an engine gets KV that another one holds, or computes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from .directory import Found
from .engines import EngineState
from .events import Usage
from .prefixes import Boundary

__all__ = ["TRANSFER", "Cheaper", "Move", "Never", "Transfer"]

_LEAST: Final = 128  # tokens: fewer are computed again
_FIXED_MS: Final = 5.0  # of asking and being answered
_LEARNING_RATE: Final = 0.2
_FORGETTING: Final = 0.005  # of what was seen, whenever nothing moves because of it
_WORTHWHILE: Final = 0.8  # of the time that computing takes, as both are estimates


class Move(NamedTuple):
    """KV that an engine is to get from another one."""

    source: EngineState
    prefixes: Sequence[Boundary]  # of the prompt
    tokens: float  # that it will hold then
    fetched: float  # that it gets
    ms: float  # until it has them
    patience_ms: float  # for the source, if it is still reading them itself


class Transfer(Protocol):
    """The choice between getting and computing."""

    def plan(
        self, found: Found, prefixes: Sequence[Boundary], engine: EngineState, cached: float
    ) -> Move | None:
        """How `engine`, which holds `cached` tokens of a prompt, gets more of it; None: it computes."""
        ...

    def seen(self, move: Move, usage: Usage) -> None:
        """A move has been made."""
        ...


class Never:
    """Everybody computes what he lacks."""

    def __init__(self, bytes_per_ms: float) -> None:
        pass

    def plan(
        self, found: Found, prefixes: Sequence[Boundary], engine: EngineState, cached: float
    ) -> Move | None:
        """Nothing moves."""
        return None

    def seen(self, move: Move, usage: Usage) -> None:
        """Nothing does."""


class Cheaper:
    """What is expected to take less time, by the engine's profile and the speed of transfers so far."""

    def __init__(self, bytes_per_ms: float) -> None:
        """`bytes_per_ms`: the speed that is expected before any transfer has been seen."""
        self._expected = self._bytes_per_ms = bytes_per_ms

    def plan(
        self, found: Found, prefixes: Sequence[Boundary], engine: EngineState, cached: float
    ) -> Move | None:
        """From the holder that has them first, if getting them takes less than computing them.

        Waiting for a holder that is still reading is part of the price of a place, but no reason to compute:
        computing what somebody is about to have computed gains little and takes the time of others.
        """
        spec = engine.spec
        fetched = found.tokens - cached
        if not spec.kv_layout or fetched < _LEAST:
            return None
        holders = [
            holder
            for holder in found.holders
            if holder.spec.kv_layout == spec.kv_layout and holder.worker is not engine.worker
        ]
        if not holders:
            return None
        waits = [holder.prefill_ms if found.key in holder.underway else 0.0 for holder in holders]
        wait = min(waits)
        source = holders[waits.index(wait)]
        ms = _FIXED_MS + fetched * spec.kv_token_bytes / self._bytes_per_ms
        computing_ms = engine.prefill_cost(cached, fetched)
        if ms > _WORTHWHILE * computing_ms:
            self._approach(self._expected, _FORGETTING)
            return None
        return Move(source, prefixes, found.tokens, fetched, wait + ms, wait + computing_ms)

    def seen(self, move: Move, usage: Usage) -> None:
        """Learn the speed. What makes it look slow is forgotten in time, as then nothing else is seen."""
        ms = usage.fetch_ms - _FIXED_MS
        if usage.fetched >= _LEAST and ms > 0:
            speed = usage.fetched * move.source.spec.kv_token_bytes / ms
            self._approach(speed, _LEARNING_RATE)

    def _approach(self, bytes_per_ms: float, rate: float) -> None:
        self._bytes_per_ms += rate * (bytes_per_ms - self._bytes_per_ms)


TRANSFER: Final[Mapping[str, Callable[[float], Transfer]]] = {"never": Never, "cheaper": Cheaper}
