"""Schedulers that know less than weft's: its own policies, chosen so that nothing of a program is used."""

from __future__ import annotations

from typing import Final

from weft.runtime.scheduler.policies import Policies

__all__ = ["NO_KNOWLEDGE", "SESSIONS"]

NO_KNOWLEDGE: Final = Policies(
    batching="fifo",
    priority="arrival",
    fairness="none",
    placement="least_loaded",
    admission="everybody",
    transfer="never",
    advice="none",
)
"""(a): every call on its own, first come first served, to the worker with the fewest calls."""

SESSIONS: Final = Policies(
    batching="fifo",
    priority="arrival",
    fairness="none",
    placement="sticky",
    admission="everybody",
    transfer="never",
    advice="none",
)
"""(b), the strongest thing without a graph: a session stays on its worker unless that has twice the mean
load, and programs are served in the order in which they came."""
