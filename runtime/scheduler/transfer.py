"""Transfer policies: whether an engine gets KV that another one holds, or computes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from .charges import even
from .directory import Found
from .engines import EngineState
from .events import Usage
from .prefixes import Boundary

__all__ = ["TRANSFER", "Cheaper", "Move", "Never", "Transfer"]

_LEAST: Final = 64  # tokens: for fewer no worker asks
_FIXED_MS: Final = 5.0  # of asking and being answered, until that has been seen
_SLOWER: Final = 0.1  # of how much longer a move took than expected is learned,
_FASTER: Final = 0.4  # and of how much less
_FORGETTING: Final = 0.005  # of what was seen, whenever nothing moves because of it
_WORTHWHILE: Final = 0.8  # of the time that computing takes, as both are estimates


class Move(NamedTuple):
    """KV that an engine is to get from another one; `ms` and `sending_ms` are `even`."""

    source: EngineState
    prefixes: Sequence[Boundary]  # of the prompt
    tokens: float  # that it will hold then
    fetched: float  # that it gets
    ms: float  # until it has them
    sending_ms: float  # of that, the source's
    patience_ms: float  # for the source; 0: it should have them all


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
    """What is expected to take less time, by the engine's profile and what transfers took so far."""

    def __init__(self, bytes_per_ms: float) -> None:
        """`bytes_per_ms`: the speed that is expected before any transfer has been seen."""
        self._expected = self._terms = (_FIXED_MS, 1.0 / bytes_per_ms)  # of asking, and of each byte

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
        waits = [_wait_ms(holder, found.key) for holder in holders]
        wait = min(waits)
        source = holders[waits.index(wait)]
        asking_ms, byte_ms = self._terms
        sending_ms = fetched * spec.kv_token_bytes * byte_ms
        ms = asking_ms + sending_ms
        computing_ms = engine.prefill_cost(cached, fetched)
        if ms > _WORTHWHILE * computing_ms:
            self._forget()
            return None
        patience_ms = wait + computing_ms if found.key in source.underway else 0.0
        return Move(source, prefixes, found.tokens, fetched, even(wait + ms), even(sending_ms), patience_ms)

    def seen(self, move: Move, usage: Usage) -> None:
        """Learn what it took, each term by its share of what was expected: of short moves that of asking.

        By factors, so that one move among many that took ten times as long does not outweigh them.
        """
        if not (usage.fetched and usage.fetch_ms > 0):
            return
        asking_ms, byte_ms = self._terms
        ms = asking_ms + usage.fetched * move.source.spec.kv_token_bytes * byte_ms
        wrong, share = usage.fetch_ms / ms, asking_ms / ms
        rate = _SLOWER if wrong > 1 else _FASTER
        self._terms = (
            asking_ms * wrong ** (rate * share),
            byte_ms * wrong ** (rate * (1.0 - share)),
        )

    def _forget(self) -> None:
        """What makes moves look slow is forgotten in time, as then nothing else is seen."""
        asking_ms, byte_ms = self._terms
        expected_asking_ms, expected_byte_ms = self._expected
        self._terms = (
            asking_ms * (expected_asking_ms / asking_ms) ** _FORGETTING,
            byte_ms * (expected_byte_ms / byte_ms) ** _FORGETTING,
        )


def _wait_ms(holder: EngineState, key: int) -> float:
    """Until a holder can send a prefix: it may be reading or getting it, and sending something else."""
    ms = holder.lending_ms
    return ms + holder.arriving_ms + holder.prefill_ms if key in holder.underway else ms


TRANSFER: Final[Mapping[str, Callable[[float], Transfer]]] = {"never": Never, "cheaper": Cheaper}
