"""What those who know the future say of a cached prefix."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Advice", "Dead", "Pin", "eviction_order"]


class Pin(NamedTuple):
    """It is expected to be used again."""

    expires: float  # when nobody expects that any more, on the caller's clock in seconds


class Dead(NamedTuple):
    """Nobody who is known takes it again."""

    head: int = 0  # tokens at its beginning of which that is not said, as others may begin alike


Advice = Pin | Dead | None
"""None: nothing is known."""

_RANKS: Final[dict[type, int]] = {Dead: 0, type(None): 1, Pin: 2}


def eviction_order(advice: Advice, used: float) -> tuple[int, float]:
    """What goes first: the dead, then what nothing is known of, then the pinned; least recently used first.

    Among the pinned, too, it is the last use that counts, not when they are expected: tools have heavy tails,
    and who has been away for longer than the others is likely to stay away for longer still.
    """
    return _RANKS[type(advice)], used
