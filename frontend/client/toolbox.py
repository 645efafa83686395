"""Tools that run in this process, on behalf of a run."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from weft.frontend.errors import TraceError
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2

from .faults import fault_of

__all__ = ["ClientTool", "Toolbox"]

_MAX_CALLS = 64  # of one run at a time


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
        self._home = home
        self._context = context
        self._free = asyncio.Semaphore(_MAX_CALLS)
        self.raised: list[BaseException] = []
        """What tools have raised, so that the run's error can name it as its cause."""

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
        except Exception as problem:
            answer.fault.CopyFrom(self._fault(call.tool, tool, problem, late=limit.expired()))
        return answer

    async def _run(self, tool: ClientTool, text: str) -> str:
        arguments = tool.arguments(json.loads(text))
        context = self._context.copy()
        if tool.is_async:
            coroutine = context.run(tool.invoke, arguments)
            running = context.run(asyncio.run_coroutine_threadsafe, coroutine, self._home)
        else:
            running = _in_thread(lambda: context.run(tool.invoke, arguments))
        return json.dumps(tool.dump(await asyncio.wrap_future(running)), ensure_ascii=False)

    def _fault(self, name: str, tool: ClientTool, problem: Exception, *, late: bool) -> value_pb2.Fault:
        if late:
            problem = TimeoutError(f"tool {name!r} did not return within {tool.timeout_s:g} s")
            return fault_of(problem, "timeout", retryable=True)
        self.raised.append(problem)
        return fault_of(problem, "tool_failed", retryable=not isinstance(problem, TraceError))


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s


def _in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread that does not hold up the end of the process, should it hang."""
    future: Future[Any] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as problem:
            future.set_exception(problem)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="weft-tool", daemon=True).start()
    return future
