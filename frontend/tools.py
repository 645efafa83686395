"""Tools: Python functions that a program calls as part of its graph."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from weft.graph.ir import Policy, Value
from weft.graph.ops import common

from .errors import TraceError
from .location import located
from .policy import RetryPolicy, Timeout, node_policy
from .pytypes import PyType, py_type
from .signature import Signature
from .trace import Trace, tracing
from .var import Var

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["ServerTool", "Tool", "server_tool", "tool"]

P = ParamSpec("P")
R = TypeVar("R")


class Tool(Generic[P, R]):
    """A function that runs in the client's process when the graph gets to it.

    Outside of programs it is just the function. In a program, calling it gives a `Var`.
    """

    _all: ClassVar[weakref.WeakSet[Tool[..., Any]]] = weakref.WeakSet()

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        idempotent: bool,
        pure: bool,
        policy: Policy,
        on_error: Callable[[Exception], Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self.name = fn.__name__
        self.description = inspect.getdoc(fn) or ""
        self.policy = policy
        self.on_error = on_error
        self.is_async = inspect.iscoroutinefunction(fn)
        self._fn = fn
        self._signature = Signature(fn, f"tool {self.name!r}")
        self._idempotent = idempotent or pure
        self._pure = pure
        Tool._all.add(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all tools that this process has defined."""
        return tuple(sorted({tool.name for tool in cls._all}))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Var[R]:
        """In a program, the `Var` of the result; outside of programs, what the function itself gives."""
        trace = tracing()
        if trace is None:
            made: Var[R] = self._fn(*args, **kwargs)  # the R itself, for which a Var stands here
            return made
        return self._call(trace, args, kwargs)

    @property
    def idempotent(self) -> bool:
        """Whether it may run again when it is not known whether it has run."""
        return self._idempotent

    @property
    def pure(self) -> bool:
        """Whether equal arguments give equal results and nothing is changed."""
        return self._pure

    @property
    def timeout_s(self) -> float | None:
        """Seconds that one call may take."""
        return self.policy.timeout_s

    @property
    def attempts(self) -> int:
        """How often it may be called before it has failed."""
        return self.policy.attempts

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, as an object."""
        return self._signature.schema()

    @functools.cached_property
    def result(self) -> PyType:
        """The Python type of the result."""
        return self._signature.returns

    def arguments(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that arrived as JSON data, as the function takes them. Raises TypeError."""
        return self._signature.load(data)

    def problem(self, data: Mapping[str, Any]) -> str:
        """What is wrong with arguments that arrived as JSON data; empty if nothing is."""
        return self._signature.problem(data)

    def invoke(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function; what it returns, or a coroutine that does."""
        fn: Callable[..., Any] = self._fn
        return fn(**arguments)

    def dump(self, result: Any) -> Any:
        """What the function returned as JSON data. Raises ValueError."""
        try:
            return self.result.dump(result)
        except ValueError as problem:
            raise ValueError(f"it does not return the declared {self.result.name}: {problem}") from None

    def _call(self, trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Var[Any]:
        given = self._signature.bind(args, kwargs)
        trace.register_tool(self)
        operands = {name: self._operand(trace, name, value) for name, value in given.items()}
        op = common.Tool(
            self.name, self.result.graph_type(), "client", idempotent=self.idempotent, pure=self.pure
        )
        # A server that keeps the time, too, would end the run before `on_error` is asked.
        policy = replace(self.policy, timeout_s=None) if self.on_error else self.policy
        return trace.var(trace.add(op, operands, name=self.name, policy=policy), self.result)

    def _operand(self, trace: Trace, name: str, value: Any) -> Value:
        return trace.lift(self._signature.checked(name, value))


class ServerTool(Generic[R]):
    """A tool that the server's configuration names; it takes keyword arguments only."""

    def __init__(
        self,
        op: common.Tool,
        result: PyType,
        policy: Policy,
        *,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = op.tool
        self.description = description
        self.parameters = parameters
        self._op = op
        self._result = result
        self._policy = policy

    def __call__(self, *positional: Any, **arguments: Any) -> Var[R]:
        """Call the tool in a program. Raises TraceError elsewhere, and for arguments without names."""
        trace = tracing()
        if positional:
            raise TraceError(
                located(
                    f"tool {self._op.tool!r} of the server takes its arguments by name: "
                    f"write {self._op.tool}(name=value)"
                )
            )
        if trace is None:
            raise TraceError(located(f"tool {self._op.tool!r} of the server can be called in programs only"))
        operands = {name: trace.lift(value) for name, value in arguments.items()}
        return trace.var(trace.add(self._op, operands, name=self._op.tool, policy=self._policy), self._result)


class _Decorator(Protocol):
    """Makes a function, sync or async, a tool."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Tool[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Tool[P, R]: ...
@overload
def tool(fn: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    idempotent: bool = False,
    pure: bool = False,
    timeout: Timeout = None,
    retry: RetryPolicy | None = None,
    on_error: Callable[[Exception], Any] | None = None,
) -> _Decorator: ...


def tool(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    idempotent: bool = False,
    pure: bool = False,
    timeout: Timeout = None,
    retry: RetryPolicy | None = None,
    on_error: Callable[[Exception], Any] | None = None,
) -> Any:
    """Make a function, sync or async, a tool; it runs in this process when the graph gets to it.

    Args:
        fn: The function. Its annotations say what it takes and gives; both must be JSON-able.
        idempotent: It may run again when it is not known whether it has run.
        pure: Equal arguments give equal results and nothing is changed, so that calls may be merged.
        timeout: Seconds, or a `TimeoutPolicy`, for one call.
        retry: How often to try again when it raises.
        on_error: What the tool gives in place of a result, from what the last attempt raised, or from a
            TimeoutError; without it, the run fails.
    """
    policy = node_policy(timeout, retry)

    def decorate(fn: Callable[..., Any]) -> Tool[..., Any]:
        return Tool(fn, idempotent=idempotent, pure=pure, policy=policy, on_error=on_error)

    return decorate if fn is None else decorate(fn)


class _ToolOptions(TypedDict, total=False):
    idempotent: bool
    pure: bool
    timeout: Timeout
    retry: RetryPolicy | None
    description: str
    parameters: Mapping[str, Any] | None


@overload
def server_tool(name: str, *, result: type[R], **options: Unpack[_ToolOptions]) -> ServerTool[R]: ...
@overload
def server_tool(name: str, *, result: TypeForm[R], **options: Unpack[_ToolOptions]) -> ServerTool[R]: ...
@overload
def server_tool(name: str, *, result: Any = Any, **options: Unpack[_ToolOptions]) -> ServerTool[Any]: ...


def server_tool(
    name: str,
    *,
    result: Any = Any,
    idempotent: bool = False,
    pure: bool = False,
    timeout: Timeout = None,
    retry: RetryPolicy | None = None,
    description: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> ServerTool[Any]:
    """A tool that runs on the server, whose configuration has it by `name`; `result` is its Python type.

    `description` and `parameters`, a JSON Schema of its arguments, are for models that may call it: see
    `Context(tools=)`.
    """
    pytype = py_type(result)
    op = common.Tool(name, pytype.graph_type(), "server", idempotent=idempotent or pure, pure=pure)
    policy = node_policy(timeout, retry)
    return ServerTool(op, pytype, policy, description=description, parameters=parameters)
