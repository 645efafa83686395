"""What primitives of earlier runs took, for predictions about later ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from .ir import Node
from .ops.common import Embed, Neighbours, Search, Tool
from .ops.primitive import Decode, Upsert
from .sketch import Quantiles

__all__ = ["Observed", "constancy_key", "duration_key", "length_key"]

_KEYS: Final = 4096
_SETTLED: Final = 8  # values from which a median counts
_MOVED: Final = 2.0  # the factor by which it must move to make plans stale


_REMEMBERED: Final = 32  # outcomes, about, that a chance is the mean of
_UNKNOWN: Final = 0.5
_APART: Final = 3  # items of a fold


@dataclass(slots=True)
class _Chance:
    value: float = _UNKNOWN
    weight: float = 2.0  # as much as two outcomes that were seen, one of each


@dataclass(slots=True)
class _Series:
    values: Quantiles = field(default_factory=Quantiles)
    median: float | None = None  # when the epoch rose last on its account


class Observed:
    """Sketches by key; of more than 4,096 keys those that were used last."""

    def __init__(self) -> None:
        self.epoch = 0
        """Rises when predictions have changed so much that plans should be made anew."""
        self._series: OrderedDict[str, _Series] = OrderedDict()
        self._chances: OrderedDict[str, _Chance] = OrderedDict()

    def add(self, key: str, value: float) -> None:
        """Count a value: tokens or milliseconds."""
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series()
            if len(self._series) > _KEYS:
                self._series.popitem(last=False)
        else:
            self._series.move_to_end(key)
        series.values.add(value)
        count = series.values.count
        if count >= _SETTLED and count & (count - 1) == 0:  # at every doubling: often enough
            self._review(series)

    def quantile(self, key: str, q: float) -> float | None:
        """A quantile of what was counted, or None if nothing was."""
        series = self._series.get(key)
        return series.values.quantile(q) if series is not None else None

    def happened(self, key: str, *, whether: bool) -> None:
        """Count an outcome."""
        chance = self._chances.pop(key, None) or _Chance()
        self._chances[key] = chance  # the last one
        if len(self._chances) > _KEYS:
            self._chances.popitem(last=False)
        chance.weight = min(chance.weight + 1, _REMEMBERED)
        chance.value += (whether - chance.value) / chance.weight

    def chance(self, key: str) -> float:
        """How often it happens, lately; 0.5 if nobody knows."""
        return self._chances[key].value if key in self._chances else _UNKNOWN

    def _review(self, series: _Series) -> None:
        median = series.values.quantile(0.5)
        before = series.median
        if before is None or not before / _MOVED <= median <= before * _MOVED:
            series.median = median
            self.epoch += 1


def length_key(node: Node) -> str:
    """Under which the tokens that a decode writes are counted."""
    assert isinstance(node.op, Decode)
    return f"tokens|{node.op.model}|{node.location}|{node.name}|{node.op.sampling.max_tokens}"


def duration_key(node: Node) -> str:
    """Under which the milliseconds of any other primitive are counted."""
    match node.op:
        case Search(index=what) | Neighbours(index=what) | Upsert(index=what):
            pass
        case Tool(tool=what) | Embed(model=what):
            pass
        case _:
            what = ""
    return f"ms|{node.op.label()}|{what}|{node.location}|{node.name}"


def constancy_key(node: Node, index: int) -> str:
    """Under which it is counted how often the state of a fold stays as it was at the item with this index.

    The first ones are apart, as it is they that states change with.
    """
    return f"same|{node.location}|{node.name}|{min(index, _APART)}"
