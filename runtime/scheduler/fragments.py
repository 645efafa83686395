"""Fragments: connected primitives that go to one worker in one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .engines import EngineState
from .faults import repeatable
from .primitive import Role
from .state import WAITING, LiveNode

__all__ = ["Member", "begins_context", "fragment"]

Member = tuple[LiveNode, EngineState]
"""A primitive of a fragment, and the engine that runs it."""


def fragment(
    root: LiveNode,
    engine: EngineState,
    follows: Callable[[EngineState], bool],
    begins: Callable[[EngineState], bool],
) -> Iterator[Member]:
    """A primitive, and what can follow it on the same worker without hearing from anybody else.

    That is what takes nothing that is not known yet but results of the fragment itself. A language model's
    work follows on the context that it continues; of several continuations the first, and each further one
    while it `follows` the engine. A prompt that begins a context follows on a text of the same model where
    it `begins` on that engine before its turn. The caller hands out each member before it asks for the next.
    """
    yield root, engine
    members = [(root, engine)]
    inside = {root.number}
    for member, here in members:
        first = True
        for follower in member.consumers:
            if follower.phase is not WAITING or not _is_free(follower, inside):
                continue
            where = _engine(member, follower, here)
            if where is None:
                continue
            if begins_context(follower):
                if not begins(here):
                    continue
            elif where is here:
                if not (first or follows(here)):
                    continue
                first = False
            members.append((follower, where))
            inside.add(follower.number)
            yield follower, where


def begins_context(live: LiveNode) -> bool:
    """Whether a primitive reads a prompt of its own, rather than continuing what has been read."""
    return live.primitive.key.kind == "llm" and live.primitive.context is None


def _is_free(follower: LiveNode, inside: set[int]) -> bool:
    """Whether all that the follower still waits for is made inside."""
    if follower.waiting == 1:
        return True
    if follower.waiting > len(inside):
        return False  # without a look at each of what may be hundreds
    return sum(producer in inside for producer in follower.primitive.producers) == follower.waiting


def _engine(member: LiveNode, follower: LiveNode, engine: EngineState) -> EngineState | None:
    """Where the follower can run beside `member`; None: nowhere, or it should not.

    A tool that must not run twice goes along only behind another one, whose loss would end the run anyway:
    when a worker is lost, nobody can tell which tasks of a fragment have run.
    """
    primitive = follower.primitive
    if primitive.role is not Role.ENGINE:
        return None
    if primitive.key.kind == "llm":
        goes_on = primitive.context in (None, member.number)
        return engine if goes_on and follower.key == member.key else None
    if not repeatable(primitive.node) and repeatable(member.primitive.node):
        return None
    return engine.worker.engine(primitive.key)
