"""The graph of one run as it grows.

A program arrives as one closed increment, or increment by increment while it runs. Every increment is first
renumbered into the ids of the run, then goes through the passes, which see what is there already. Control
flow whose operands have become known turns into one more increment, and a map over a list that a model is
still writing turns into one for each item that closes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, Self

from .deployment import Deployment
from .errors import EvaluationError, GraphError
from .estimate import Estimator
from .expansion import Expansion, expand_stage
from .guessing import Folds, GuessedFold
from .ir import Graph, Node, Value, infer
from .merged_lists import MergedLists
from .observed import Observed
from .open_maps import OpenFold, OpenMap, OpenMaps
from .ops.base import Op
from .ops.common import Forward, Gather, Input, Project
from .ops.control import Cond, Fold, Loop, Map
from .ops.optimized import Element, Merge, Stage
from .passes import GUESS, Context, PassReport, Pipeline
from .passes.base import follow
from .passes.pipeline_decode import PipelineDecode
from .streams import Streams
from .types import Type
from .values import Datum, plain
from .verify import verify

__all__ = ["Growth", "LiveGraph"]


class Growth(NamedTuple):
    """New nodes of a run."""

    nodes: tuple[Node, ...]
    replaces: bool = False
    """Whether the last of them has the id of a control node, whose place it takes."""
    control: int | None = None
    """The control node of which they are bodies, if it stays."""
    more: bool = False
    """Whether it may `advance` at once: it has not only so that others have their turn."""
    given_up: tuple[int, ...] = ()
    """Nodes that were begun on a guess which has turned out to be wrong."""


class LiveGraph:
    """All nodes of one run, in its own ids. It does not run them. `observed`: what earlier runs took."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        disabled: Collection[str] = (),
        observed: Observed | None = None,
    ) -> None:
        self.estimator = Estimator(deployment, observed or Observed())
        self._start()
        self._pipeline = Pipeline(self._context(), disabled)
        self._guesses = GUESS not in disabled

    def _start(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.reports: list[PassReport] = []  # on the last increment
        self.streams = Streams()
        self.known: dict[Value, Datum] = {}
        self.shelved: set[int] = set()  # nodes that nobody needs now: maps and folds among them do not grow
        self.types: dict[Value, Type] = {}
        self._next_id = 0
        self._client: dict[Value, Value] = {}  # values as the client calls them
        self._declared: dict[Value, Type] = {}  # their types, which passes may make less precise
        self._aliases: dict[Value, Value] = {}  # values that passes replaced
        self._maps = OpenMaps()
        self._folds = Folds(self.estimator, self.known, self._aliases)
        self.predicted_ms: dict[int, float] = {}  # by node, as expected when it was added
        self._consumers: dict[int, list[int]] = {}  # maps by the node that makes their list
        self._merged = MergedLists(self.known)

    def _context(self) -> Context:
        return Context(
            self.estimator.deployment,
            self.estimator,
            self.types,
            self._aliases,
            self.nodes,
            self.known,
            self.new_id,
        )

    def fork(self) -> Self:
        """The same graph for another run, of which nothing is known yet."""
        other = type(self).__new__(type(self))
        other.estimator = self.estimator
        other._guesses = self._guesses
        other._start()
        other.nodes.update(self.nodes)
        other.predicted_ms.update(self.predicted_ms)
        other.streams = self.streams.fork()
        other.types.update(self.types)
        other._next_id = self._next_id
        other._client.update(self._client)
        other._declared.update(self._declared)
        other._aliases.update(self._aliases)
        other._consumers.update({element: list(maps) for element, maps in self._consumers.items()})
        other._pipeline = self._pipeline.fork(other._context())
        return other

    def redeploy(self, deployment: Deployment) -> None:
        """Further increments are for this deployment. Not for a graph that has been forked, or is a fork."""
        if deployment is not self.estimator.deployment:
            self.estimator.deployment = deployment
            self._pipeline = self._pipeline.fork(self._context())

    @property
    def takes_parts(self) -> bool:
        """Whether increments may take parts of a text in JSON before it is complete."""
        return PipelineDecode.name in self._pipeline

    # ---- increments

    def extend(self, increment: Graph, *, closed: bool) -> tuple[Node, ...]:
        """Add an increment in the client's ids; the new nodes, in order.

        Of a `closed` increment nobody will take values but its outputs. Raises GraphError; the run cannot
        go on then.
        """
        verify(increment)
        local, names = self._localize(increment)
        graph, reports = self._optimize(local, closed=closed)
        self.reports = [PassReport("as written", f"{len(local.nodes)} nodes", local), *reports]
        self._client.update(names)
        self._declared.update(increment.types)
        return graph.nodes

    def resolve(self, value: Value) -> Value:
        """What a value of the client is called in the run. Raises GraphError for an unknown one."""
        if value not in self._client:
            raise GraphError(f"no increment made {value}")
        return follow(self._aliases, self._client[value])

    def new_id(self) -> int:
        """An id that no node of the run has."""
        self._next_id += 1
        return self._next_id - 1

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
            fresh = self.new_id()
            args = {name: names[value] for name, value in node.args.items()}
            nodes.append(replace(node, id=fresh, args=args, origin=node.id))
            for output in range(len(infer(node, increment.types))):
                made[Value(node.id, output)] = names[Value(node.id, output)] = Value(fresh, output)
        taken = self._outside(nodes, increment.outputs)
        outputs = tuple(names[value] for value in increment.outputs)
        outside = {names[v]: self.types[names[v]] for v in increment.outside} | taken
        return Graph(tuple(nodes), outputs, increment.name, outside), made

    def _outside(self, nodes: Iterable[Node], outputs: Iterable[Value]) -> dict[Value, Type]:
        taken = {value for node in nodes for value in node.args.values()} | set(outputs)
        return {value: self.types[value] for value in sorted(taken) if value in self.types}

    def _optimize(
        self, graph: Graph, *, closed: bool, staged: bool = False, settled: bool = False
    ) -> tuple[Graph, list[PassReport]]:
        graph, aliases, reports = self._pipeline.run(graph, closed=closed, staged=staged, settled=settled)
        self._aliases.update(aliases)
        self.types.update(graph.types)
        for node in graph:
            self._enter(node)
        return graph, reports

    def _enter(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.predicted_ms[node.id] = self.estimator.duration_ms(node)
        self.streams.add(node)
        if isinstance(node.op, Map):
            self._consumers.setdefault(node.args["items"].node, []).append(node.id)

    # ---- what becomes known

    def learned(self, values: Mapping[Value, Datum]) -> list[int]:
        """Take note of values that are known; the open maps and folds that may `advance` now."""
        self.known.update(values)
        self._folds.learned(values)
        if not (self._merged.waited_for or self._maps.waited_for):
            return []
        freed = self._maps.learned(values)
        for source in self._merged.learned(values):
            freed += self._read_merged(source)
        return freed

    def advance(self, node: int) -> Growth:
        """Begin further bodies of a map or fold; none if all of them have been begun meanwhile."""
        opened = self._maps.get(node)
        if node in self.shelved or opened is None:
            return Growth(())
        return self._advance(self.nodes[node], opened)

    def written(self, decode: int, text: str) -> tuple[dict[Value, Datum], list[Growth]]:
        """Take the next piece of what a decode writes: the values that close with it, and what they begin."""
        paths = self.streams.write(decode, text)
        if not paths:
            return {}, []
        lists = [element for path in paths for element in self.streams.waiting(decode, (path[:-1],)) if path]
        known = self._release(self.streams.waiting(decode, paths))
        return self._feed(dict.fromkeys(lists), known)

    def catch_up(self, nodes: Iterable[Node]) -> tuple[dict[Value, Datum], list[Growth]]:
        """The same for nodes, new or needed again, that take what has closed or is known of a merged list."""
        entered = [node for node in nodes if self.nodes.get(node.id) is node]
        lists = [node.id for node in entered if isinstance(node.op, Element)]
        lists += [node.args["items"].node for node in entered if isinstance(node.op, Map)]
        known, grown = self._feed(dict.fromkeys(lists), self._release(lists) | self._merged.early(entered))
        opened = [control for source in dict.fromkeys(lists) for control in self._read_merged(source)]
        return known, [*grown, *(self.advance(control) for control in opened)]

    def _release(self, elements: Iterable[int]) -> dict[Value, Datum]:
        unknown = [element for element in elements if Value(element) not in self.known]
        return self.streams.release(unknown)

    def _feed(
        self, lists: Iterable[int], known: dict[Value, Datum]
    ) -> tuple[dict[Value, Datum], list[Growth]]:
        """Begin the bodies for items of lists that have closed while the list has not."""
        grown: list[Growth] = []
        for element in lists:
            place = self.streams.place(element)
            if place is None or Value(element) in self.known or Value(element) in known:
                continue
            count = self.streams.count(*place)
            for node in self._consumers.get(element, ()) if count else ():
                control = self.nodes[node]
                if isinstance(control.op, Map) and self._may_open(control):
                    opened = self._maps.open_map(node, control.op)
                    opened.known = max(opened.known, count)
                    growth = self._advance(control, opened)
                    grown.append(growth)
                    known |= self._release(n.id for n in growth.nodes)
        return known, [growth for growth in grown if growth.nodes or growth.more]

    def _read_merged(self, source: int) -> list[int]:
        """The maps over a merged list that may begin bodies for the passages whose place in it is settled."""
        count = self._merged.settle(source)
        if count is None:
            return []
        freed: list[int] = []
        for node in self._consumers.get(source, ()):
            control = self.nodes[node]
            if isinstance(control.op, Map) and self._may_open(control):
                opened = self._maps.open_map(node, control.op)
                opened.known = max(opened.known, count)
                freed += [node] if opened.due else []
        return freed

    def _may_open(self, control: Node) -> bool:
        """Whether a map need not wait: what its body takes only for the sake of order must have happened."""
        assert isinstance(control.op, Map)
        if control.id in self.shelved:
            return False
        body = control.op.body
        used = {value for node in body for value in node.args.values()} | set(body.outputs)
        idle = {n.op.name for n in body if isinstance(n.op, Input) and Value(n.id) not in used}
        return all(value in self.known for name, value in control.args.items() if name in idle)

    # ---- control flow

    @property
    def guesses(self) -> set[int]:
        """The nodes for whose results nobody waits yet: they were begun on a guess."""
        return self._folds.guesses

    def expand(self, node: int, args: Mapping[str, Datum], *, idle: bool = False) -> Growth:
        """What a control node becomes, now that its operands are known.

        Of a map or a fold with many items, what may run now; the rest follows by `advance`. `idle`: whether
        models have time for what may turn out to be of no use. Raises EvaluationError when the operands do
        not allow it.
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
            case Fold():
                return self._expand_fold(control, control.op, args, idle=idle)
            case Stage():
                expansion = self._expansion(control)
                op, names = expand_stage(expansion, control.op, control.args, args)
                return self._replace(control, expansion, op, names)
            case _:
                raise TypeError(f"{control.where()} is not control flow")

    def _expansion(self, control: Node) -> Expansion:
        return Expansion(control, self.types, self.new_id)

    def _expand_map(self, node: Node, op: Map, items: object) -> Growth:
        if not isinstance(items, list):
            raise EvaluationError(f"map needs a list, not {type(items).__name__}")
        opened = self._maps.open_map(node.id, op)
        opened.known, opened.complete = len(items), True
        return self._advance(node, opened)

    def _advance(self, node: Node, opened: OpenMap | OpenFold) -> Growth:
        """Begin the bodies of an open map or fold that may; the last ones come with what takes its place."""
        nodes: tuple[Node, ...] = ()
        left = opened.most
        while due := min(opened.due, left):  # again, as one that is merged with what is known makes room
            if isinstance(opened, OpenMap):
                nodes += self._begin_bodies(node, opened, due)
            else:
                nodes += self._begin_portion(node, opened)
            left -= due
        if not opened.all_begun:
            return Growth(nodes, control=node.id, more=opened.due > 0)
        self._maps.close(node.id)
        if isinstance(opened, OpenMap):
            listed = {str(index): value for index, value in enumerate(opened.results)}
            rule = opened.op.merge
            end = self._succeed(node, Gather("list") if rule == "list" else Merge(rule), listed)
        else:
            end = self._succeed(node, Forward(self.types[Value(node.id)]), {"value": opened.state})
        return Growth((*nodes, end), replaces=True)

    def _begin_bodies(self, node: Node, opened: OpenMap, due: int) -> tuple[Node, ...]:
        """Begin so many further bodies of a map."""
        expansion = self._expansion(node)
        op, begun = opened.op, len(opened.results)
        bodies = [self._begin_body(node, op, index, expansion) for index in range(begun, begun + due)]
        nodes = self._absorb(node, expansion, [result for _, result in bodies])
        for index, (item, made) in enumerate(bodies, begun):
            result = follow(self._aliases, made)
            self._maps.began(node.id, result, finished=result in self.known)
            self._merged.take(node.args["items"], index, item)
            if op.merge == "passages":
                self._merged.add(node.id, result)
        return nodes

    def _begin_body(self, node: Node, op: Map, index: int, expansion: Expansion) -> tuple[Value, Value]:
        """The item and the result of a further body."""
        item = self._item(node, index, expansion)
        given = {name: value for name, value in node.args.items() if name != "items"} | {op.ITEM: item}
        (result,) = expansion.body(op.body, given, index)
        return item, result

    def _item(self, node: Node, index: int, expansion: Expansion) -> Value:
        """An item of the list of a map, read from the text if a model writes it there."""
        items = node.args["items"]
        source = self.nodes.get(items.node)
        if source is None or not isinstance(source.op, Element):
            return expansion.add(Project(index), {"value": items})
        kind = Project(index).results({"value": self.types[items]})[0]
        return expansion.add(Element((*source.op.path, index), kind), {"text": source.args["text"]})

    def _expand_cond(self, node: Node, op: Cond, predicate: object) -> Growth:
        if not isinstance(predicate, bool):
            raise EvaluationError(f"cond needs true or false, not {predicate!r}; compare with .equals(...)")
        expansion = self._expansion(node)
        (result,) = expansion.body(op.then if predicate else op.otherwise, node.args)
        return self._replace(node, expansion, Forward(self.types[Value(node.id)]), {"value": result})

    def _expand_loop(self, node: Node, op: Loop, done: object) -> Growth:
        if not isinstance(done, bool):
            raise EvaluationError(f"until must give true or false, not {done!r}; compare with .equals(...)")
        expansion = self._expansion(node)
        if done or op.limit == 0:
            forward = Forward(self.types[Value(node.id)])
            return self._replace(node, expansion, forward, {"value": node.args["state"]})
        captured = {name: value for name, value in node.args.items() if name != "done"}
        state, stop = expansion.body(op.body, captured, op.limit)
        turn = {**captured, "state": state, "done": stop}
        return self._replace(node, expansion, replace(op, limit=op.limit - 1), turn)

    def _expand_fold(self, node: Node, op: Fold, args: Mapping[str, Datum], *, idle: bool) -> Growth:
        items = plain(args["items"])
        if not isinstance(items, list):
            raise EvaluationError(f"fold needs a list, not {type(items).__name__}")
        fold = self._folds.take(node, args["state"])
        may_guess = self._guesses and not op.effectful
        nodes: tuple[Node, ...] = ()
        given_up: list[Value] = []
        while True:
            given_up += self._folds.go_on(fold)
            bodies = self._folds.bodies(fold, len(items)) if may_guess and idle else 0
            if not (bodies or fold.row):
                break
            nodes += self._guess(node, op, fold, bodies)
            if fold.row[0] not in self.known:  # it may be, if it is what somebody has computed before
                self._folds.wait(fold)
                wait = self._succeed(node, op, {**node.args, "state": fold.row[0]})
                return Growth((*nodes, wait), replaces=True, given_up=_gone(given_up, fold.row))
        if may_guess:
            self._folds.watch(fold)
        opened = OpenFold(op, fold.state, fold.index, len(items))
        self._maps.open_fold(node.id, opened)
        rest = self._advance(node, opened)
        return rest._replace(nodes=(*nodes, *rest.nodes), given_up=_gone(given_up, ()))

    def _guess(self, node: Node, op: Fold, fold: GuessedFold, bodies: int) -> tuple[Node, ...]:
        """Begin bodies of a fold on the state that is known, until there are so many."""
        begun = range(fold.index + len(fold.row), fold.index + bodies)
        if not begun:
            return ()
        expansion = self._expansion(node)
        for index in begun:
            fold.row.append(self._fold_body(node, op, index, fold.state, expansion))
        nodes = self._absorb(node, expansion, fold.row)
        fold.row = [follow(self._aliases, value) for value in fold.row]
        return nodes

    def _begin_portion(self, node: Node, opened: OpenFold) -> tuple[Node, ...]:
        """Begin further bodies of a fold: what does not depend on their states need not wait for these."""
        expansion = self._expansion(node)
        state = opened.state
        states: list[Value] = []
        for index in opened.following:
            state = self._fold_body(node, opened.op, index, state, expansion)
            states.append(state)
        nodes = self._absorb(node, expansion, [state])
        state = follow(self._aliases, state)
        self._folds.begun(node.id, states)
        self._maps.began(node.id, state, finished=state in self.known)
        return nodes

    def _fold_body(self, node: Node, op: Fold, index: int, state: Value, expansion: Expansion) -> Value:
        captured = {name: value for name, value in node.args.items() if name not in ("items", "state")}
        item = expansion.add(Project(index), {"value": node.args["items"]})
        (result,) = expansion.body(op.body, {**captured, op.STATE: state, op.ITEM: item}, index)
        return result

    def _replace(self, node: Node, expansion: Expansion, op: Op, args: Mapping[str, Value]) -> Growth:
        """Run the passes over an expansion, and let `op` take the control node's place."""
        nodes = self._absorb(node, expansion, args.values())
        return Growth((*nodes, self._succeed(node, op, args)), replaces=True)

    def _absorb(self, node: Node, expansion: Expansion, keep: Iterable[Value]) -> tuple[Node, ...]:
        """Run the passes over an expansion, of which the values to `keep` will be taken."""
        made = {new.id for new in expansion.nodes}
        outputs = tuple(dict.fromkeys(value for value in keep if value.node in made))
        outside = self._outside(expansion.nodes, outputs)
        types = {**expansion.types.maps[0], **outside}
        graph = Graph.inferred(tuple(expansion.nodes), outputs, node.name, outside, types)
        taken = {value for new in expansion.nodes for value in new.args.values()}
        settled = all(new.op.kind == "host" for new in expansion.nodes) and all(
            value in self.known for value in taken if value.node not in made
        )
        staged = isinstance(node.op, Stage)
        return self._optimize(graph, closed=True, staged=staged, settled=settled)[0].nodes

    def _succeed(self, node: Node, op: Op, args: Mapping[str, Value]) -> Node:
        operands = {name: follow(self._aliases, value) for name, value in args.items()}
        successor = replace(node, op=op, args=operands)
        self._enter(successor)
        return successor


def _gone(given_up: Iterable[Value], kept: Iterable[Value]) -> tuple[int, ...]:
    """The nodes of a fold that nobody waits for any more."""
    return tuple(sorted({value.node for value in given_up} - {value.node for value in kept}))
