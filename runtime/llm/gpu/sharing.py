"""Which prefixes the decodes of a batch read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import Final, TypedDict

import torch

from weft.kernels.prefix_tree import PrefixTree, SharedPrefixes, spread
from weft.kernels.shared_prefix import MIN_KEYS, Capacity, cut_shared

from ..config import ModelShape
from ..sequence import Sequence

__all__ = ["Heads", "Sharing", "heads"]

_LEAST_SAVED: Final = 192 << 20  # bytes a layer; one more kernel, of many queries a key, has a price, too


class Heads(TypedDict):
    """What a plan needs to know of a model."""

    group: int  # query heads a KV head
    kv_heads: int


def heads(config: ModelShape) -> Heads:
    """Those of a model."""
    return {"group": config.heads // config.kv_heads, "kv_heads": config.kv_heads}


class Sharing:
    """Keeps the tree of the prefixes of those who decode.

    Only what changes between two steps costs time: who comes, goes, or shares other slots.
    """

    def __init__(
        self,
        config: ModelShape,
        dtype: torch.dtype,
        *,
        min_keys: int = MIN_KEYS,
        least_saved: int = _LEAST_SAVED,
    ) -> None:
        """Spans of `min_keys` keys or more, if they save more than `least_saved` bytes a layer."""
        self._heads = heads(config)
        self._key_bytes = 2 * config.kv_heads * config.head_dim * dtype.itemsize  # its value included
        self._part_bytes = 2 * config.heads * config.head_dim * 4  # a float32 part is written and read
        self._min_keys = min_keys
        self._least_saved = least_saved
        self._tree: PrefixTree[Sequence] = PrefixTree()
        self._of: list[tuple[Sequence, int]] = []
        self._prefixes: SharedPrefixes | None = None

    def prefixes(self, decodes: Seq[Sequence], counts: Seq[int] | None = None) -> SharedPrefixes | None:
        """The prefixes of a step's rows, `counts` of each sequence, by default one. None: it does not pay.

        While nobody comes or goes and each has one row, it is the same object.
        """
        current = [(sequence, sequence.revision) for sequence in decodes]
        if current != self._of:
            self._replace(current)
            self._of = current
            self._prefixes = self._chosen(len(decodes), partial(self._found, decodes))
        if counts is None or sum(counts) == len(decodes):
            return self._prefixes
        computed = [sequence.computed for sequence in decodes]
        return self._chosen(
            sum(counts),
            lambda min_keys: spread(self._found(decodes, min_keys), counts, computed, min_keys=min_keys),
        )

    def _replace(self, current: Seq[tuple[Sequence, int]]) -> None:
        """Only slots of the cache can be shared; a decode's own key is never among them."""
        before, after = set(self._of), set(current)
        for sequence, _ in before - after:
            self._tree.remove(sequence)
        for sequence, _ in after - before:
            self._tree.add(sequence, sequence.slots[: min(sequence.shared, sequence.length - 1)])

    def _found(self, decodes: Seq[Sequence], min_keys: int) -> SharedPrefixes:
        return self._tree.shared(decodes, min_keys=min_keys)

    def _chosen(self, rows: int, find: Callable[[int], SharedPrefixes]) -> SharedPrefixes | None:
        """The spans of at least some number of keys that `find` gives, if they pay and a graph has room."""
        room = Capacity.of(rows, **self._heads)
        min_keys = self._min_keys
        while (found := find(min_keys)).groups:
            _, plan = cut_shared(found, **self._heads)
            if found.saved * self._key_bytes - plan.parts * self._part_bytes <= self._least_saved:
                return None
            if plan.within(room):
                return found
            min_keys *= 2  # there are so many short spans that a graph's plan has no room for them
        return None
