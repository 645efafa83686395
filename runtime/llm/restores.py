"""KV on its way back from the host, for jobs that wait for it, or ahead of them.

Pure, but for the tier's copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.radix import Match, Tokens, common_prefix
from weft.runtime.kv.tier import Restore

from .step_cost import StepCost

__all__ = ["Restores"]

_AHEAD: Final = 4096  # tokens at once, behind which those that somebody waits for have to wait
_LEAST: Final = 16  # tokens: fewer are computed in the step that the job takes part in anyway


class Restores:
    """What is being copied back to the device, while those who wait for it let others compute."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._pending: list[Restore] = []
        self.tokens = 0
        """Tokens restored since the start for jobs that waited for them."""
        self.tokens_ahead = 0
        """Tokens restored since the start ahead of their use."""

    def start_afresh(self, cache: KVCache) -> None:
        """Forget what is on its way; from now on it is about another cache, of the same slots."""
        for restore in self._pending:
            restore.arrival.await_on_device()  # or it would overwrite what they hold next
        self._cache = cache
        self._pending.clear()

    def match(
        self,
        namespace: str,
        tokens: Tokens,
        now: float,
        cost: StepCost,
        fits: Callable[[int], bool],
        *,
        alone: bool,
    ) -> Match | None:
        """The longest prefix of `tokens` on the device; None: wait, more of it is on its way.

        What only the host has of it is copied back if that is quicker than to compute it, and the job `fits`
        with so many tokens found. When nobody else computes (`alone`), the device waits, not the job.
        """
        match = self._cache.match(namespace, tokens, now)
        if not self._brings(namespace, tokens, len(match.slots)):
            self._cache.lock(match.node)  # as the job would do: what it holds is not available to it
            pays = self._pays(match, cost) and fits(len(match.slots))
            if pays:
                self._pending.append(self._cache.restore(namespace, tokens, match))
                self.tokens += len(match.host)
            self._cache.unlock(match.node)
            if not pays:
                return match
        if not alone:
            return None
        self.settle(now, early=True)
        return self._cache.match(namespace, tokens, now)

    def settle(self, now: float, *, early: bool = False) -> bool:
        """Let the cache have what is there; with `early`, all: then the device waits for it.

        Says whether there was anything.
        """
        ready = [restore for restore in self._pending if early or restore.arrival.done()]
        self._pending = [restore for restore in self._pending if restore not in ready]
        for restore in ready:
            self._cache.settle(restore, now)
        return bool(ready)

    def prefetch(self, now: float) -> bool:
        """Begin to copy back some of what is expected to be used, unless something is on its way.

        Says whether that, or what has come, has changed anything.
        """
        settled = self.settle(now)
        restore = None if self._pending else self._cache.prefetch(_AHEAD, now)
        if restore is not None:
            self._pending.append(restore)
            self.tokens_ahead += len(restore.slots) - restore.shared
        return settled or restore is not None

    def wait_s(self, now: float) -> float | None:
        """How long nothing is to be prefetched, if nothing else happens; None: for ever."""
        tier = self._cache.tier
        if tier is None:
            return None
        if self._pending:
            count = sum(map(len, self.owned()))
            return max(tier.load_ms(count), 1.0) / 1e3
        wakes = self._cache.wakes
        return None if wakes is None else max(wakes - now, 0.0)

    def owned(self) -> list[Tokens]:
        """The slots that await what is on its way."""
        return [restore.slots[restore.shared :] for restore in self._pending]

    def _pays(self, match: Match, cost: StepCost) -> bool:
        count, tier = len(match.host), self._cache.tier
        if tier is None or not _LEAST <= count <= self._cache.available:
            return False
        return tier.load_ms(count) < cost.ms(len(match.slots), count)

    def _brings(self, namespace: str, tokens: Tokens, held: int) -> bool:
        """Whether more than the `held` first of these tokens is on its way."""
        return any(
            restore.namespace == namespace and common_prefix(restore.tokens, tokens) > held
            for restore in self._pending
        )
