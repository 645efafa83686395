"""Control flow and stages as nodes, once it is known what they depend on."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from .errors import EvaluationError
from .ir import Graph, Node, Value, infer
from .ops.base import Op
from .ops.common import Embed, Forward, Input, Neighbours, Search
from .ops.optimized import Merge, Slice, Stage
from .ops.primitive import Partial, Upsert
from .ops.user import Rerank
from .seeds import resampled
from .types import Effect, Type
from .values import Datum, plain

__all__ = ["Expansion", "expand_stage"]


class Expansion:
    """The nodes that a control node becomes, in the user's dialect, before the passes."""

    def __init__(self, control: Node, types: dict[Value, Type], new_id: Callable[[], int]) -> None:
        self.nodes: list[Node] = []
        self.types: ChainMap[Value, Type] = ChainMap({}, types)  # only its front is written
        self._control = control
        self._new_id = new_id

    def add(self, op: Op, args: Mapping[str, Value]) -> Value:
        """A node of the expansion itself."""
        return self._append(replace(self._control, id=self._new_id(), op=op, args=args))

    def body(self, body: Graph, given: Mapping[str, Value], number: int | None = None) -> tuple[Value, ...]:
        """A copy of a body with its inputs replaced by values; its results.

        If an effect is `given` as `after`, reads of its index come after it. `number`: of this copy, where
        there are several, which draw their samples apart.
        """
        if number is not None:
            body = resampled(body, lambda op: op.sampling.of_copy(number))
        names: dict[Value, Value] = {}
        for node in body:
            if isinstance(node.op, Input):
                names[Value(node.id)] = self._as(given[node.op.name], node.op.type)
                continue
            args = {name: names[value] for name, value in node.args.items()}
            if isinstance(node.op, Search | Neighbours) and self._orders(given.get("after"), node.op):
                args.setdefault("after", given["after"])
            made = self._append(replace(node, id=self._new_id(), args=args, origin=node.id))
            for result in body.results[node.id]:
                names[result] = Value(made.node, result.output)
        return tuple(names[value] for value in body.outputs)

    def _orders(self, effect: Value | None, op: Search | Neighbours) -> bool:
        kind = self.types.get(effect) if effect is not None else None
        return isinstance(kind, Effect) and kind.resource == op.index

    def _as(self, value: Value, declared: Type) -> Value:
        """The value at the type that the body was written for."""
        return value if self.types[value] == declared else self.add(Forward(declared), {"value": value})

    def _append(self, node: Node) -> Value:
        for output, kind in enumerate(infer(node, self.types)):
            self.types[Value(node.id, output)] = kind
        self.nodes.append(node)
        return Value(node.id)


def expand_stage(
    expansion: Expansion, op: Stage, names: Mapping[str, Value], args: Mapping[str, Datum]
) -> tuple[Op, dict[str, Value]]:
    """The stages as nodes of the expansion; what takes the place of the control node, and its operands.

    `names` and `args` are its operands as values of the graph and as data. Raises EvaluationError.
    """
    items = plain(args[op.items])
    count = len(items) if isinstance(items, list) else 1
    bounds = [(start, min(start + op.size, count)) for start in range(0, count, op.size)]
    match op.work:
        case "embed":
            return _embed(expansion, op, names, bounds)
        case "rerank":
            return _rerank(expansion, names, bounds)
        case "ingest":
            return _ingest(expansion, op, names, bounds, plain(args["chunks"]))


_Bounds = list[tuple[int, int]]
_Place = tuple[Op, dict[str, Value]]


def _embed(expansion: Expansion, op: Stage, names: Mapping[str, Value], bounds: _Bounds) -> _Place:
    if len(bounds) < 2:
        return Embed(op.model), dict(names)
    parts = _slices(expansion, names["texts"], bounds)
    return Merge("vectors"), _numbered(expansion.add(Embed(op.model), {"texts": part}) for part in parts)


def _rerank(expansion: Expansion, names: Mapping[str, Value], bounds: _Bounds) -> _Place:
    if len(bounds) < 2:
        return Rerank(), dict(names)
    parts = _slices(expansion, names["passages"], bounds)
    best = _numbered(expansion.add(Rerank(), {**names, "passages": part}) for part in parts)
    return Merge("top_k"), {**best, "k": names["k"]}


def _ingest(
    expansion: Expansion, op: Stage, names: Mapping[str, Value], bounds: _Bounds, chunks: list[dict[str, Any]]
) -> _Place:
    """Each stage is stored after the one before it: an index is written by one at a time anyway."""
    order = {"after": names["after"]} if "after" in names else {}
    if len(bounds) < 2:
        vectors = expansion.add(Embed(op.model), {"texts": names["texts"]})
        return Upsert(op.index), {"chunks": names["chunks"], "vectors": vectors, **order}
    _expect_unique(chunks)
    texts, parts = (_slices(expansion, names[name], bounds) for name in ("texts", "chunks"))
    embedded = [expansion.add(Embed(op.model), {"texts": part}) for part in texts]
    sizes = _passages_of(chunks)
    reports: list[Value] = []
    for part, vectors_of_part, (start, stop) in zip(parts, embedded, bounds, strict=True):
        stage = Upsert(op.index, _partial(chunks[start:stop], sizes))
        reports.append(expansion.add(stage, {"chunks": part, "vectors": vectors_of_part, **order}))
        order = {"after": Value(reports[-1].node, 1)}
    return Merge("reports", op.index), {**_numbered(reports), **order}


def _slices(expansion: Expansion, value: Value, bounds: _Bounds) -> list[Value]:
    return [expansion.add(Slice(start, stop), {"value": value}) for start, stop in bounds]


def _numbered(values: Iterable[Value]) -> dict[str, Value]:
    return {str(number): value for number, value in enumerate(values)}


def _passages_of(chunks: list[dict[str, Any]]) -> dict[str, int]:
    """How many passages each document has."""
    sizes: dict[str, int] = {}
    for chunk in chunks:
        sizes[chunk["document"]] = sizes.get(chunk["document"], 0) + 1
    return sizes


def _partial(stage: list[dict[str, Any]], sizes: Mapping[str, int]) -> tuple[Partial, ...]:
    """The documents that other stages store too."""
    here = _passages_of(stage)
    return tuple(Partial(name, sizes[name]) for name, count in here.items() if count < sizes[name])


def _expect_unique(chunks: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for chunk in chunks:
        if chunk["id"] in seen:
            raise EvaluationError(f"two passages have the id {chunk['id']!r}; ids of documents must differ")
        seen.add(chunk["id"])
