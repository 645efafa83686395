"""Ownership of slots: random requests against the invariant, and the edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from weft.runtime.kv.advice import Advice, Dead, Pin
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.pool import KVPool
from weft.runtime.kv.radix import Node, Tokens
from weft.runtime.kv.slots import SlotAllocator

TOTAL = 24


def test_allocator_hands_out_each_slot_once() -> None:
    allocator = SlotAllocator(5)
    first, second = allocator.allocate(2), allocator.allocate(3)
    assert sorted([*first, *second]) == [0, 1, 2, 3, 4]
    with pytest.raises(MemoryError, match="1 KV slots asked for, 0 of 5 are free"):
        allocator.allocate(1)
    allocator.release(first)
    assert sorted(allocator.free_slots().tolist()) == sorted(first.tolist())
    with pytest.raises(ValueError, match="release of 5 slots with 2 of 5 free already"):
        allocator.release(np.arange(5))
    with pytest.raises(ValueError, match="at least 1 slot"):
        SlotAllocator(0)


def test_allocate_evicts_only_what_it_lacks() -> None:
    cache = KVCache(8)
    slots = cache.allocate(6)
    published = cache.publish("", np.arange(6), slots, 0, 1.0)
    with pytest.raises(MemoryError, match="3 KV slots asked for, 2 of 8 are available"):
        cache.allocate(3)
    cache.unlock(published.node)
    cache.allocate(4)
    assert (cache.free, cache.cached, cache.running) == (0, 4, 4)
    assert cache.match("", np.arange(6), 2.0).slots.tolist() == slots[:4].tolist()


def test_check_finds_a_slot_with_two_owners() -> None:
    cache = KVCache(8)
    slots = cache.allocate(2)
    cache.release(slots)
    cache.publish("", np.arange(2), slots, 0, 1.0)
    with pytest.raises(AssertionError):
        cache.check()


def test_pool_reserves_both_tensors() -> None:
    dtype = torch.bfloat16
    pool = KVPool.allocate(layers=3, slots=5, kv_heads=2, head_dim=8, dtype=dtype, device=torch.device("cpu"))
    assert pool.keys.shape == pool.values.shape == (3, 5, 2, 8)
    assert pool.slots == 5
    assert (
        KVPool.bytes_per_slot(layers=3, kv_heads=2, head_dim=8, dtype=dtype) * 5
        == pool.keys.nbytes + pool.values.nbytes
    )


@dataclass(eq=False)
class _Holding:
    """A running request: its namespace, the tokens that it has KV of, and where."""

    namespace: str
    tokens: Tokens
    slots: Tokens
    shared: int
    node: Node


class CacheMachine(RuleBasedStateMachine):
    """Requests that come, grow, publish and go; every slot is written with the token that it stands for."""

    holdings: Bundle[_Holding] = Bundle("holdings")

    @initialize()
    def start(self) -> None:
        self.cache = KVCache(TOTAL)
        self.memory: dict[
            int, tuple[str, tuple[int, ...]]
        ] = {}  # slot -> the prefix whose last token it holds
        self.alive: list[_Holding] = []
        self.now = 0.0

    @rule(
        target=holdings,
        namespace=st.sampled_from(["", "tenant"]),
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=10),
    )
    def admit(self, namespace: str, tokens: list[int]) -> _Holding:
        self.now += 1
        match = self.cache.match(namespace, np.array(tokens), self.now)
        self.cache.lock(match.node)
        count = min(len(tokens) - len(match.slots), self.cache.available)
        slots = np.concatenate([match.slots, self.cache.allocate(count)])
        known = np.array(tokens[: len(slots)], dtype=np.int64)
        holding = _Holding(namespace, known, slots, len(match.slots), match.node)
        self.write(holding)
        self.alive.append(holding)
        return holding

    def write(self, holding: _Holding) -> None:
        for at in range(holding.shared, len(holding.slots)):
            prefix = tuple(holding.tokens[: at + 1].tolist())
            self.memory[int(holding.slots[at])] = (holding.namespace, prefix)

    @rule(holding=holdings)
    def publish(self, holding: _Holding) -> None:
        if holding in self.alive:
            self.now += 1
            published = self.cache.publish(
                holding.namespace, holding.tokens, holding.slots, holding.shared, self.now
            )
            self.cache.unlock(holding.node)
            holding.node, holding.slots = published.node, published.slots
            holding.shared = len(holding.slots)

    @rule(
        namespace=st.sampled_from(["", "tenant"]),
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=10),
        advice=st.sampled_from([Pin(1e9), Dead(), None]),
    )
    def advise(self, namespace: str, tokens: list[int], advice: Advice) -> None:
        available = self.cache.available
        self.cache.advise(namespace, np.array(tokens), advice, self.now)
        assert self.cache.available == available

    @rule(holding=consumes(holdings))
    def end(self, holding: _Holding) -> None:
        self.cache.release(holding.slots[holding.shared :])
        self.cache.unlock(holding.node)
        self.alive = [other for other in self.alive if other is not holding]

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        self.cache.check()
        assert self.cache.free + self.cache.cached + self.cache.running == TOTAL
        private = [slot for holding in self.alive for slot in holding.slots[holding.shared :].tolist()]
        assert len(set(private)) == len(private) == self.cache.running

    @invariant()
    def running_requests_keep_their_kv(self) -> None:
        for holding in self.alive:
            for at, slot in enumerate(holding.slots.tolist(), start=1):
                assert self.memory[slot] == (holding.namespace, tuple(holding.tokens[:at].tolist()))


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase
