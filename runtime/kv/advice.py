"""What those who know the future say of a cached prefix."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Advice", "Dead", "Pin", "eviction_order"]


class Pin(NamedTuple):
    """It is expected to be used again."""

    expires: float  # when nobody expects that any more, on the caller's clock in seconds
    begins: float = 0.0  # before when nobody expects it yet; 0: at any time from now on

    def together(self, other: Pin) -> Pin:
        """What holds for a prefix of both."""
        return Pin(max(self.expires, other.expires), min(self.begins, other.begins))


class Dead(NamedTuple):
    """Nobody who is known takes it again."""

    head: int = 0  # tokens at its beginning of which that is not said, as others may begin alike


Advice = Pin | Dead | None
"""None: nothing is known."""

_RANKS: Final[dict[type, int]] = {Dead: 0, type(None): 1, Pin: 3}
_EARLY: Final = 2  # the rank of a pin that has not begun


def eviction_order(advice: Advice, used: float) -> tuple[int, float]:
    """What goes first: the dead, what nothing is known of, what is not expected yet, what is.

    Of what is not expected yet, the last to be expected goes first, as Bélády has it; of all else, what has
    been used least recently. Of the pinned, too, however soon their pins end: tools have heavy tails, and who
    has been away for longer than the others is likely to stay away for longer still.
    """
    if isinstance(advice, Pin) and advice.begins:
        return _EARLY, -advice.begins
    return _RANKS[type(advice)], used
