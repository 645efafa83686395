"""Layered drawings of directed acyclic graphs.

The method of Sugiyama, Tagawa and Toda ("Methods for Visual Understanding of Hierarchical System Structures",
IEEE Trans. SMC 11(2), 1981): layers by longest paths, long edges cut by points in the layers that they cross,
orders by barycenters, and then places as near to the neighbours' as the order allows. The places of a layer
are a least-squares fit under separation constraints, solved by pooling adjacent violators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["Layout", "layout"]

_ROUNDS: Final = 8
_BEND_WIDTH: Final = 0.25  # that an edge takes in each layer that it crosses

Edge = tuple[int, int]
Item = Hashable  # a node, or (source, target, layer) where an edge crosses a layer
Links = Mapping[Item, list[Item]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where to draw. One unit is the least distance of two nodes of one layer, and of two layers."""

    x: Mapping[int, float]  # from 0
    layer: Mapping[int, int]  # from 0, along the edges
    bends: Mapping[Edge, tuple[float, ...]]
    """The places of an edge in the layers that it crosses."""

    @property
    def width(self) -> float:
        """The largest place."""
        bends = (place for places in self.bends.values() for place in places)
        return max([*self.x.values(), *bends], default=0.0)

    @property
    def layers(self) -> int:
        """How many there are."""
        return max(self.layer.values(), default=-1) + 1


def layout(nodes: Sequence[int], edges: Sequence[Edge]) -> Layout:
    """The layout of a graph whose nodes are in topological order."""
    layer = _layers(nodes, edges)
    rows: list[list[Item]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in nodes:
        rows[layer[node]].append(node)
    above: defaultdict[Item, list[Item]] = defaultdict(list)
    below: defaultdict[Item, list[Item]] = defaultdict(list)
    chains = {edge: _chain(edge, layer) for edge in edges}
    for (source, _), chain in chains.items():
        for number, item in enumerate(chain[1:-1], layer[source] + 1):
            rows[number].append(item)
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
    _order(rows, above, below)
    x = _places(rows, above, below)
    bends = {edge: tuple(x[item] for item in chain[1:-1]) for edge, chain in chains.items()}
    return Layout({node: x[node] for node in nodes}, layer, bends)


def _layers(nodes: Sequence[int], edges: Iterable[Edge]) -> dict[int, int]:
    """By the longest path to each node; a source stands right above the first that it feeds."""
    sources: defaultdict[int, list[int]] = defaultdict(list)
    targets: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    layer: dict[int, int] = {}
    for node in nodes:
        layer[node] = max((layer[source] + 1 for source in sources[node]), default=0)
    for node in nodes:
        if not sources[node] and targets[node]:
            layer[node] = min(layer[target] for target in targets[node]) - 1
    return layer


def _chain(edge: Edge, layer: Mapping[int, int]) -> list[Item]:
    source, target = edge
    crossed = range(layer[source] + 1, layer[target])
    return [source, *((source, target, number) for number in crossed), target]


def _order(rows: list[list[Item]], above: Links, below: Links) -> None:
    """Sort the rows by the barycenters of their neighbours, downwards and upwards in turn."""
    for number in range(_ROUNDS):
        downwards = number % 2 == 0
        links = above if downwards else below
        for row, other in _neighbours(rows, downwards=downwards):
            places = {item: float(place) for place, item in enumerate(other)}
            keys = {item: _mean(links.get(item, ()), places, place) for place, item in enumerate(row)}
            row.sort(key=keys.__getitem__)


def _neighbours(rows: list[list[Item]], *, downwards: bool) -> Iterable[tuple[list[Item], list[Item]]]:
    """Each row with the one before it in that direction."""
    ordered = rows if downwards else rows[::-1]
    return zip(ordered[1:], ordered, strict=False)


def _mean(items: Iterable[Item], places: Mapping[Item, float], otherwise: float) -> float:
    found = [places[item] for item in items]
    return sum(found) / len(found) if found else otherwise


def _places(rows: list[list[Item]], above: Links, below: Links) -> dict[Item, float]:
    widths = {item: _BEND_WIDTH if isinstance(item, tuple) else 1.0 for row in rows for item in row}
    x: dict[Item, float] = {}
    for row in rows:
        x |= zip(row, _apart([0.0] * len(row), [widths[item] for item in row]), strict=True)
    for number in range(_ROUNDS):
        links = below if number % 2 else above
        for row, _ in _neighbours(rows, downwards=number % 2 == 0):
            wanted = [_mean(links.get(item, ()), x, x[item]) for item in row]
            x |= zip(row, _apart(wanted, [widths[item] for item in row]), strict=True)
    least = min(x.values(), default=0.0)
    return {item: place - least for item, place in x.items()}


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The places nearest to those wanted (least squares) such that neighbours do not overlap."""
    offsets = [0.0]
    for one, two in pairwise(widths):
        offsets.append(offsets[-1] + (one + two) / 2)
    blocks: list[tuple[float, int]] = []  # the mean of (wanted - offset), and how many share it
    for place, offset in zip(wanted, offsets, strict=False):
        mean, count = place - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]
