"""Strings with `Var`s in them as segments and operands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from weft.graph.evaluate import lift as lift_datum
from weft.graph.ir import Value
from weft.graph.prompt import Part, Slot
from weft.graph.values import render

from .var import Var

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Slots"]


class Slots:
    """The operands of one node that are named by slots."""

    def __init__(self, trace: Trace) -> None:
        self.args: dict[str, Value] = {}
        self._trace = trace

    def parts(self, text: str) -> tuple[Part, ...]:
        """The segments of a string; constants that were formatted into it become part of its text."""
        parts: list[Part] = []
        for piece in self._trace.cut(text):
            part = self._part(piece) if isinstance(piece, Var) else piece
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return tuple(parts)

    def _part(self, var: Var[Any]) -> Part:
        constant = var._trace.constant_op(var._value)
        if constant is not None:
            return render(lift_datum(json.loads(constant.value)))
        value = self._trace.own(var)
        name = self._trace.hint(value)
        while self.args.get(name, value) != value:
            name += "_"
        self.args[name] = value
        return Slot(name)
