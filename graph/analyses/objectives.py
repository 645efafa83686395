"""What each node is run for: the latency of what somebody waits for, or the throughput of the rest.

Parrot (OSDI'24, section 5.2) deduces this from what the user asks for: whoever feeds a latency-bound node one
behind another is latency-bound too; siblings that feed it together are a task group, of which only the last
to end counts, so that they are batched for throughput. A prompt that is cut into a chain of prefills is one
consumer: what feeds its parts feeds the prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..ir import Graph, Node, Value
from ..ops.control import Map
from ..ops.primitive import Prefill
from .depth import depth

__all__ = ["LATENCY", "THROUGHPUT", "Aim", "Objective", "objectives"]

Aim = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a node is run for. Nodes of one task group have the number of the node that they feed."""

    kind: Literal["latency", "group", "throughput"]
    group: int | None = None


THROUGHPUT: Final = Objective("throughput")
LATENCY: Final = Objective("latency")


def objectives(
    graph: Graph, wanted: Mapping[Value, Aim], given: Mapping[int, Objective] | None = None
) -> dict[int, Objective]:
    """The objective of each node, for values that somebody waits for or merely wants at some time.

    `given`: what some nodes are run for on account of consumers outside the graph. Deduced from nothing but
    its arguments: with a further consumer, ask again.
    """
    found: dict[int, Objective] = {}
    aims: dict[int, Objective] = {value.node: LATENCY for value, aim in wanted.items() if aim == "latency"}
    aims |= given or {}
    depths = depth(graph)
    by_id = graph.by_id
    read_on = {args["kv"].node for node in graph for args in [node.args] if "kv" in args}
    for node in reversed(graph.nodes):
        found[node.id] = aims.get(node.id, THROUGHPUT)
        if found[node.id].kind == "throughput":
            continue
        if isinstance(node.op, Prefill) and node.id in read_on:
            continue  # whoever reads on has said what its parts are run for
        for maker, objective in _of_makers(node, found[node.id], by_id, depths).items():
            known = aims.get(maker)
            if known is None or (known.kind == "group" and objective.kind == "latency"):
                aims[maker] = objective
    return found


def _of_makers(
    node: Node, objective: Objective, by_id: Mapping[int, Node], depths: Mapping[int, int]
) -> dict[int, Objective]:
    """The objectives of what a node waits for."""
    siblings: defaultdict[tuple[type, int], set[int]] = defaultdict(set)
    wanted: dict[int, Objective] = {}
    for taker, maker in _makers(node, by_id):
        if isinstance(maker.op, Prefill):
            wanted[maker.id] = objective if objective.kind == "group" else LATENCY
        else:
            siblings[type(maker.op), depths[maker.id] - depths[taker.id]].add(maker.id)
    for members in siblings.values():
        for member in members:
            if objective.kind == "group":
                wanted[member] = objective
            elif len(members) > 1 or isinstance(by_id[member].op, Map):
                wanted[member] = Objective("group", node.id)
            else:
                wanted[member] = LATENCY
    return wanted


def _makers(node: Node, by_id: Mapping[int, Node]) -> Iterator[tuple[Node, Node]]:
    """What a node and the parts of its prompt wait for, each behind who takes it."""
    taker: Node | None = node
    while taker is not None:
        before: Node | None = None
        for name, value in taker.args.items():
            maker = by_id.get(value.node)
            if maker is not None:
                yield taker, maker
                if name == "kv" and isinstance(maker.op, Prefill):
                    before = maker
        taker = before
