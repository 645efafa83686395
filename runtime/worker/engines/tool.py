"""The engine of the server's tools, and of its programs that run as Python code."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from weft.graph import schema
from weft.graph.codec import encode_type
from weft.graph.ops.base import EngineKind
from weft.graph.ops.common import Tool
from weft.graph.types import Data, Text, Type
from weft.graph.values import Datum, Json, TextValue, plain
from weft.proto import worker_pb2
from weft.runtime.config import HostedPrograms
from weft.runtime.elsewhere import InThreads
from weft.runtime.outer_run import OUTER, OuterRun
from weft.runtime.threads import Threads

from ..faults import TaskError
from .base import Emit, Gauges, Operands, Outcome, Stream, Task, Timing
from .tool_loading import ServerTool, load_programs, load_tools

__all__ = ["ToolEngine"]

_log = logging.getLogger(__name__)

_CAPACITY: Final = 64


class ToolEngine:
    """Runs async tools on the worker's event loop, which they must not block, and sync ones in threads.

    A program is an async tool; what either runs on the server belongs to the run that calls it. A sync tool
    that is cancelled runs on unheard: Python cannot stop a thread.
    """

    kind: EngineKind = "tool"
    model = ""

    def __init__(self, entry_points: Sequence[str], programs: HostedPrograms | None = None) -> None:
        """`entry_points`: functions as `module:function`."""
        self._entry_points = entry_points
        self._programs = programs
        self._tools: Mapping[str, ServerTool] = {}
        self._threads: InThreads | None = None

    def info(self) -> worker_pb2.EngineInfo:
        """The tools with their signatures."""
        tools = [_describe(tool) for tool in self._tools.values()]
        return worker_pb2.EngineInfo(kind=self.kind, tools=tools, capacity=_CAPACITY)

    def gauges(self) -> Gauges:
        """Nothing: tools hold nothing."""
        return Gauges()

    async def start(self) -> None:
        """Import the tools and the programs. Raises StartError."""
        tools = load_tools(self._entry_points)
        self._tools = tools | (load_programs(self._programs, tools) if self._programs else {})
        self._threads = InThreads(Threads("weft-tool"))

    async def stop(self) -> None:
        """Nothing is held that would have to be given back."""

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """Call a tool with the operands as its arguments."""
        op = task.node.op
        if not isinstance(op, Tool):
            raise TaskError("invalid", f"a tool engine does not run {op.label()!r}")
        tool = self._tools.get(op.tool)
        if tool is None:
            known = ", ".join(map(repr, self._tools)) or "none"
            raise TaskError("not_found", f"this worker has no tool {op.tool!r}; it has: {known}")
        arguments = tool.bind({name: plain(datum) for name, datum in operands.items()})
        OUTER.set(_outer(task, emit))
        started = time.monotonic()
        if tool.is_async:
            result = await _await(tool, arguments)
        else:
            assert self._threads is not None, "the engine has not been started"
            result = await self._threads.call(partial(copy_context().run, _run, tool, arguments))
        timing = Timing(compute=time.monotonic() - started)
        return Outcome((_datum_of(result, tool.name, op.result),), timing)


def _outer(task: Task, emit: Emit) -> OuterRun:
    """The run of a task, for what its tool starts."""
    loop = asyncio.get_running_loop()

    def write(text: str) -> None:
        loop.call_soon_threadsafe(partial(emit, text))

    wanted = task.stream is Stream.TEXT
    return OuterRun(task.run, task.namespace, task.priority, write if wanted else None)


async def _await(tool: ServerTool, arguments: Mapping[str, Any]) -> Any:
    try:
        return await tool.function(**arguments)
    except (asyncio.CancelledError, TaskError):
        raise
    except BaseException as problem:
        raise _failure(tool, problem) from None


def _run(tool: ServerTool, arguments: Mapping[str, Any]) -> Any:
    threading.current_thread().name = f"weft-tool-{tool.name}"
    try:
        return tool.function(**arguments)
    except BaseException as problem:  # a tool that wants to exit fails, and the worker lives on
        raise _failure(tool, problem) from None


def _failure(tool: ServerTool, problem: BaseException) -> TaskError:
    _log.debug("tool %r raised", tool.name, exc_info=problem)
    text = f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
    return TaskError("tool_failed", f"tool {tool.name!r} raised {text}")


def _datum_of(result: Any, name: str, promised: Type) -> Datum:
    """The result as the type that the graph was promised."""
    try:
        value = to_jsonable_python(result, inf_nan_mode="constants")
        if isinstance(promised, Data):
            schema.check(value, promised.schema, "the result")
    except (PydanticSerializationError, ValueError) as problem:
        raise TaskError("tool_failed", f"tool {name!r} gave what it did not promise: {problem}") from problem
    if not isinstance(promised, Text):
        return Json(value)
    if not isinstance(value, str):
        kind = type(result).__name__
        raise TaskError("tool_failed", f"tool {name!r} gave what it did not promise: {kind} instead of text")
    return TextValue(value)


def _describe(tool: ServerTool) -> worker_pb2.ToolInfo:
    return worker_pb2.ToolInfo(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        result=encode_type(tool.result),
        idempotent=tool.idempotent,
        pure=tool.pure,
        capacity=tool.capacity,
    )
