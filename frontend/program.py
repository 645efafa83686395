"""`@program`: Python functions as programs of language-model calls.

A `def` is traced once with `Var`s in place of its arguments, and every call runs the graph. An `async def`
runs anew for every call and adds to the graph of its run as it goes.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, overload

from weft.graph.ir import Graph

from .called import Called
from .client.session import Submission
from .dynamic import LiveTrace
from .errors import TraceError
from .faking import faked
from .jobs import DynamicJob, Job, StaticJob
from .location import located
from .static import Traced, arguments_inline, trace_program
from .trace import Trace, tracing
from .verbs import Program

__all__ = ["AsyncProgram", "StaticProgram", "program"]

_TRACED: Final = 256  # graphs of one program, as many as a server keeps plans

P = ParamSpec("P")
R = TypeVar("R")


class StaticProgram(Program[P, R]):
    """A `def` program: one graph for all runs with the same static arguments.

    What the function reads besides its arguments (globals, files) is read when it is traced, once.
    """

    def __init__(self, fn: Callable[P, R]) -> None:
        super().__init__(fn)
        # By the fake model and the static arguments.
        self._traced: OrderedDict[tuple[Any, ...], Traced] = OrderedDict()
        self._tracing = threading.RLock()

    def graph(self, **static: Any) -> Graph:
        """The graph as written, for certain static arguments; needs no server. Raises TraceError."""
        known = self._signature.static
        unknown = [name for name in static if name not in known]
        if unknown:
            listed = ", ".join(sorted(known)) or "none"
            raise TraceError(
                located(f"{self._signature.owner} has no static parameter {unknown[0]!r}; known: {listed}")
            )
        return self._trace(static).graph

    def _job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> StaticJob:
        signature = self._signature
        given = signature.bind(args, kwargs)
        traced = self._trace({name: given[name] for name in signature.static if name in given})
        inputs = {n: signature.dump(n, v) for n, v in given.items() if n not in signature.static}
        return StaticJob(traced, signature, inputs, self._options)

    def _trace(self, given: Mapping[str, Any]) -> Traced:
        signature = self._signature
        full = signature.with_defaults(given)
        missing = [name for name in sorted(signature.static) if full[name] is inspect.Parameter.empty]
        if missing:
            raise TraceError(located(f"{signature.owner} lacks the static argument {missing[0]!r}"))
        static = {name: signature.python(name, full[name]) for name in sorted(signature.static)}
        with self._tracing:
            key = (faked(), *static.values())
            try:
                known = self._traced.get(key)
            except TypeError as problem:
                raise TraceError(
                    located(f"{signature.owner}: static arguments must be hashable: {problem}")
                ) from None
            if known is None:
                known = self._traced[key] = trace_program(self._fn, signature, static)
                if len(self._traced) > _TRACED:
                    self._traced.popitem(last=False)
            else:
                self._traced.move_to_end(key)
            return known

    def _inline(self, trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = self._signature.bind(args, kwargs)
        arguments = arguments_inline(self._signature, given, trace)
        call = (self._fn, {name: arguments[name] for name in self._signature.static})
        if call in trace.root.calls:
            raise TraceError(
                located(
                    f"{self._signature.owner} calls itself without end: tracing follows every branch; use "
                    "loop(), let a Static parameter count the calls down, or write an async program"
                )
            )
        trace.root.calls.append(call)
        try:
            return self._fn(**arguments)
        finally:
            trace.root.calls.pop()

    def _detachable(self, job: Job) -> Submission:
        submission = job.submission(stream=False)
        if submission.announced:
            raise TraceError(
                located(
                    f"a detached run cannot use {submission.announced[0]!r} and other tools of this process; "
                    "name the tool in the server's configuration and use server_tool()"
                )
            )
        return submission


class AsyncProgram(Program[P, R]):
    """An `async def` program: native control flow; `await` gives the value of a `Var`.

    Everything between two awaits is one increment of the run's graph; nothing waits until a value is awaited
    or returned.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Called[R]:
        """Run the program and return its result; in async code, a coroutine to await."""
        called: Any = super().__call__
        if tracing() is None and _in_async_code():
            called = self.ainvoke
        result: Called[R] = called(*args, **kwargs)
        return result

    def graph(self, **static: Any) -> Graph:
        """Raises TraceError: the graph of an async program is known when it has run."""
        raise TraceError(
            located(
                f"{self._signature.owner} is async: its graph grows while it runs; see the trace of a run"
            )
        )

    def _job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DynamicJob:
        given = self._signature.with_defaults(self._signature.bind(args, kwargs))
        arguments = {name: self._signature.python(name, value) for name, value in given.items()}
        return DynamicJob(self._fn, self._signature, arguments, self._options)

    def _inline(self, trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Called[R]:
        if not isinstance(trace, LiveTrace):
            raise TraceError(
                located(
                    f"{self._signature.owner} is async and cannot be called while a def program, or the body "
                    "of map, cond or loop, is traced; make the caller async and await it"
                )
            )
        given = self._signature.with_defaults(self._signature.bind(args, kwargs))
        arguments = {name: self._signature.python(name, value) for name, value in given.items()}
        return Called(self._fn(**arguments), self._signature.owner)

    def _detachable(self, job: Job) -> NoReturn:
        raise TraceError(
            located(
                f"{self._signature.owner} is async: it runs in this process, so its run cannot be detached"
            )
        )


def _in_async_code() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@overload
def program(fn: Callable[P, Coroutine[Any, Any, R]]) -> AsyncProgram[P, R]: ...  # type: ignore[overload-overlap]  # a coroutine function fits both overloads, with different results; the first one that fits is taken, as is meant, and there is no type for "any function but a coroutine function"
@overload
def program(fn: Callable[P, R]) -> StaticProgram[P, R]: ...


def program(fn: Callable[..., Any]) -> Program[..., Any]:
    """Make a function a program: `def` for a graph known before the run, `async def` for one that grows.

    Parameters and result are annotated with any type that pydantic knows (str if it is a text); arguments are
    checked at the call. A parameter annotated `Static[...]` stays a Python value. Raises TraceError for
    ``*args`` and ``**kwargs``.

    Example::

        @program
        def summary(text: str) -> str:
            return gen(f"Summarize in one sentence.\\n\\n{text}", max_tokens=64)

        summary("…")
    """
    if not (inspect.isfunction(fn) or inspect.ismethod(fn)):
        raise TraceError(located(f"@program decorates a function, not a {type(fn).__name__}"))
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TraceError(
            located(
                f"program {fn.__name__!r} has a `yield`: a program returns its result, and stream() gives "
                "the pieces of it as a model writes them"
            )
        )
    return AsyncProgram(fn) if inspect.iscoroutinefunction(fn) else StaticProgram(fn)
