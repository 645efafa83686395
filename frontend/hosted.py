"""Programs that a server runs as Python code, in a tool worker: to its graphs they are tools.

A call of one is a run of its own, on the same server, that belongs to the run which calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from weft.graph.ir import Graph
from weft.graph.ops.common import Input, Tool
from weft.graph.types import TEXT
from weft.runtime.outer_run import OUTER
from weft.runtime.scheduler.faults import CODES, Code
from weft.runtime.worker.engines.tool_loading import ServerTool, tool_of
from weft.runtime.worker.faults import TaskError

from .client.faults import fault_of
from .client.portal import PROGRAMS
from .errors import ProgramError
from .location import function_location, raised_at
from .trace import Trace
from .verbs import Program

__all__ = ["as_tool", "call_of"]


def call_of(program: Program[..., Any], name: str) -> Graph:
    """The graph of one call of the program that the server has by that name. Raises TraceError."""
    signature, trace, where = program._signature, Trace(program.name), function_location(program._fn)
    arguments = {
        parameter: trace.add(
            Input(parameter, kind.graph_type(), signature.default(parameter)), {}, location=where
        )
        for parameter, kind in signature.types.items()
    }
    tool = Tool(name, signature.returns.graph_type(), "server")
    return trace.graph((trace.add(tool, arguments, name=name, location=where),))


def as_tool(program: Program[..., Any], name: str) -> ServerTool:
    """The program as a tool of the worker that this process is. Raises StartError and TraceError."""
    hosted = _Hosted(program, name)
    result = program._signature.returns.graph_type()
    return replace(tool_of(program, name), name=name, function=hosted.run, result=result)


class _Hosted:
    """A program that runs here.

    Its code runs on a loop of its own, so that what blocks it keeps the worker from nothing.
    """

    def __init__(self, program: Program[..., Any], name: str) -> None:
        self._program = program
        self._name = name
        self._writes = program._signature.returns.graph_type() == TEXT

    async def run(self, **arguments: Any) -> Any:
        """The result as JSON data. Raises TaskError; cancelling it cancels the program and its run."""
        outer = OUTER.get()
        write = outer.write if outer is not None and self._writes else None
        try:
            result = await asyncio.wrap_future(PROGRAMS.start(self._result, arguments, write))
        except ProgramError as problem:
            raise _failed_run(problem) from None
        except Exception as problem:
            message = f"program {self._name!r} raised {fault_of(problem, 'tool_failed').message}"
            raise TaskError("tool_failed", message, location=raised_at(problem)) from None
        return self._program._signature.returns.dump(result)

    async def _result(self, arguments: dict[str, Any], write: Callable[[str], None] | None) -> Any:
        if write is None:
            return await self._program.ainvoke(**arguments)
        written = []
        async for piece in self._program.astream(**arguments):
            write(piece)
            written.append(piece)
        return "".join(written)


def _failed_run(problem: ProgramError) -> TaskError:
    """What a run of the program has failed of, as the reason why the call of it has."""
    code: Code = next((known for known in CODES if known == problem.code), "internal")
    return TaskError(
        code,
        problem.message,
        node=problem.node,
        location=problem.location,
        worker=problem.worker,
    )
