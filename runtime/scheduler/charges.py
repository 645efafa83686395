"""What an engine reckons with on account of a task: its time, and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .prefixes import Boundary

if TYPE_CHECKING:
    from .transfer import Move

__all__ = ["Charge", "Claim", "even"]

_STEPPED: Final = 1.5 * 2.0**32  # a number next to which floats are a millionth (2**-20) apart


def even(amount: float) -> float:
    """An amount rounded to a millionth, so that sums are exact: what is taken away again leaves nothing.

    Engines that do nothing are thus alike to the bit, and the first of them is chosen.
    """
    return amount + _STEPPED - _STEPPED


@dataclass(slots=True)
class Charge:
    """What an engine reckons with on account of a task, in `even` amounts."""

    load_ms: float  # of its time; of a language model, what the task adds to what it does anyway
    prefill_ms: float = 0.0  # of that, reading
    writes: float = 0.0  # tokens to write
    context: float = 0.0  # tokens in the context of what is written
    urgent: bool = False  # whether somebody waits for what is written
    underway: Sequence[int] = ()  # the prefixes that it makes the engine hold, until they are read
    move: Move | None = None  # of KV that comes before they are read


@dataclass(eq=False, slots=True)
class Claim:
    """The KV of a task's context: what it adds to that of another task, if it continues that there."""

    begin: float  # tokens of the context that it continues
    prefixes: Sequence[Boundary]  # beyond that, shortest first: others may begin with them, too
    own: int  # tokens beyond the last
    continues: Claim | None
    grows: bool  # whether its run does
    users: int = 1  # the task, and claims that continue this
