"""The graph of a program while the program is being traced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any

from weft.graph.deployment import indexes_read
from weft.graph.errors import GraphError
from weft.graph.ir import NO_POLICY, Graph, Node, Policy, Value, infer
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Input, Order
from weft.graph.types import Type

from .errors import TraceError
from .lifting import Lifted, lifted
from .location import located, user_location
from .markers import MarkerError, new_nonce, pieces
from .pytypes import ANYTHING, PyType
from .var import Var

if TYPE_CHECKING:
    from .tools import Tool

__all__ = ["BodyTrace", "Trace", "current", "tracing", "untraced"]

_current: ContextVar[Trace | None] = ContextVar("weft_trace", default=None)


def tracing() -> Trace | None:
    """The trace that operations go to at this place, if any."""
    return _current.get()


def current(what: str) -> Trace:
    """The trace that operations go to here. Raises TraceError, naming `what`, outside of programs."""
    trace = _current.get()
    if trace is None:
        raise TraceError(
            located(f"{what} stands outside of a program; call it in a function decorated with @program")
        )
    return trace


def untraced() -> Context:
    """A copy of the context variables for code that is no part of a program, such as that of tools."""
    context = copy_context()
    context.run(_current.set, None)
    return context


class Trace:
    """Collects the nodes of one program, or of one run of an async program."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.nonce = new_nonce()
        self.nodes: list[Node] = []
        self.types: dict[Value, Type] = {}
        self.tools: dict[str, Tool[..., Any]] = {}
        self.unseeded: list[Op] = []
        """Operations that sample without a seed of their own: each run draws one."""
        self.calls: list[tuple[Callable[..., Any], Mapping[str, Any]]] = []
        """The functions of programs that are being made part of this one, with their static arguments."""
        self.closed = False
        self._ids = count()
        self._marked: list[Var[Any]] = []
        self._constants: dict[Const, Value] = {}
        self._ops: dict[int, Op] = {}
        self._names: dict[int, str] = {}
        self._effects: dict[str, tuple[Value, Var[Any]]] = {}
        self._reads: dict[str, list[Value]] = {}  # of each index, since it was last written to

    @property
    def root(self) -> Trace:
        """The trace of the whole program, which bodies of map, cond and loop belong to."""
        return self

    @contextmanager
    def active(self) -> Iterator[None]:
        """Operations inside the `with` block go to this trace."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    # ---- nodes

    def add(
        self,
        op: Op,
        args: Mapping[str, Value],
        *,
        name: str = "",
        policy: Policy = NO_POLICY,
        location: str | None = None,
    ) -> Value:
        """Append a node; its first result. Raises TraceError if the operation cannot take the operands."""
        if not isinstance(name, str):
            raise TraceError(located(f"the name of an operation must be a text, not {name!r}"))
        where = user_location() if location is None else location
        node = Node(next(self._ids), op, dict(args), name, where, policy)
        try:
            results = infer(node, self.types)
        except GraphError as problem:
            raise TraceError(str(problem)) from None
        self.nodes.append(node)
        self._ops[node.id] = op
        self._names[node.id] = op.name if isinstance(op, Input) else name
        for output, kind in enumerate(results):
            self.types[Value(node.id, output)] = kind
        for index in indexes_read(node):
            self._reads.setdefault(index, []).append(Value(node.id))
        return Value(node.id)

    def var(self, value: Value, pytype: PyType = ANYTHING) -> Var[Any]:
        """The `Var` of a value of this trace."""
        return Var(self, value, self.types[value], pytype)

    def constant(self, lift: Lifted) -> Value:
        """A constant; equal ones are one node."""
        op = lift.const()
        if op not in self._constants:
            self._constants[op] = self.add(op, {})
        return self._constants[op]

    def constant_op(self, value: Value) -> Const | None:
        """The constant that a value of this trace is, or None."""
        op = self._ops.get(value.node)
        return op if isinstance(op, Const) else None

    def hint(self, value: Value) -> str:
        """What the slot of a value is called in prompts, for people."""
        name = self._names.get(value.node, "")
        name = name if name.isidentifier() else f"v{value.node}"
        return name if value.output == 0 else f"{name}_{value.output}"

    def lift(self, thing: object) -> Value:
        """Any Python value, with `Var`s at any depth, as one value of the graph."""
        return lifted(thing, self).value(self)

    def graph(self, outputs: tuple[Value, ...]) -> Graph:
        """What was traced, without constants that were folded into prompts."""
        used = {value for node in self.nodes for value in node.args.values()} | set(outputs)
        nodes = tuple(n for n in self.nodes if not isinstance(n.op, Const) or Value(n.id) in used)
        return Graph(nodes, outputs, self.program)

    # ---- vars

    def scope(self) -> Trace:
        """The trace at this place, which must be this one or that of a body inside it. Raises TraceError."""
        here = _current.get()
        if here is None or here.root is not self.root or self.closed:
            raise TraceError(located(self._foreign()))
        return here

    def own(self, var: Var[Any]) -> Value:
        """A `Var` of this trace, or of one around it, as an operand here. Raises TraceError for others."""
        if var._trace is not self or self.closed:
            raise TraceError(located(var._trace._foreign()))
        return var._value

    def register(self, var: Var[Any]) -> int:
        """The number that stands for the `Var` in strings."""
        marked = self.root._marked
        marked.append(var)
        return len(marked) - 1

    def cut(self, text: str) -> list[str | Var[Any]]:
        """The segments of a string that `Var`s were formatted into. Raises TraceError for bad marks."""
        marked = self.root._marked
        try:
            return [p if isinstance(p, str) else marked[p] for p in pieces(text, self.root.nonce)]
        except MarkerError as problem:
            raise TraceError(located(str(problem))) from None

    def awaited(self, var: Var[Any]) -> Awaitable[Any]:
        """The value of a `Var` as soon as it is known; only runs of async programs can wait."""
        raise TraceError(located("only an async program can await a value; make it an `async def`"))

    # ---- effects and tools

    def effect(self, index: str) -> dict[str, Value]:
        """The operands that make an operation on an index come after what was ingested into it."""
        return {"after": self._effects[index][0]} if index in self._effects else {}

    def behind(self, index: str) -> dict[str, Value]:
        """The operands that make a write to an index come after all earlier reads and writes of it."""
        reads = self._reads.pop(index, [])
        if not reads:
            return self.effect(index)
        operands = {str(number): read for number, read in enumerate(reads)}
        return {"after": self.add(Order(index), operands | self.effect(index))}

    def report_of(self, index: str) -> Var[Any] | None:
        """The report of what was last ingested into an index."""
        return self._effects[index][1] if index in self._effects else None

    def had_effect(self, index: str, effect: Value, report: Var[Any]) -> None:
        """Remember that an index was written to; later operations on it come after that."""
        self._effects[index] = (effect, report)

    def register_tool(self, tool: Tool[..., Any]) -> None:
        """Remember a tool that this process answers for. Raises TraceError if another one has its name."""
        known = self.root.tools.setdefault(tool.name, tool)
        if known is not tool:
            raise TraceError(located(f"two different tools are called {tool.name!r}; rename one of them"))

    def _foreign(self) -> str:
        return (
            f"a value of program {self.program!r} is used outside of the run that made it; "
            "hand values on as arguments and results"
        )


class BodyTrace(Trace):
    """The body of a map, cond or loop. `Var`s from around it become its inputs and operands of the node."""

    def __init__(self, parent: Trace) -> None:
        super().__init__(parent.program)
        self.parent = parent
        self.nonce = parent.nonce
        self.unseeded = parent.unseeded
        self.captured: dict[str, Value] = {}
        """The values of the parent that the body takes, by the names of its inputs."""
        self._inputs: dict[Value, Value] = {}

    @property
    def root(self) -> Trace:
        """The trace of the whole program."""
        return self.parent.root

    def own(self, var: Var[Any]) -> Value:
        """As for any trace; what the bodies around this one own is taken through an input."""
        if var._trace is self and not self.closed:
            return var._value
        outer = self.parent.own(var)
        if outer not in self._inputs:
            self._inputs[outer] = self._capture(outer)
        return self._inputs[outer]

    def effect(self, index: str) -> dict[str, Value]:
        """None here: the body as a whole comes after the effect, for it takes the effect's report."""
        report = self.parent.report_of(index)
        if report is not None:
            self.own(report)
        return {}

    def report_of(self, index: str) -> Var[Any] | None:
        """The report of what was last ingested into an index."""
        return self.parent.report_of(index)

    def _capture(self, outer: Value) -> Value:
        constant = self.parent.constant_op(outer)
        if constant is not None:
            return self.add(constant, {})
        name = f"v{outer.node}" if outer.output == 0 else f"v{outer.node}_{outer.output}"
        self.captured[name] = outer
        return self.add(Input(name, self.parent.types[outer]), {}, location="")
