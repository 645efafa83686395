"""Fragments: connected primitives that go to one worker in one message."""

from __future__ import annotations

from .state import LiveNode, Phase

__all__ = ["fragment"]


def fragment(root: LiveNode) -> list[LiveNode]:
    """A ready node and everything that continues its KV context and is not handed out yet.

    Each continuation goes along even if its other operands come later: the worker starts it when they do.
    """
    members = [root]
    for member in members:
        members += [
            follower
            for follower in root.run.continuations(member)
            if follower.phase is Phase.WAITING and follower.key == root.key
        ]
    return members
