"""What the client of a run is told while it goes on: texts in pieces, and what tools are given and give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from weft.graph.codec import encode_value
from weft.graph.ir import Node, Value
from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Decode
from weft.graph.values import Datum, TextValue, plain
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.scheduler.faults import Fault

from .faults import encode_fault
from .record import RunRecord

__all__ = ["Told", "tool_arguments"]


class Told:
    """The texts that the client has named, and with `follow` those that the program has, and all tools."""

    def __init__(self, record: RunRecord, nodes: Mapping[int, Node], values: Mapping[Value, Datum]) -> None:
        self.follow = False
        self._record = record
        self._nodes = nodes
        self._values = values  # that are known
        self._names: dict[int, list[Value]] = {}  # decode -> the client's names of its text
        self._texts: dict[int, _Text] = {}
        self._tools: dict[int, bool] = {}  # that have begun; whether the client knows

    def stream(self, number: int, name: Value) -> None:
        """The client wants the pieces of what a node writes."""
        self._names.setdefault(number, []).append(name)

    def streams(self, node: Node) -> bool:
        """Whether the client wants the pieces of what a node writes."""
        return node.id in self._names or (self.follow and bool(node.name) and isinstance(node.op, Decode))

    def begin(self, node: Node, now: float) -> None:
        """An attempt of a node is handed out; its operands may not be known yet."""
        if node.id in self._texts:
            self._texts[node.id].begin_again()
        if self.follow and isinstance(node.op, Tool) and node.id not in self._tools:
            self._tools[node.id] = False
            self._tell_started(node, now)

    def write(self, node: Node, text: str, now: float) -> None:
        """A model has written more."""
        if self.streams(node):
            self._tell(node, self._texts.setdefault(node.id, _Text()).take(text), now)

    def learned(self, results: Mapping[Value, Datum], now: float) -> None:
        """Results of nodes are known."""
        if not (self.follow or self._names):
            return
        for number, told in list(self._tools.items()):
            if not told:
                self._tell_started(self._nodes[number], now)
        for value, datum in results.items():
            node = self._nodes[value.node]
            if isinstance(datum, TextValue) and self.streams(node):
                self._tell(node, self._texts.pop(node.id, _Text()).end(datum.text), now)
            if self.follow and isinstance(node.op, Tool) and value.output == 0:
                self.begin(node, now)  # unless somebody else had the result already
                del self._tools[node.id]
                self._tell_ended(node, pb.ToolEnded(json=_json(plain(datum))), now)

    def ended(self, node: Node, fault: Fault, now: float) -> None:
        """An attempt of a node has ended without results."""
        if self._tools.pop(node.id, False):
            self._tell_ended(node, pb.ToolEnded(fault=encode_fault(fault)), now)

    def _tell(self, node: Node, piece: _Piece, now: float) -> None:
        if not piece.text and not piece.again:
            return
        if self._record.first_text_s is None:
            self._record.first_text_s = now - self._record.started_s
        for name in self._names.get(node.id, (None,)):
            value = None if name is None else encode_value(name)
            delta = pb.TextDelta(
                value=value, text=piece.text, node=node.id, name=node.name, again=piece.again
            )
            self._record.emit(pb.RunEvent(delta=delta), now)

    def _tell_started(self, node: Node, now: float) -> None:
        if all(value in self._values for value in node.args.values()):
            self._tools[node.id] = True
            started = pb.ToolStarted(
                node=node.id, tool=_tool(node), arguments=tool_arguments(node, self._values)
            )
            self._record.emit(pb.RunEvent(tool_started=started), now)

    def _tell_ended(self, node: Node, ended: pb.ToolEnded, now: float) -> None:
        ended.node, ended.tool = node.id, _tool(node)
        self._record.emit(pb.RunEvent(tool_ended=ended), now)


class _Piece(NamedTuple):
    """What of a text is to be sent next."""

    text: str
    again: bool = False  # in place of all that was sent


class _Text:
    """A text that is sent in pieces, each once, and may have to be written again from its beginning."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._due = ""  # what was sent and has not been written again yet

    def begin_again(self) -> None:
        """It is written from its beginning."""
        self._due = "".join(self._sent)

    def take(self, text: str) -> _Piece:
        """What follows from more of it having been written."""
        common = min(len(text), len(self._due))
        if text[:common] == self._due[:common]:
            self._due = self._due[common:]
            return self._send(text[common:])
        past = "".join(self._sent).removesuffix(self._due)
        return self._replace(past + text)

    def end(self, whole: str) -> _Piece:
        """What follows from the text being complete."""
        sent = "".join(self._sent)
        return self._send(whole.removeprefix(sent)) if whole.startswith(sent) else self._replace(whole)

    def _send(self, text: str) -> _Piece:
        self._sent.append(text)
        return _Piece(text)

    def _replace(self, text: str) -> _Piece:
        self._sent, self._due = [text], ""
        return _Piece(text, again=True)


def tool_arguments(node: Node, values: Mapping[Value, Datum]) -> str:
    """The known operands of a tool as a JSON object."""
    return _json({name: plain(values[value]) for name, value in node.args.items()})


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def _tool(node: Node) -> str:
    assert isinstance(node.op, Tool)
    return node.op.tool
