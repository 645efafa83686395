"""KV contexts in full: what the model has read, for a worker that does not hold the context."""

from __future__ import annotations

from collections.abc import Mapping

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.values import Datum, KvValue, Segment, TextValue, render

__all__ = ["context_key", "recipe"]


def context_key(run: str, value: Value) -> str:
    """How workers know the KV value of a run."""
    return f"{run}/{value}"


def recipe(run: str, value: Value, nodes: Mapping[int, Node], values: Mapping[Value, Datum]) -> KvValue:
    """The context as segments, from those that it continues down to its own.

    Generated text keeps the token ids that the model sampled; text in a slot is tokenized where it stands.
    """
    chain = [nodes[value.node]]
    while "kv" in chain[-1].args:
        chain.append(nodes[chain[-1].args["kv"].node])
    segments = [segment for node in reversed(chain) for segment in _segments(node, values)]
    return KvValue(context_key(run, value), tuple(segments))


def _segments(node: Node, values: Mapping[Value, Datum]) -> list[Segment]:
    match node.op:
        case Prefill(pieces=pieces):
            return [
                Segment(TextValue(piece.text), piece.trusted)
                if isinstance(piece, Fixed)
                else Segment(TextValue(render(values[node.args[piece.name]])), strip=piece.strip)
                for piece in pieces
            ]
        case Decode():
            text = values[Value(node.id, 1)]
            assert isinstance(text, TextValue)
            return [Segment(text)]
        case _:
            raise TypeError(f"{node.where()} makes no KV context")
