"""What every operation states about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from ..errors import OperandError
from ..types import Type

__all__ = ["Dialect", "EngineKind", "Op", "expect", "expect_operands"]

EngineKind = Literal["host", "control", "llm", "embed", "index", "rerank", "tool"]
"""Who runs an operation: the orchestrator itself (host, control) or an engine of a worker."""

Dialect = Literal["user", "primitive", "both"]
"""Whether users write it, workers run it, or both."""


@dataclass(frozen=True, slots=True)
class Op:
    """An operation: its attributes are the fields of the dataclass, its operands belong to the node."""

    kind: ClassVar[EngineKind] = "host"
    dialect: ClassVar[Dialect] = "both"
    batchable: ClassVar[bool] = False  # several nodes may be computed in one call of the engine
    splittable: ClassVar[bool] = False  # its output arrives in pieces that make sense alone

    @property
    def deterministic(self) -> bool:
        """Whether equal operands always give equal results."""
        return True

    @property
    def effectful(self) -> bool:
        """Whether it changes something that outlives the run; such a node is never merged nor removed."""
        return False

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The types of the results for operands of types `args`. Raises OperandError."""
        raise OperandError(f"{type(self).__name__} is abstract")

    @classmethod
    @cache
    def label(cls) -> str:
        """The name of the operation in text forms of the graph."""
        name = cls.__name__
        return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def expect_operands(
    args: Mapping[str, Type], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    """Refuse missing and unknown operands."""
    missing = [name for name in required if name not in args]
    unknown = [name for name in args if name not in required and name not in optional]
    if missing:
        raise OperandError(f"lacks the operand {missing[0]!r}")
    if unknown:
        known = ", ".join(repr(name) for name in (*required, *optional)) or "none"
        raise OperandError(f"has no operand {unknown[0]!r}; known: {known}")


def expect(args: Mapping[str, Type], name: str, *kinds: type[Type]) -> None:
    """Refuse operand `name` unless it is absent or of one of the `kinds`."""
    if name in args and not isinstance(args[name], kinds):
        wanted = " or ".join(kind.__name__.lower() for kind in kinds)
        raise OperandError(f"operand {name!r} must be {wanted}, not {args[name]}")
