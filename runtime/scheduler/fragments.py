"""Fragments: connected primitives that go to one worker in one message."""

from __future__ import annotations

from collections.abc import Iterable

from weft.graph.ops.common import Tool

from .faults import repeatable
from .state import LiveNode, Phase, WorkerState

__all__ = ["fragment"]


def fragment(root: LiveNode, worker: WorkerState) -> list[LiveNode]:
    """A ready node and what follows it on the worker without anybody's help.

    That is everything that continues its KV context and is not handed out yet, even if its other operands
    come later: the worker starts it when they do. Or it is a chain of tools, each the only one that waits for
    the one before and waiting for nothing else.
    """
    members = [root]
    for member in members:
        members += _continuations(member, root)
        members += _next_tool(member, worker)
    return members


def _continuations(member: LiveNode, root: LiveNode) -> Iterable[LiveNode]:
    return [
        follower
        for follower in root.run.continuations(member)
        if follower.phase is Phase.WAITING and follower.key == root.key
    ]


def _next_tool(member: LiveNode, worker: WorkerState) -> Iterable[LiveNode]:
    """A tool that must not run twice goes along only behind another one, whose loss would end the run anyway:

    when a worker is lost, nobody can tell which tasks of a fragment have run.
    """
    consumers = member.run.consumers(member)
    if len(consumers) != 1:
        return ()
    (follower,) = consumers
    op = follower.node.op
    if not (isinstance(op, Tool) and op.where == "server" and worker.engine(follower.key)):
        return ()
    if not repeatable(follower.node) and repeatable(member.node):
        return ()
    return consumers if follower.phase is Phase.WAITING and follower.waiting == 1 else ()
