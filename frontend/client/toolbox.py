"""Tools that run in this process, on behalf of a run."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

from weft.frontend.errors import ToolError, TraceError
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2
from weft.runtime.elsewhere import InThreads, OnLoop
from weft.runtime.threads import Threads

from .faults import fault_of

__all__ = ["ClientTool", "Toolbox"]

_MAX_CALLS: Final = 64  # of one run at a time
_THREADS: Final = Threads("weft-tool")


class ClientTool(Protocol):
    """A function that this process answers for."""

    is_async: bool

    @property
    def timeout_s(self) -> float | None:
        """Seconds that one call may take."""
        ...

    def arguments(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that arrived as JSON data, as the function takes them. Raises TypeError."""
        ...

    def invoke(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function; its result, or a coroutine for it."""
        ...

    def dump(self, result: Any) -> Any:
        """A result as JSON data. Raises ValueError."""
        ...


class Toolbox:
    """Answers the tool calls of one run: sync functions in threads, async ones on the program's loop.

    Functions see the context variables as they were where the run was started.
    """

    def __init__(
        self,
        tools: Mapping[str, ClientTool],
        home: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self._tools = tools
        self._at_home = OnLoop(home)
        self._in_threads = InThreads(_THREADS)
        self._context = context
        self._free = asyncio.Semaphore(_MAX_CALLS)
        self._raised: dict[int, BaseException] = {}  # by node

    async def answer(self, call: pb.ToolCall) -> pb.ToolAnswer:
        """Run the tool; what it raises, and running out of time, become faults."""
        answer = pb.ToolAnswer(node=call.node, attempt=call.attempt)
        tool = self._tools.get(call.tool)
        if tool is None:
            problem = LookupError(f"this client has no tool {call.tool!r}")
            answer.fault.CopyFrom(fault_of(problem, "tool_failed"))
            return answer
        limit = asyncio.timeout(None)
        try:
            async with self._free, limit:
                limit.reschedule(_deadline(tool.timeout_s))
                answer.json = await self._run(tool, call.arguments)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            answer.fault.CopyFrom(
                fault_of(RuntimeError(f"tool {call.tool!r} cancelled itself"), "tool_failed")
            )
        except Exception as problem:
            answer.fault.CopyFrom(self._fault(call, tool, problem, late=limit.expired()))
        return answer

    def cause_of(self, error: ToolError) -> BaseException | None:
        """What the tool has raised that an error of the run names."""
        return next((it for node, it in self._raised.items() if error.node.startswith(f"%{node} ")), None)

    async def _run(self, tool: ClientTool, text: str) -> str:
        arguments = tool.arguments(json.loads(text))
        context = self._context.copy()
        if tool.is_async:
            result = await self._at_home.run(partial(_invoked, tool, arguments), context)
        else:
            result = await self._in_threads.call(partial(context.run, tool.invoke, arguments))
        return json.dumps(tool.dump(result), ensure_ascii=False)

    def _fault(
        self, call: pb.ToolCall, tool: ClientTool, problem: Exception, *, late: bool
    ) -> value_pb2.Fault:
        if late:
            problem = TimeoutError(f"tool {call.tool!r} did not return within {tool.timeout_s:g} s")
            return fault_of(problem, "timeout", retryable=True)
        self._raised[call.node] = problem
        return fault_of(problem, "tool_failed", retryable=not isinstance(problem, TraceError))


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s


async def _invoked(tool: ClientTool, arguments: Mapping[str, Any]) -> Any:
    return await tool.invoke(arguments)
