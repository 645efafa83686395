"""KV that leaves the device for the host and comes back: what is where, and that it is the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from weft.runtime.kv.advice import Advice, Dead, Pin
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.radix import Node, RadixTree, Tokens
from weft.runtime.kv.runs import RunAllocator
from weft.runtime.kv.tier import Restore

Prefix = tuple[str, tuple[int, ...]]
"""A namespace and tokens: what the KV of the last of these tokens depends on."""


@dataclass
class _Arrival:
    """Copies when the device is told to wait for it, or when the test says that it has come."""

    tier: _Tier
    host: list[int]
    slots: list[int]
    read: list[Prefix]
    arrived: bool = False

    def done(self) -> bool:
        return self.arrived

    def await_on_device(self) -> None:
        self.arrived = True
        for slot, content in zip(self.slots, self.read, strict=True):
            self.tier.device[slot] = content


@dataclass
class _Tier:
    """Both memories: slot -> what it holds."""

    slots: int
    device: dict[int, Prefix] = field(default_factory=dict)
    host: dict[int, Prefix] = field(default_factory=dict)
    saved: int = 0

    def save(self, slots: Tokens, host: Tokens) -> None:
        assert len(slots) == len(host)
        self.saved += len(slots)
        for slot, at in zip(slots.tolist(), host.tolist(), strict=True):
            self.host[at] = self.device[slot]

    def load(self, host: Tokens, slots: Tokens) -> _Arrival:
        return _Arrival(self, host.tolist(), slots.tolist(), [self.host[at] for at in host.tolist()])

    def load_ms(self, count: int) -> float:
        return float(count)


@dataclass(eq=False)
class _Running:
    namespace: str
    tokens: Tokens
    slots: Tokens
    shared: int
    node: Node


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=10)
NAMESPACES = st.sampled_from(["", "tenant"])


class TierMachine(RuleBasedStateMachine):
    """Requests that come, publish and go while prefixes wander between two small memories."""

    @initialize(total=st.integers(6, 24), host=st.integers(1, 30))
    def start(self, total: int, host: int) -> None:
        self.tier = _Tier(host)
        self.cache = KVCache(total, self.tier)
        self.running: list[_Running] = []
        self.restores: list[Restore] = []
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    @rule(namespace=NAMESPACES, tokens=TOKENS)
    def admit(self, namespace: str, tokens: list[int]) -> None:
        known = np.array(tokens, dtype=np.int64)
        match = self.cache.match(namespace, known, self.tick())
        self.cache.lock(match.node)
        new = self.cache.allocate(min(len(tokens) - len(match.slots), self.cache.available))
        slots = np.concatenate([match.slots, new])
        for at in range(len(match.slots), len(slots)):
            self.tier.device[int(slots[at])] = (namespace, tuple(tokens[: at + 1]))
        self.running.append(_Running(namespace, known[: len(slots)], slots, len(match.slots), match.node))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), publishes=st.booleans())
    def end(self, data: st.DataObject, publishes: bool) -> None:
        one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if publishes:
            published = self.cache.publish(one.namespace, one.tokens, one.slots, one.shared, self.tick())
            self.cache.unlock(published.node)
        else:
            self.cache.release(one.slots[one.shared :])
        self.cache.unlock(one.node)

    @rule(namespace=NAMESPACES, tokens=TOKENS)
    def restore(self, namespace: str, tokens: list[int]) -> None:
        known = np.array(tokens, dtype=np.int64)
        match = self.cache.match(namespace, known, self.tick())
        before = [self.tier.host[at] for at in match.host.tolist()]
        held = len(match.slots)
        assert before == [(namespace, tuple(tokens[: held + n + 1])) for n in range(len(before))]
        self.cache.lock(match.node)
        fits = len(before) <= self.cache.available
        self.cache.unlock(match.node)
        if fits:
            self.restores.append(self.cache.restore(namespace, known, match))

    @rule(
        namespace=NAMESPACES,
        tokens=TOKENS,
        seconds=st.sampled_from([3.5, 1e6]),
        begins=st.sampled_from([0.0, 1.5, 3.0]),
        dead=st.booleans(),
    )
    def advise(self, namespace: str, tokens: list[int], seconds: float, begins: float, dead: bool) -> None:
        now = self.tick()
        advice: Advice = Dead() if dead else Pin(now + seconds, now + begins if begins else 0.0)
        self.cache.advise(namespace, np.array(tokens, dtype=np.int64), advice, now)

    @rule(most=st.integers(1, 12))
    def prefetch(self, most: int) -> None:
        now = self.tick()
        self.cache._tree.expected(now)  # pins turn
        expected = self.expected_on_device()
        restore = self.cache.prefetch(most, now)
        assert self.expected_on_device() == expected, "nobody who is expected, too, makes room"
        if restore is not None:
            assert 0 < len(restore.slots) - restore.shared <= most
            self.restores.append(restore)

    def expected_on_device(self) -> set[int]:
        """The slots of what is expected to be used now."""
        nodes = [node for _, node in self.cache._tree.nodes() if node.slots is not None]
        pinned = [node for node in nodes if isinstance(node.advice, Pin) and not node.advice.begins]
        return {slot for node in pinned if node.slots is not None for slot in node.slots.tolist()}

    @precondition(lambda self: self.restores)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        restore = self.restores.pop(data.draw(st.integers(0, len(self.restores) - 1)))
        self.cache.settle(restore, self.tick())
        found = self.cache.match(restore.namespace, restore.tokens, self.tick())
        assert len(found.slots) == len(restore.tokens)

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        if not (self.running or self.restores):
            assert (self.cache.cached, self.cache.on_host) == (0, 0)

    @invariant()
    def no_slot_is_lost_or_in_two_places(self) -> None:
        self.cache.check()
        assert self.cache.free + self.cache.cached + self.cache.running == self.cache.total
        assert self.cache.on_host <= self.tier.slots

    @invariant()
    def the_tree_holds_what_it_says(self) -> None:
        for namespace, node in self.cache._tree.nodes():
            prefix: list[int] = []
            above: Node | None = node.parent
            while above is not None:
                prefix = [*above.tokens.tolist(), *prefix]
                above = above.parent
            ends = [tuple(prefix + node.tokens[: n + 1].tolist()) for n in range(len(node.tokens))]
            for memory, slots in ((self.tier.device, node.slots), (self.tier.host, node.host)):
                if slots is not None:
                    assert [memory[slot] for slot in slots.tolist()] == [(namespace, end) for end in ends]

    @invariant()
    def those_who_run_keep_their_kv(self) -> None:
        for one in self.running:
            for n, slot in enumerate(one.slots.tolist(), start=1):
                assert self.tier.device[slot] == (one.namespace, tuple(one.tokens[:n].tolist()))


TierMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestTierMachine = TierMachine.TestCase


class RoomyHostMachine(RuleBasedStateMachine):
    """While the host has room, nothing that was ever published is forgotten."""

    @initialize()
    def start(self) -> None:
        self.tier = _Tier(2000)
        self.cache = KVCache(12, self.tier)
        self.published: set[tuple[int, ...]] = set()
        self.now = 0.0

    @rule(tokens=TOKENS)
    def publish(self, tokens: list[int]) -> None:
        self.now += 1
        known = np.array(tokens, dtype=np.int64)
        match = self.cache.match("", known, self.now)
        if len(match.host):
            self.cache.settle(self.cache.restore("", known, match), self.now)
            match = self.cache.match("", known, self.now)
        common = [n for n in range(len(tokens) + 1) if tuple(tokens[:n]) in self.published | {()}]
        assert len(match.slots) == max(common)
        self.cache.lock(match.node)
        slots = np.concatenate([match.slots, self.cache.allocate(len(tokens) - len(match.slots))])
        for at, slot in enumerate(slots.tolist(), start=1):
            self.tier.device[slot] = ("", tuple(tokens[:at]))
        result = self.cache.publish("", known, slots, len(match.slots), self.now)
        self.cache.unlock(result.node)
        self.cache.unlock(match.node)
        self.published |= {tuple(tokens[: n + 1]) for n in range(len(tokens))}
        self.cache.check()


RoomyHostMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestRoomyHostMachine = RoomyHostMachine.TestCase


def ids(*tokens: int) -> Tokens:
    return np.array(tokens, dtype=np.int64)


def put(tree: RadixTree, tokens: Tokens, first: int, now: float) -> None:
    tree.insert("", tokens, np.arange(first, first + len(tokens)), now)


def away(cache: KVCache, tier: _Tier, *prompts: Tokens) -> None:
    """Read prompts, one after the other, whose KV goes to the host."""
    for now, prompt in enumerate((*prompts, np.arange(1000, 1000 + cache.total)), start=1):
        read(cache, tier, prompt, float(now))


def read(cache: KVCache, tier: _Tier, prompt: Tokens, now: float) -> None:
    """Compute what the device lacks of a prompt."""
    match = cache.match("", prompt, now)
    cache.lock(match.node)
    slots = np.concatenate([match.slots, cache.allocate(len(prompt) - len(match.slots))])
    for at, slot in enumerate(slots.tolist(), start=1):
        tier.device[slot] = ("", tuple(prompt[:at].tolist()))
    cache.unlock(cache.publish("", prompt, slots, len(match.slots), now).node)
    cache.unlock(match.node)


def on_device(cache: KVCache, prompt: Tokens) -> int:
    return sum(
        len(node.tokens)
        for node in cache._tree._descend(cache._tree._roots[""], prompt)
        if node.slots is not None
    )


def test_what_is_expected_comes_back_in_place_of_what_is_not() -> None:
    tier = _Tier(100)
    cache = KVCache(8, tier)
    away(cache, tier, ids(1, 2, 3, 4))
    cache.advise("", ids(1, 2, 3, 4), Pin(50.0, begins=20.0), 10.0)
    assert cache.prefetch(8, 19.0) is None, "it is too early"
    assert cache.wakes == 20.0
    restore = cache.prefetch(8, 20.0)
    assert restore is not None
    assert (restore.tokens.tolist(), restore.shared, restore.ahead) == ([1, 2, 3, 4], 0, True)


def test_what_comes_back_ahead_stays_pinned_and_counts_as_unused() -> None:
    tier = _Tier(100)
    cache = KVCache(8, tier)
    away(cache, tier, ids(1, 2, 3, 4))
    cache.advise("", ids(1, 2, 3, 4), Pin(50.0, begins=20.0), 10.0)
    restore = cache.prefetch(8, 20.0)
    assert restore is not None
    cache.settle(restore, 21.0)
    assert (on_device(cache, ids(1, 2, 3, 4)), cache.pins_met) == (4, 0)
    read(cache, tier, np.arange(500, 504), 22.0)
    assert on_device(cache, ids(1, 2, 3, 4)) == 4, "it outlives what nothing is known of"
    assert len(cache.match("", ids(1, 2, 3, 4), 23.0).slots) == 4
    assert cache.pins_met == 4
    assert cache.prefetch(8, 24.0) is None


def test_it_comes_back_as_far_as_there_is_room() -> None:
    tier = _Tier(100)
    cache = KVCache(8, tier)
    away(cache, tier, ids(1, 2, 3, 4), ids(7, 7, 7))
    cache.advise("", ids(1, 2, 3, 4), Pin(50.0, begins=20.0), 10.0)
    for prompt in (ids(5, 5, 5, 5, 5, 5), ids(6)):
        read(cache, tier, prompt, 11.0)
        cache.advise("", prompt, Pin(50.0), 11.0)
    restore = cache.prefetch(8, 20.0)
    assert restore is not None
    assert restore.tokens.tolist() == [1]
    cache.settle(restore, 21.0)
    assert cache.prefetch(8, 22.0) is None, "the others are expected, too"
    cache.match("", ids(6), 23.0)
    restore = cache.prefetch(8, 24.0)
    assert restore is not None
    assert (restore.tokens.tolist(), restore.shared) == ([1, 2], 1)


@pytest.mark.parametrize("happens", ["used", "dead", "over", "flushed", "elsewhere"])
def test_wrong_and_late_advice_brings_nothing(happens: str) -> None:
    tier = _Tier(100)
    cache = KVCache(8, tier)
    away(cache, tier, ids(1, 2, 3, 4))
    pin = Pin(50.0, begins=20.0)
    cache.advise("", ids(9, 9) if happens == "elsewhere" else ids(1, 2, 3, 4), pin, 10.0)
    now = 20.0
    match happens:
        case "used":
            read(cache, tier, ids(1, 2, 3, 4), 11.0)
        case "dead":
            cache.advise("", ids(1, 2, 3, 4), None, 11.0)
            cache.advise("", ids(1, 2, 3, 4), Dead(), 11.0)
        case "over":
            now = 50.0
        case "flushed":
            cache.flush()
    assert cache.prefetch(8, now) is None


def test_without_a_host_nothing_comes_back() -> None:
    cache = KVCache(8)
    cache.unlock(cache.publish("", ids(1, 2), cache.allocate(2), 0, 1.0).node)
    cache.advise("", ids(1, 2), Pin(50.0, begins=20.0), 10.0)
    cache.release(cache.allocate(8))
    assert cache.prefetch(8, 20.0) is None
    assert cache.wakes is None


def test_the_least_recently_used_goes_to_the_host_and_is_forgotten_first() -> None:
    tree = RadixTree(RunAllocator(4))
    for n in range(3):
        put(tree, ids(n, n), 10 * n, float(n))
    assert tree.evict(4).moved.tolist() == [0, 1, 10, 11]
    tree.match("", ids(0, 0), 5.0)  # the older one of the host is used
    assert tree.evict(2).moved.tolist() == [20, 21]
    lengths = [len(tree.match("", ids(n, n), 6.0).host) for n in range(3)]
    assert lengths == [2, 0, 2]


def test_copies_that_the_device_has_too_are_given_up_before_anything_is_lost() -> None:
    host = RunAllocator(4)
    tree = RadixTree(host)
    put(tree, ids(1, 1), 0, 1.0)
    put(tree, ids(2, 2), 10, 2.0)
    tree.evict(4)
    put(tree, ids(2, 2), 20, 9.0)  # used last, and on both sides now
    put(tree, ids(3, 3), 30, 3.0)
    assert tree.evict(2).moved.tolist() == [30, 31]
    assert host.free == 0
    assert [len(tree.match("", ids(n, n), 10.0).host) for n in (1, 2, 3)] == [2, 0, 2]
    assert tree.match("", ids(2, 2), 11.0).slots.tolist() == [20, 21]


def test_what_the_host_holds_already_is_not_copied_again() -> None:
    tree = RadixTree(RunAllocator(8))
    put(tree, ids(1, 2, 3), 0, 1.0)
    assert tree.evict(3).moved.tolist() == [0, 1, 2]
    put(tree, ids(1, 2, 3), 10, 2.0)
    evicted = tree.evict(3)
    assert (sorted(evicted.slots.tolist()), evicted.moved.tolist()) == ([10, 11, 12], [])
    assert len(tree.match("", ids(1, 2, 3), 3.0).host) == 3


def test_a_host_smaller_than_what_is_evicted_keeps_its_head() -> None:
    tree = RadixTree(RunAllocator(2))
    put(tree, ids(1, 2, 3, 4, 5), 0, 1.0)
    evicted = tree.evict(4)
    assert sorted(evicted.slots.tolist()) == [1, 2, 3, 4]
    assert evicted.moved.tolist() == [1, 2]
    match = tree.match("", ids(1, 2, 3, 4, 5), 2.0)
    assert (match.slots.tolist(), len(match.host)) == ([0], 2)


def test_restoring_needs_slots() -> None:
    cache = KVCache(4, _Tier(8, device=dict.fromkeys(range(4), ("", ()))))
    published = cache.publish("", ids(1, 2, 3), cache.allocate(3), 0, 1.0)
    cache.unlock(published.node)
    cache.allocate(4)
    match = cache.match("", ids(1, 2, 3), 2.0)
    assert (len(match.slots), len(match.host)) == (0, 3)
    with pytest.raises(MemoryError, match="3 KV slots asked for, 0 of 4 are available"):
        cache.restore("", ids(1, 2, 3), match)
    cache.check()
    assert len(cache.match("", ids(1, 2, 3), 3.0).host) == 3


def test_what_goes_to_the_host_goes_in_pieces() -> None:
    tier = _Tier(1000, device=dict.fromkeys(range(320), ("", ())))
    cache = KVCache(320, tier)
    published = cache.publish("", np.arange(320), cache.allocate(320), 0, 1.0)
    cache.unlock(published.node)
    for taken in range(1, 21):
        cache.allocate(1)
        assert (tier.saved, cache.free) == (20, 20 - taken)
    cache.allocate(1)
    assert (tier.saved, cache.free) == (40, 19)
