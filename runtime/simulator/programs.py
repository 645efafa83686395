"""Programs for the simulator: primitives as the scheduler sees them, and what they really take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from weft.runtime.scheduler.prefixes import Block
from weft.runtime.scheduler.primitive import Primitive

__all__ = ["Arrival", "Program", "Truth"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a primitive takes and gives, which the scheduler only learns when it is done."""

    writes: int = 0  # tokens of a decode
    options: float = 0.0  # tokens of the choices that are weighed
    ms: float = 0.0  # of a tool
    items: int = 1  # texts to embed, pairs to score, queries
    gives: Sequence[Block] = ()  # what its result adds to a prompt


class Increment(NamedTuple):
    """A part of a program: its nodes, and what they really take."""

    primitives: tuple[Primitive, ...]
    truths: Mapping[int, Truth]


@dataclass(frozen=True)
class Program:
    """One run of a program.

    `increments`: the part with which it begins (under None), and those that it adds as soon as the result of
    a node is known (under the node's id).
    """

    name: str
    increments: Mapping[int | None, Increment]
    namespace: str = ""
    priority: int = 0
    deadline_s: float | None = None  # after its beginning

    @property
    def grows(self) -> bool:
        """Whether it adds parts while it runs."""
        return len(self.increments) > 1


class Arrival(NamedTuple):
    """When a program is started."""

    time: float  # seconds
    program: Program
