"""Tracing of `def` programs: once for all runs with the same static arguments."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from weft.graph.codec import encode_graph
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.user import Generate
from weft.graph.sampling import Sampling
from weft.graph.seeds import resampled
from weft.graph.types import TEXT
from weft.proto import graph_pb2

from .errors import TraceError
from .lifting import Leaf, Lifted, Shape, as_data, holds_var, lifted
from .location import function_location, located
from .models import values_explained
from .signature import Signature
from .tools import Tool
from .trace import Trace

__all__ = ["Traced", "arguments_inline", "seeded", "trace_program"]


@dataclass(frozen=True)
class Traced:
    """The graph of a program for certain static arguments, and what is needed to run it."""

    graph: Graph
    shape: Shape
    tools: Mapping[str, Tool[..., Any]]
    unseeded: frozenset[int]
    """The `id`s of the operations of the graph that sample without a seed of their own."""

    @property
    def streamed(self) -> tuple[Value, ...]:
        """The result, if it is a text that a model writes."""
        (output,) = self.graph.outputs
        return (output,) if is_written_text(self.graph.by_id.get(output.node)) else ()

    def instance(self) -> graph_pb2.Graph:
        """The graph for one run, as it travels: whatever samples without a seed has drawn one."""
        return _encoded(seeded(self.graph, self.unseeded)) if self.unseeded else self._message

    @cached_property
    def _message(self) -> graph_pb2.Graph:
        return _encoded(self.graph)


def _encoded(graph: Graph) -> graph_pb2.Graph:
    """Raises TraceError, naming the node, if something in it is no text or number that can be sent."""
    try:
        return encode_graph(graph)
    except GraphError as problem:
        raise TraceError(str(problem)) from None


def trace_program(fn: Callable[..., Any], signature: Signature, static: Mapping[str, Any]) -> Traced:
    """Call a program's function with a `Var` for each parameter that is not static. Raises TraceError."""
    trace = Trace(fn.__name__)
    where = function_location(fn)
    arguments: dict[str, Any] = dict(static)
    for name in signature.names:
        if name not in static:
            pytype = signature.types[name]
            value = trace.add(Input(name, pytype.graph_type(), signature.default(name)), {}, location=where)
            arguments[name] = trace.var(value, pytype)
    with trace.active(), values_explained():
        result = lifted(_called(fn, arguments, signature, where), trace)
        _expect_declared(result, signature, where)
        output = result.value(trace)
    trace.closed = True
    return Traced(
        trace.graph((output,)), result.shape, trace.tools, frozenset(id(op) for op in trace.unseeded)
    )


def _called(fn: Callable[..., Any], arguments: Mapping[str, Any], signature: Signature, where: str) -> Any:
    result = fn(**arguments)
    if isinstance(result, Coroutine):
        result.close()
        raise TraceError(
            f"{where}: {signature.owner} returns a coroutine: make it an `async def`, and await in it"
        )
    return result


def _expect_declared(result: Lifted, signature: Signature, where: str) -> None:
    """Raises TraceError for a result that is known by now, and not of the declared type."""
    if signature.declares_result and result.is_constant:
        try:
            signature.result(result.shape.restore(result.json, as_data))
        except ValueError as problem:
            raise TraceError(f"{where}: {problem}") from None


def arguments_inline(signature: Signature, given: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    """The arguments of a program that another one calls: `Var`s, and Python values for static parameters.

    Raises TraceError for a `Var` in place of a static argument.
    """
    arguments: dict[str, Any] = {}
    for name, value in signature.with_defaults(given).items():
        if name in signature.static:
            arguments[name] = _static_argument(signature, name, value)
            continue
        lift = lifted(signature.checked(name, value), trace)
        var = trace.var(lift.value(trace), signature.types[name])
        arguments[name] = lift.shape.view(var) if isinstance(lift.shape, Leaf) else var
    return arguments


def _static_argument(signature: Signature, name: str, value: Any) -> Any:
    if holds_var(value):
        raise TraceError(
            located(
                f"{signature.owner}: the static argument {name!r} must be known while the program is traced, "
                "and only the run will know this value"
            )
        )
    return signature.python(name, value)


def is_written_text(node: Node | None) -> bool:
    """Whether a node's result is one text that a model writes."""
    return node is not None and isinstance(node.op, Generate) and node.op.type == TEXT and node.op.n == 1


def seeded(graph: Graph, unseeded: frozenset[int]) -> Graph:
    """The graph with a fresh seed in each operation whose `id` is in `unseeded`, in bodies too."""
    return resampled(graph, lambda op: _drawn(op.sampling) if id(op) in unseeded else op.sampling)


def _drawn(sampling: Sampling) -> Sampling:
    return replace(sampling, seed=secrets.randbits(62))
