"""The graph of one run as it grows.

A program arrives as one closed increment, or increment by increment while it runs. Every increment is first
renumbered into the ids of the run, then goes through the passes, which see what is there already. Control
flow whose operands have become known turns into one more increment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count

from .deployment import Deployment
from .errors import GraphError
from .evaluate import EvaluationError
from .ir import Graph, Node, Value, infer
from .ops.common import Forward, Gather, Input, Project
from .ops.control import Cond, Loop, Map
from .passes import PassReport, Pipeline
from .passes.base import follow
from .types import Type
from .values import Datum, plain
from .verify import verify

__all__ = ["LiveGraph"]


class LiveGraph:
    """All nodes of one run, in its own ids. Pure: it neither runs nodes nor holds their values."""

    def __init__(self, deployment: Deployment, *, disabled: Collection[str] = ()) -> None:
        self.nodes: dict[int, Node] = {}
        self.reports: list[PassReport] = []
        self._types: dict[Value, Type] = {}
        self._ids = count()
        self._client: dict[Value, Value] = {}  # values as the client calls them
        self._declared: dict[Value, Type] = {}  # their types, which passes may make less precise
        self._aliases: dict[Value, Value] = {}  # values that passes replaced
        self._pipeline = Pipeline(deployment, self._types, self._aliases, self._new_id, disabled)

    def extend(self, increment: Graph, *, closed: bool) -> tuple[Node, ...]:
        """Add an increment in the client's ids; the new nodes, in order.

        Of a `closed` increment nobody will take values but its outputs. Raises GraphError; the run cannot
        go on then.
        """
        verify(increment)
        local, names = self._localize(increment)
        self.reports.append(PassReport("as written", f"{len(local.nodes)} nodes", local))
        nodes = self._add(local, closed=closed, report=True)
        self._client.update(names)
        self._declared.update(increment.types)
        return nodes

    def resolve(self, value: Value) -> Value:
        """What a value of the client is called in the run. Raises GraphError for an unknown one."""
        if value not in self._client:
            raise GraphError(f"no increment made {value}")
        return follow(self._aliases, self._client[value])

    def type_of(self, value: Value) -> Type:
        """The type of a value of the run."""
        return self._types[value]

    def expand(self, node: int, args: Mapping[str, Datum]) -> tuple[Node, ...]:
        """What a control node becomes, now that its operands are known; the last node takes its place.

        Raises EvaluationError when the operands do not allow it.
        """
        control = self.nodes[node]
        match control.op:
            case Map():
                return self._expand_map(control, control.op, plain(args["items"]))
            case Cond():
                return self._expand_cond(control, control.op, plain(args["predicate"]))
            case Loop():
                done = plain(args["done"]) if "done" in args else False
                return self._expand_loop(control, control.op, done)
            case _:
                raise TypeError(f"{control.where()} is not control flow")

    def _new_id(self) -> int:
        return next(self._ids)

    def _localize(self, increment: Graph) -> tuple[Graph, dict[Value, Value]]:
        """The increment in ids of the run, and its values by the client's names."""
        names = {value: self.resolve(value) for value in increment.outside}
        for value in increment.outside:
            if increment.outside[value] != self._declared[value]:
                raise GraphError(
                    f"the increment takes {value} as {increment.outside[value]}, which it is not"
                )
        made: dict[Value, Value] = {}
        nodes: list[Node] = []
        for node in increment:
            fresh = self._new_id()
            args = {name: names[value] for name, value in node.args.items()}
            nodes.append(replace(node, id=fresh, args=args))
            for output in range(len(infer(node, increment.types))):
                made[Value(node.id, output)] = names[Value(node.id, output)] = Value(fresh, output)
        taken = self._outside(nodes, increment.outputs)
        outputs = tuple(names[value] for value in increment.outputs)
        outside = {names[v]: self._types[names[v]] for v in increment.outside} | taken
        return Graph(tuple(nodes), outputs, increment.name, outside), made

    def _outside(self, nodes: Iterable[Node], outputs: Iterable[Value]) -> dict[Value, Type]:
        taken = {value for node in nodes for value in node.args.values()} | set(outputs)
        return {value: self._types[value] for value in sorted(taken) if value in self._types}

    def _add(self, graph: Graph, *, closed: bool, report: bool = False) -> tuple[Node, ...]:
        aliases: dict[Value, Value] = {}
        reports: list[PassReport] = []
        for step in self._pipeline.passes(closed=closed):
            rewrite = step(graph)
            graph = rewrite.graph
            aliases.update(rewrite.aliases)
            reports.append(PassReport(step.name, rewrite.summary, graph))
        if report:
            self.reports += reports
        self._aliases.update(aliases)
        self._types.update(graph.types)
        self.nodes.update(graph.by_id)
        return graph.nodes

    def _expand_map(self, node: Node, op: Map, items: object) -> tuple[Node, ...]:
        if not isinstance(items, list):
            raise EvaluationError(f"map needs a list, not {type(items).__name__}")
        expansion = _Expansion(self, node)
        results: list[Value] = []
        for index in range(len(items)):
            item = expansion.add(Project(index), {"value": node.args["items"]})
            given = {name: value for name, value in node.args.items() if name != "items"} | {op.ITEM: item}
            results += expansion.body(op.body, given)
        listed = {str(index): value for index, value in enumerate(results)}
        return self._replace(node, expansion, Gather("list"), listed, keep=results)

    def _expand_cond(self, node: Node, op: Cond, predicate: object) -> tuple[Node, ...]:
        if not isinstance(predicate, bool):
            raise EvaluationError(f"cond needs true or false, not {predicate!r}; compare with .equals(...)")
        expansion = _Expansion(self, node)
        (result,) = expansion.body(op.then if predicate else op.otherwise, node.args)
        forward = Forward(self._types[Value(node.id)])
        return self._replace(node, expansion, forward, {"value": result}, keep=[result])

    def _expand_loop(self, node: Node, op: Loop, done: object) -> tuple[Node, ...]:
        if not isinstance(done, bool):
            raise EvaluationError(f"until must give true or false, not {done!r}; compare with .equals(...)")
        if done or op.limit == 0:
            forward = Forward(self._types[Value(node.id)])
            return self._replace(
                node, _Expansion(self, node), forward, {"value": node.args["state"]}, keep=[]
            )
        expansion = _Expansion(self, node)
        captured = {name: value for name, value in node.args.items() if name != "done"}
        state, stop = expansion.body(op.body, captured)
        turn = {**captured, "state": state, "done": stop}
        return self._replace(node, expansion, replace(op, limit=op.limit - 1), turn, keep=[state, stop])

    def _replace(
        self,
        node: Node,
        expansion: _Expansion,
        op: Gather | Forward | Loop,
        args: Mapping[str, Value],
        keep: list[Value],
    ) -> tuple[Node, ...]:
        """Run the passes over an expansion, and let `op` over its results take the control node's place."""
        graph = Graph(tuple(expansion.nodes), tuple(keep), node.name, self._outside(expansion.nodes, keep))
        added = self._add(graph, closed=True)
        operands = {name: follow(self._aliases, value) for name, value in args.items()}
        successor = replace(node, op=op, args=operands)
        self.nodes[node.id] = successor
        return (*added, successor)


class _Expansion:
    """The user-dialect nodes that a control node becomes, before the passes."""

    def __init__(self, live: LiveGraph, control: Node) -> None:
        self.nodes: list[Node] = []
        self._live = live
        self._control = control
        self._types: dict[Value, Type] = dict(live._types)

    def add(self, op: Project | Forward, args: Mapping[str, Value]) -> Value:
        """A node of the expansion itself."""
        return self._append(replace(self._control, id=self._live._new_id(), op=op, args=args))

    def body(self, body: Graph, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """A copy of a body with its inputs replaced by values; its results."""
        names: dict[Value, Value] = {}
        for node in body:
            if isinstance(node.op, Input):
                names[Value(node.id)] = self._as(given[node.op.name], node.op.type)
                continue
            args = {name: names[value] for name, value in node.args.items()}
            made = self._append(replace(node, id=self._live._new_id(), args=args))
            for output in range(len(infer(node, body.types))):
                names[Value(node.id, output)] = Value(made.node, output)
        return tuple(names[value] for value in body.outputs)

    def _as(self, value: Value, declared: Type) -> Value:
        """The value at the type that the body was written for."""
        return value if self._types[value] == declared else self.add(Forward(declared), {"value": value})

    def _append(self, node: Node) -> Value:
        for output, kind in enumerate(infer(node, self._types)):
            self._types[Value(node.id, output)] = kind
        self.nodes.append(node)
        return Value(node.id)
