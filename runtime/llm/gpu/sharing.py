"""Which prefixes the decodes of a batch read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Final, TypedDict

import torch

from weft.kernels.shared_prefix import (
    MIN_KEYS,
    Capacity,
    SharedPrefixes,
    cut_shared,
    find_shared_prefixes,
)

from ..config import ModelConfig
from ..sequence import Sequence

__all__ = ["Heads", "Sharing", "heads"]

_LEAST_SAVED: Final = 192 << 20  # bytes a layer; one more kernel, of many queries a key, has a price, too


class Heads(TypedDict):
    """What a plan needs to know of a model."""

    group: int  # query heads a KV head
    kv_heads: int


def heads(config: ModelConfig) -> Heads:
    """Those of a model."""
    return {"group": config.heads // config.kv_heads, "kv_heads": config.kv_heads}


class Sharing:
    """Finds the prefixes anew only when others decode, or share other slots, than in the step before."""

    def __init__(
        self,
        config: ModelConfig,
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
        self._of: tuple[list[Sequence], list[int]] = ([], [])
        self._prefixes: SharedPrefixes | None = None

    def prefixes(self, decodes: Seq[Sequence]) -> SharedPrefixes | None:
        """The prefixes of a step's decodes; the same object while nothing changes. None: it does not pay."""
        current = (list(decodes), [sequence.revision for sequence in decodes])
        if current != self._of:
            self._of = current
            self._prefixes = self._chosen(decodes)
        return self._prefixes

    def _chosen(self, decodes: Seq[Sequence]) -> SharedPrefixes | None:
        """Only slots of the cache can be shared; a decode's own key is never among them."""
        slots = [sequence.slots[: min(sequence.shared, sequence.length - 1)] for sequence in decodes]
        room = Capacity.of(len(decodes), **self._heads)
        longest = max(map(len, slots), default=0)
        min_keys = self._min_keys
        while min_keys <= longest:
            found = find_shared_prefixes(slots, min_keys=min_keys)
            _, plan = cut_shared(found, **self._heads)
            spared = sum((len(group.members) - 1) * (group.end - group.start) for group in found.groups)
            if spared * self._key_bytes - plan.parts * self._part_bytes <= self._least_saved:
                return None
            if plan.within(room):
                return found
            min_keys *= 2  # there are so many short spans that a graph's plan has no room for them
        return None
