"""How much of a journal is taken."""

from __future__ import annotations

import pytest

from weft.runtime.orchestrator.journal_room import Room
from weft.runtime.orchestrator.journal_store import (
    Begin,
    Change,
    Conclude,
    End,
    Forget,
    LastingRun,
    Left,
    Put,
    Submit,
)

RUN: list[Change] = [Submit("r", 1.0, bytes(100)), Put("r", b"key", bytes(200)), Begin("r", "x")]


def test_a_room_is_as_full_as_what_is_left_of_it() -> None:
    room = Room(Left([], {}))
    changes = [*RUN, Conclude("s", bytes(300))]
    growth = room.growth(changes)
    assert room.size == 0
    for change in changes:
        room.take([change])
    left = Left([LastingRun("r", 1.0, bytes(100), {b"key": bytes(200)}, frozenset("x"))], {"s": bytes(300)})
    assert growth == room.size == Room(left).size > 600


@pytest.mark.parametrize(
    "changes",
    [
        [*RUN, End("r")],
        [Put("r", b"key", b"of a run that is not there")],
        [End("r"), Conclude("r", b"done"), Forget("r")],
        [*RUN, End("r"), Put("r", b"key", b"too late")],
    ],
)
def test_what_is_not_kept_takes_nothing(changes: list[Change]) -> None:
    room = Room(Left([], {}))
    assert room.growth(changes) == 0
    room.take(changes)
    assert room.size == 0


def test_what_ends_makes_room() -> None:
    room = Room(Left([], {}))
    room.take(RUN)
    assert room.growth([End("r"), Conclude("r", bytes(10))]) < 0
    room.take([End("r")])
    assert room.size == 0
