"""The host's side of the KV pool, as the bookkeeping sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .radix import Node, Tokens

__all__ = ["Arrival", "HostTier", "Restore"]


class Arrival(Protocol):
    """KV on its way from the host to the device."""

    def done(self) -> bool:
        """Whether it is there."""

    def await_on_device(self) -> None:
        """Let the device begin nothing further before it is there; the caller does not wait."""


class HostTier(Protocol):
    """Memory of the host, and whoever copies between it and the device."""

    @property
    def slots(self) -> int:
        """How many tokens it has room for."""

    def save(self, slots: Tokens, host: Tokens) -> None:
        """Copy KV from the device; what is begun later may overwrite `slots`."""

    def load(self, host: Tokens, slots: Tokens) -> Arrival:
        """Copy KV to the device; what is saved later may overwrite `host`."""

    def load_ms(self, count: int) -> float:
        """How long loading so many tokens takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Restore:
    """A prefix of which a part is on its way to the device; it holds slots like a running request."""

    namespace: str
    tokens: Tokens
    slots: Tokens  # of all the tokens; the first `shared` belong to the tree
    shared: int
    node: Node  # where those end, locked
    arrival: Arrival
    ahead: bool = False  # of its use
