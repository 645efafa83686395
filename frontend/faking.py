"""A model of a test's own in place of those of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from weft.graph.ir import NO_POLICY, Policy
from weft.graph.ops import common
from weft.graph.types import TEXT
from weft.runtime.calling.reading import call_text

from .calling import ToolCall, Turn
from .constraint import Wanted
from .history import message_of
from .messages import Entry
from .pytypes import PyType
from .tools import Tool
from .trace import Trace
from .var import Var

__all__ = ["FakeModel", "ModelCall", "fake_model", "faked"]


@dataclass(frozen=True)
class ModelCall:
    """What a fake model was asked."""

    messages: list[dict[str, Any]]
    """Those of OpenAI's API; the role of a text past the chat template is `raw`."""
    type: Any
    """What is wanted: the `type` of `gen`, or a Literal of the choices."""
    name: str
    model: str
    tools: tuple[str, ...] = ()
    """The names of those that the model may call; for a `turn`."""

    @property
    def prompt(self) -> str:
        """The last message."""
        prompt: str = self.messages[-1]["content"]
        return prompt


@dataclass(frozen=True)
class _Site:
    """A place of a program that asks."""

    pytype: PyType
    name: str
    model: str
    tools: tuple[str, ...]


class FakeModel:
    """Answers all that programs ask models for while it is in place, in the test's own process."""

    def __init__(self, reply: Callable[[ModelCall], Any]) -> None:
        self.calls: list[ModelCall] = []
        """What was asked so far."""
        self._reply = reply
        self._sites: list[_Site] = []
        # Made for each, as async programs announce all tools of their process to the server.
        self._tool: Tool[..., Any] = Tool(self.fake_model, idempotent=False, pure=False, policy=NO_POLICY)
        self._writer: Tool[..., str] = Tool(_as_json, idempotent=True, pure=True, policy=NO_POLICY)

    def write(
        self,
        trace: Trace,
        turns: Sequence[Entry],
        want: Wanted,
        name: str,
        model: str,
        policy: Policy,
        *,
        pure: bool,
    ) -> Var[Any]:
        """In a program, the `Var` of a reply; equal calls that are `pure` are one."""
        tools = [tool for entry in turns if entry.role == "tools" for tool in json.loads(entry.text)]
        site = _Site(want.pytype, name, model, tuple(tool["function"]["name"] for tool in tools))
        if site not in self._sites:
            self._sites.append(site)
        asking = ("tools", "call") if turns[-1].role == "call" else ("tools",)
        said = [message_of(entry) for entry in turns if entry.calls or entry.role not in asking]
        operands = {"site": trace.lift(self._sites.index(site)), "messages": trace.lift(said)}
        trace.register_tool(self._tool)
        op = common.Tool(self._tool.name, want.kind, pure=pure)
        return trace.var(trace.add(op, operands, name=name, policy=policy), want.pytype)

    def written(self, reply: Var[Any]) -> Var[str]:
        """A reply as a model would have written it."""
        return reply if reply._trace.types[reply._value] == TEXT else self._writer(reply)

    def fake_model(self, site: int, messages: list[dict[str, Any]]) -> Any:
        """The tool that answers: a reply as JSON data."""
        asked = self._sites[site]
        call = ModelCall(messages, asked.pytype.annotation, asked.name, asked.model, asked.tools)
        self.calls.append(call)
        return to_jsonable_python(_as_written(self._reply(call)), by_alias=True)


_in_place: list[FakeModel] = []


def faked() -> FakeModel | None:
    """The model that takes the place of all others now, if any."""
    return _in_place[-1] if _in_place else None


@contextmanager
def fake_model(reply: Callable[[ModelCall], Any]) -> Iterator[FakeModel]:
    """For tests: within the `with` block, `reply` answers what programs ask models for by `gen` and `select`.

    It gives a text, or a value of the type that the call names or JSON data for one; of a `turn`, also a
    `ToolCall`, a list of them or a `Turn`. It runs in threads of this process. What it raises fails the run.
    Texts come whole: nothing is streamed.

    Example::

        with fake_model(lambda call: "Rain" if call.name == "headline" else "It rained.") as model:
            assert headline("…") == "Rain"
        assert len(model.calls) == 2
    """
    model = FakeModel(reply)
    _in_place.append(model)
    try:
        yield model
    finally:
        _in_place.remove(model)


def _as_written(reply: Any) -> Any:
    """Calls of tools as a model would write them; all else as it is."""
    match reply:
        case ToolCall():
            return call_text(reply.name, reply.arguments)
        case Turn(text, calls):
            return "\n".join([text, *map(_as_written, calls)])
        case [ToolCall(), *_]:
            return "\n".join(map(_as_written, reply))
        case _:
            return reply


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
