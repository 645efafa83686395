"""The nodes of the radix tree, and what may become of one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .advice import Advice, Dead, Pin

__all__ = ["HostSlots", "Node", "Tokens", "may_be_forgotten", "may_die", "may_leave_device", "on_both"]

Tokens = NDArray[np.int64]
"""Token ids or slot indices: a one-dimensional int64 array."""


class HostSlots(Protocol):
    """Whoever hands out slots of the host's memory."""

    @property
    def total(self) -> int:
        """How many there are."""

    @property
    def free(self) -> int:
        """How many may be allocated."""

    def allocate(self, count: int) -> Tokens:
        """Take so many; `MemoryError` if fewer are free."""

    def release(self, slots: Tokens) -> None:
        """Give back slots."""


class Node:
    """One edge of the tree together with the node it leads to; callers hold it only to lock and unlock it."""

    __slots__ = ("advice", "children", "host", "locks", "parent", "resident", "slots", "tokens", "used")

    def __init__(self, tokens: Tokens, slots: Tokens | None, parent: Node | None, used: float) -> None:
        self.tokens = tokens
        self.slots = slots  # None: not on the device
        self.host: Tokens | None = None  # slots of the host; None: not there
        self.parent = parent  # None: a root, or a node that has been evicted
        self.used = used
        self.advice: Advice = None
        self.children: dict[int, Node] = {}
        self.resident = 0  # children on the device
        self.locks = 0


def may_die(node: Node) -> bool:
    """Whether nobody is known to have a use for a node, nor for anything below it."""
    living = (child for child in node.children.values() if not isinstance(child.advice, Dead))
    return not (node.locks or isinstance(node.advice, Pin) or any(living))


def may_leave_device(node: Node) -> bool:
    """Whether a node can be evicted now."""
    return not (node.slots is None or node.resident or node.locks or node.parent is None)


def on_both(node: Node) -> bool:
    """Whether the host has a copy of what the device holds, too."""
    return not (node.slots is None or node.host is None or node.parent is None)


def may_be_forgotten(node: Node) -> bool:
    """Whether a node is on the host alone, and can go."""
    on_host_alone = node.host is not None and node.slots is None
    return on_host_alone and not (node.children or node.locks or node.parent is None)
