"""Let parts of what a model writes leave as soon as they are written.

    %3 = parse(%2)                            %5 = element(%2, ())
    %4 = embed(%3)                       ->   %6 = map(%5, body: embed, search) by passages
    %6 = search("docs", query=%3, vectors=%4)

    %3 = parse(%2)                            (gone)
    %4 = project(%3, "title")            ->   %4 = element(%2, ("title",))

Items of a list start their consumers as each closes; how many there are turns out at run time. Fields of an
object are known one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from .. import schema as json_schema
from ..ir import Graph, Node, Value
from ..ops.common import Embed, Parse, Project, Search
from ..ops.control import Map
from ..ops.optimized import Element, Key
from ..ops.primitive import Decode
from ..sampling import JsonSchema
from ..types import Data
from .base import Context, Rewrite, follow
from .beside import beside_ms
from .gates import NODE_MS
from .item_bodies import embed_body, search_body

__all__ = ["PipelineDecode"]

_ITEM_MS: Final = 1.5
"""What a message for one item costs, and passes over its body alone (measured on two cores)."""

_ITEMS: Final = 3  # that a list is expected to have, at least
_NO_GAIN: Final = "saves less than it costs"
_MAYBE: Final = ("is a part of what the model may leave out", "may be left out")


class _Part(NamedTuple):
    """A value as a part of a text that a model writes; one with a `default` may not be written at all."""

    text: Value
    path: tuple[Key, ...]
    default: str | None = None


class _Gain(NamedTuple):
    """What one item gains by leaving before the list is complete, and what that costs."""

    saved_ms: float
    cost_ms: float

    @property
    def worthwhile(self) -> bool:
        return self.saved_ms > self.cost_ms


class PipelineDecode:
    """Teola's Pass 4 (section 4.2), for any structure that a grammar enforces, with the count discovered.

    Items leave one by one if what is done with each, beside the model that writes on, is worth more than its
    messages.
    """

    name = "pipeline_decode"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._parts: dict[Value, _Part] = {}  # what increments so far hold of values that models write

    def fork(self, context: Context) -> PipelineDecode:
        """The same memory in another run."""
        other = PipelineDecode(context)
        other._parts = dict(self._parts)
        return other

    def __call__(self, graph: Graph) -> Rewrite:
        """Rewrite what takes parts of a text that a model writes in JSON."""
        if not (self._parts or any(isinstance(node.op, Parse) for node in graph)):
            return Rewrite(graph, {}, "no model writes anything that has parts")
        step = _Step(self._context, self._parts, graph)
        for node in graph:
            step.take(node)
        builder = step.builder
        return builder.rewrite(f"{len(builder.changes)} nodes begin before a decode has ended")


class _Step:
    """One increment on its way through the pass."""

    def __init__(self, context: Context, parts: dict[Value, _Part], graph: Graph) -> None:
        self.builder = context.builder(graph)
        self._context = context
        self._parts = parts
        self._graph = graph
        self._wholes: dict[_Part, Value] = {}

    def take(self, node: Node) -> None:
        match node.op:
            case Parse():
                self._parse(node)
            case Project():
                self._project(node, node.op)
            case Map():
                self._map(node, node.op)
            case Embed():
                self._embed(node, node.op)
            case Search():
                self._search(node, node.op)
            case _:
                self.builder.keep(node)

    # ---- parts of what is written

    def _parse(self, node: Node) -> None:
        text = self._operand(node, "text")
        self.builder.keep(node)
        decode = self._maker(text)
        if (
            decode is not None
            and isinstance(decode.op, Decode)
            and isinstance(decode.op.constraint, JsonSchema)
        ):
            self._parts[Value(node.id)] = _Part(text, ())

    def _project(self, node: Node, op: Project) -> None:
        part = self._part(node, "value")
        if part is None:
            self.builder.keep(node)
            return
        refusal = _MAYBE if part.default is not None else self._refusal(node, op.key)
        if refusal:
            self.builder.keep(node)
            self.builder.refused(node, *refusal)
            return
        inner = _Part(part.text, (*part.path, op.key), op.default)
        element = Element(inner.path, self._graph.types[Value(node.id)], op.default)
        made = self.builder.add(element, {"text": inner.text}, node)
        self.builder.replace(Value(node.id), made)
        self.builder.changed(node, f"known as {made} as soon as {_spelled(inner.path)} closes")
        self._parts[made] = inner

    def _refusal(self, node: Node, key: Key) -> tuple[str, str] | None:
        """Why a part gains nothing by leaving early: a text and the rule."""
        if isinstance(key, int):
            return ("counts from the end, which comes last", "counted from the end") if key < 0 else None
        kind = self.builder.types[self._operand(node, "value")]
        fields = json_schema.fields(kind.schema) if isinstance(kind, Data) else None
        result = self._graph.types[Value(node.id)]
        nested = isinstance(result, Data) and json.loads(result.schema).get("type") in ("array", "object")
        if fields is not None and fields[-1:] == (key,) and not nested:  # grammars keep the schema's order
            return f"{key!r} is the last field: it closes with the whole", "closes with the whole"
        return None

    # ---- consumers of lists

    def _map(self, node: Node, op: Map) -> None:
        part = self._part(node, "items")
        if part is None:
            self.builder.keep(node)
            return
        gain = self._gain(part, op.body, one_by_one=0 < op.concurrency < _ITEMS)
        if not gain.worthwhile:
            self._leave(node, gain)
            return
        args = {**self.builder.renamed(node), "items": self._whole(part, node, "items")}
        self.builder.keep(replace(node, args=args))
        self.builder.changed(node, f"its bodies begin as the items of {args['items']} close")

    def _search(self, node: Node, op: Search) -> None:
        part = self._part(node, "query")
        embed = self._embed_of(node)
        if part is None or not self._holds_texts(node, "query") or ("vectors" in node.args and embed is None):
            self.builder.keep(node)
            return
        body = search_body(node, op, embed)
        gain = self._gain(part, body, 1 if embed is None else 2)
        if not gain.worthwhile:
            self._leave(node, gain)
            return
        renamed = self.builder.renamed(node).items()
        shared = {name: value for name, value in renamed if name in ("k", "where", "after")}
        self._to_map(node, Map(body, merge="passages"), {"items": self._whole(part, node, "query"), **shared})

    def _embed(self, node: Node, op: Embed) -> None:
        part = self._part(node, "texts")
        if part is None or not self._holds_texts(node, "texts"):
            self.builder.keep(node)
            return
        users = self._graph.users.get(Value(node.id), ())
        if users and Value(node.id) not in self._graph.outputs and all(map(self._takes_over, users)):
            return  # each search embeds its own query
        body = embed_body(node, op)
        gain = self._gain(part, body, 1)
        if not gain.worthwhile:
            self._leave(node, gain)
            return
        self._to_map(node, Map(body, merge="vectors"), {"items": self._whole(part, node, "texts")})

    def _to_map(self, node: Node, op: Map, args: Mapping[str, Value]) -> None:
        made = self.builder.add(op, args, node)
        self.builder.replace(Value(node.id), made)
        self.builder.changed(node, f"became {made}: one {node.op.label()} an item, begun as the item closes")

    def _takes_over(self, user: Node) -> bool:
        """Whether a user of a list's embeddings will embed item by item."""
        embed = self._embed_of(user) if isinstance(user.op, Search) else None
        part = self._part(user, "query") if embed is not None else None
        if embed is None or part is None:
            return False
        assert isinstance(user.op, Search)
        return self._gain(part, search_body(user, user.op, embed), 2).worthwhile

    def _gain(self, part: _Part, body: Graph, more: int = 0, *, one_by_one: bool = False) -> _Gain:
        """What each item of a list gains by leaving at once, if it makes so many primitives more."""
        decode = self._maker(part.text)
        assert decode is not None
        assert isinstance(decode.op, Decode)
        context = self._context
        model, deployment = decode.op.model, context.deployment
        saved = beside_ms(body, model, deployment, context.estimator, one_by_one=one_by_one)
        return _Gain(saved, _ITEM_MS + more * NODE_MS)

    def _leave(self, node: Node, gain: _Gain) -> None:
        """Let a consumer of a list wait for all of it."""
        self.builder.keep(node)
        text = f"each item would save {gain.saved_ms:.1f} ms beside the model that writes, and cost"
        self.builder.refused(node, f"{text} {gain.cost_ms:.1f} ms of messages", _NO_GAIN)

    def _embed_of(self, node: Node) -> Node | None:
        """What embeds the queries of a search, if it embeds just those."""
        vectors = node.args.get("vectors")
        embed = self._graph.by_id.get(vectors.node) if vectors is not None else None
        if embed is None or not isinstance(embed.op, Embed) or embed.args["texts"] != node.args["query"]:
            return None
        return embed

    def _holds_texts(self, node: Node, operand: str) -> bool:
        kind = self._graph.types[node.args[operand]]
        return isinstance(kind, Data) and json.loads(json_schema.item(kind.schema)).get("type") == "string"

    # ---- values

    def _operand(self, node: Node, name: str) -> Value:
        return follow(self.builder.aliases, node.args[name])

    def _part(self, node: Node, operand: str) -> _Part | None:
        part = self._parts.get(self._operand(node, operand))
        return None if part is None else part._replace(text=follow(self._context.aliases, part.text))

    def _maker(self, value: Value) -> Node | None:
        return self._graph.by_id.get(value.node) or self._context.nodes.get(value.node)

    def _whole(self, part: _Part, node: Node, operand: str) -> Value:
        """The list or object itself as a value that is read as a stream."""
        value = self._operand(node, operand)
        if part not in self._wholes:
            element = Element(part.path, self.builder.types[value], part.default)
            self._wholes[part] = self.builder.add(element, {"text": part.text}, node, name="")
            self._parts[self._wholes[part]] = part
        return self._wholes[part]


def _spelled(path: tuple[Key, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
