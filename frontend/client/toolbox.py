"""Tools that run in this process, on behalf of a run."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Mapping
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

    on_error: Callable[[Exception], Any] | None
    """What it gives in place of a result when it has failed for good."""

    @property
    def timeout_s(self) -> float | None:
        """Seconds that one call may take."""
        ...

    @property
    def attempts(self) -> int:
        """How often it may be called before it has failed for good."""
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
            if limit.expired():
                problem = TimeoutError(f"tool {call.tool!r} did not return within {tool.timeout_s:g} s")
                fault = fault_of(problem, "timeout", retryable=True)
            else:
                fault = fault_of(problem, "tool_failed", retryable=not isinstance(problem, TraceError))
            await self._failed(answer, tool, problem, fault)
        return answer

    def cause_of(self, error: ToolError) -> BaseException | None:
        """What the tool has raised that an error of the run names."""
        return next((it for node, it in self._raised.items() if error.node.startswith(f"%{node} ")), None)

    async def _run(self, tool: ClientTool, text: str) -> str:
        arguments = tool.arguments(json.loads(text))
        if tool.is_async:
            result = await self._at_home.run(partial(_invoked, tool, arguments), self._context.copy())
        else:
            result = await self._in_thread(tool.invoke, arguments)
        return _dumped(tool, result)

    async def _failed(
        self, answer: pb.ToolAnswer, tool: ClientTool, problem: Exception, fault: value_pb2.Fault
    ) -> None:
        """Answer that a tool has failed, or what it gives instead; mistakes in programs are no failures."""
        if tool.on_error and answer.attempt >= tool.attempts and not isinstance(problem, TraceError):
            try:
                answer.json = _dumped(tool, await self._in_thread(tool.on_error, problem))
                return
            except Exception as another:
                problem, fault = another, fault_of(another, "tool_failed")
        if fault.code == "tool_failed":
            self._raised[answer.node] = problem
        answer.fault.CopyFrom(fault)

    async def _in_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return await self._in_threads.call(partial(self._context.copy().run, function, argument))


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s


def _dumped(tool: ClientTool, result: Any) -> str:
    return json.dumps(tool.dump(result), ensure_ascii=False)


async def _invoked(tool: ClientTool, arguments: Mapping[str, Any]) -> Any:
    return await tool.invoke(arguments)
