"""KV that leaves an engine's cache for another engine's, or comes from one. Runs on the engine's thread."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from weft.runtime.kv.pool import KVPool
from weft.runtime.kv.radix import Tokens

from .errors import EngineClosedError
from .planner import Planner

__all__ = ["Handover", "KvSpan", "Wanted"]

_LEAST: Final = 16  # tokens: fewer are not worth a message


@dataclass(frozen=True, slots=True)
class KvSpan:
    """The KV of the tokens `first`, `first + 1`, … of a prompt, in the CPU's memory."""

    first: int
    keys: torch.Tensor  # [layers, tokens, kv_heads, head_dim], as the model stores them
    values: torch.Tensor  # the same shape
    waited_s: float = 0.0  # until nobody computed it any more

    @property
    def end(self) -> int:
        """The first token behind it."""
        return self.first + self.keys.shape[1]

    def part(self, start: int, end: int) -> KvSpan:
        """The KV of the tokens from `start` up to `end`, which lie within this span."""
        at = slice(start - self.first, end - self.first)
        return KvSpan(start, self.keys[:, at], self.values[:, at])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A wish for the KV of a prompt from token `first` on, as far as it is there by `deadline`."""

    namespace: str
    ids: Tokens
    first: int
    deadline: float  # monotonic seconds
    answer: Future[KvSpan | None]


class Handover:
    """Gives and takes KV of a planner's cache."""

    def __init__(self, planner: Planner, pool: KVPool | None) -> None:
        """`pool`: None if other processes have some of the heads; then nothing is given or taken."""
        self._planner = planner
        self._pool = pool
        self._wanted: list[tuple[Wanted, float]] = []  # and since when

    def held(self, namespace: str, ids: Tokens, now: float) -> int:
        """How many of a prompt's first tokens the cache holds."""
        return len(self._planner.cache.match(namespace, ids, now).slots)

    def want(self, wanted: Wanted, now: float) -> None:
        """Answer as soon as no request computes more of the prompt: with a copy, or None for too little.

        None also if there is no pool to copy from.
        """
        self._wanted.append((wanted, now))
        self.serve(now)

    def serve(self, now: float) -> None:
        """Answer what can be answered."""
        if self._wanted:
            self._wanted = [wish for wish in self._wanted if not self._answer(*wish, now)]

    def give(self, namespace: str, ids: Tokens, span: KvSpan, now: float) -> int:
        """Put the KV of a part of a prompt into the cache; returns how many of its tokens are new there.

        Raises `LookupError` if what comes before the part is not in the cache, requests need all slots, the
        device has no room for a copy of it, or there is no pool to write to.
        """
        if self._pool is None:
            raise LookupError("a model that several processes share takes no KV from elsewhere")
        cache = self._planner.cache
        tokens = ids[: span.end]
        match = cache.match(namespace, tokens, now)
        held = len(match.slots)
        if held < span.first:
            raise LookupError(f"the cache holds {held} tokens of the prompt; these are behind {span.first}")
        count = span.end - held
        if count <= 0:
            return 0
        cache.lock(match.node)
        try:
            if count > cache.available:
                raise LookupError(f"{count} tokens do not fit into the cache")
            slots = cache.allocate(count)
            new = span.part(held, span.end)
            try:
                self._pool.write(torch.from_numpy(slots), new.keys, new.values)
            except RuntimeError as problem:
                cache.release(slots)
                raise LookupError(f"{count} tokens cannot be stored: {problem}") from problem
            slots = np.concatenate([match.slots, slots])
            published = cache.publish(namespace, tokens, slots, held, now)
            cache.unlock(published.node)
        finally:
            cache.unlock(match.node)
        return count

    def close(self, error: Exception | None = None) -> None:
        """Fail what has not been answered."""
        wanted, self._wanted = self._wanted, []
        for one, _ in wanted:
            if one.answer.set_running_or_notify_cancel():
                one.answer.set_exception(error or EngineClosedError("the engine has been closed"))

    def _answer(self, wanted: Wanted, since: float, now: float) -> bool:
        if wanted.answer.cancelled():
            return True
        match = self._planner.cache.match(wanted.namespace, wanted.ids, now)
        held = len(match.slots)
        if now < wanted.deadline and self._planner.is_computing(wanted.namespace, wanted.ids, held):
            return False
        if not wanted.answer.set_running_or_notify_cancel():
            return True
        if self._pool is None or held - wanted.first < _LEAST:
            wanted.answer.set_result(None)
            return True
        slots = torch.from_numpy(match.slots[wanted.first :])
        try:
            span = KvSpan(wanted.first, *self._pool.read(slots), now - since)
        except RuntimeError as problem:  # the device has no room for a copy, for one
            wanted.answer.set_exception(problem)
        else:
            wanted.answer.set_result(span)
        return True
