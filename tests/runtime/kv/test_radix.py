"""The radix tree against a trie of single tokens, and its rules one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from weft.runtime.kv.advice import Advice, Dead, Pin, eviction_order
from weft.runtime.kv.radix import Node, RadixTree, Tokens


def array(*values: int) -> Tokens:
    return np.array(values, dtype=np.int64)


def insert(tree: RadixTree, tokens: Tokens, first_slot: int, now: float, namespace: str = "") -> Node:
    slots = np.arange(first_slot, first_slot + len(tokens))
    return tree.insert(namespace, tokens, slots, now).node


def test_match_of_an_unknown_namespace_is_empty() -> None:
    tree = RadixTree()
    match = tree.match("nobody", array(1, 2), 0.0)
    assert match.slots.tolist() == []
    tree.lock(match.node)
    tree.unlock(match.node)


def test_insert_splits_and_shares_the_common_part() -> None:
    tree = RadixTree()
    insert(tree, array(1, 2, 3, 4), 10, 1.0)
    inserted = tree.insert("", array(1, 2, 7), array(20, 21, 22), 2.0)
    assert inserted.slots.tolist() == [10, 11, 22]
    assert inserted.duplicates.tolist() == [20, 21]
    assert tree.size == 5
    assert tree.match("", array(1, 2, 3, 4, 5), 3.0).slots.tolist() == [10, 11, 12, 13]


def test_a_split_keeps_locks() -> None:
    tree = RadixTree()
    node = insert(tree, array(1, 2, 3, 4), 10, 1.0)
    tree.lock(node)
    insert(tree, array(1, 2, 9), 20, 2.0)
    assert (tree.locked, tree.evictable) == (4, 1)
    assert tree.evict(99).slots.tolist() == [22]
    tree.unlock(node)
    assert sorted(tree.evict(99).slots.tolist()) == [10, 11, 12, 13]
    assert tree.size == 0


def test_a_head_does_not_keep_what_hung_below_it_in_memory() -> None:
    tree = RadixTree()
    for user in range(5):
        head = np.full(16, user)
        insert(tree, np.concatenate([head, np.arange(100, 1000)]), 1000 * user, 1.0)
        tree.match("", head, 2.0)
    tree.evict(5 * 900)
    heads = [node for _, node in tree.nodes()]
    assert [len(node.tokens) for node in heads] == [16] * 5
    assert all(_kept(node.tokens) == 16 for node in heads)
    assert all(node.slots is not None and _kept(node.slots) == 16 for node in heads)


def _kept(array: Tokens) -> int:
    """How many numbers an array keeps in memory."""
    return array.size if array.base is None else array.base.size


def test_namespaces_share_nothing() -> None:
    tree = RadixTree()
    insert(tree, array(1, 2, 3), 0, 1.0, "a")
    inserted = tree.insert("b", array(1, 2, 3), array(5, 6, 7), 2.0)
    assert inserted.duplicates.tolist() == []
    assert tree.match("a", array(1, 2, 3), 3.0).slots.tolist() == [0, 1, 2]
    assert tree.match("b", array(1, 2, 3), 3.0).slots.tolist() == [5, 6, 7]


def test_the_least_recently_used_leaf_goes_first_and_a_partial_match_counts_as_use() -> None:
    tree = RadixTree()
    insert(tree, array(1, 1, 1), 10, 1.0)
    insert(tree, array(2, 2, 2), 20, 2.0)
    tree.match("", array(1, 1, 5), 3.0)
    assert tree.evict(1).slots.tolist() == [12]  # the part that the last match did not reach
    assert tree.evict(3).slots.tolist() == [20, 21, 22]
    assert tree.match("", array(1, 1, 1), 4.0).slots.tolist() == [10, 11]


def test_eviction_of_a_part_keeps_the_head_of_a_leaf() -> None:
    tree = RadixTree()
    insert(tree, array(1, 2, 3, 4), 10, 1.0)
    assert tree.evict(3).slots.tolist() == [11, 12, 13]
    assert tree.match("", array(1, 2, 3, 4), 2.0).slots.tolist() == [10]


def test_the_dead_go_first_and_the_pinned_last() -> None:
    tree = RadixTree()
    for number in (1, 2, 3):
        insert(tree, array(number, number), 10 * number, float(number))
    tree.advise("", array(1, 1), Pin(9.0), 4.0)
    tree.advise("", array(3, 3), Dead(), 4.0)
    assert [tree.evict(2).slots.tolist() for _ in range(3)] == [[30, 31], [20, 21], [10, 11]]
    assert tree.broken == 2


def test_a_pin_ends_with_its_time_or_with_a_use() -> None:
    tree = RadixTree()
    for number in (1, 2, 3):
        insert(tree, array(number), number, float(number))
    tree.advise("", array(1), Pin(5.0), 4.0)
    tree.advise("", array(2), Pin(50.0), 4.0)
    tree.match("", array(2), 5.0)
    assert tree.met == 1
    assert [tree.evict(1).slots.tolist() for _ in range(3)] == [[1], [3], [2]]
    assert tree.broken == 0


def test_what_is_not_expected_yet_goes_before_what_is_the_last_to_be_expected_first() -> None:
    tree = RadixTree()
    for number in (1, 2, 3, 4):
        insert(tree, array(number), number, float(number))
    tree.advise("", array(1), Pin(50.0, begins=20.0), 5.0)
    tree.advise("", array(2), Pin(50.0, begins=30.0), 5.0)
    tree.advise("", array(3), Pin(50.0), 5.0)
    assert [tree.evict(1).slots.tolist() for _ in range(4)] == [[4], [2], [1], [3]]


def test_a_pin_that_has_begun_is_like_any_other() -> None:
    tree = RadixTree()
    for number in (1, 2, 3):
        insert(tree, array(number), number, float(number))
    tree.advise("", array(1), Pin(9.0, begins=6.0), 5.0)
    tree.advise("", array(2), Pin(50.0, begins=7.0), 7.0)
    assert [tree.evict(1).slots.tolist() for _ in range(2)] == [[3], [1]]
    insert(tree, array(4), 4, 51.0)
    assert tree.evict(1).slots.tolist() == [2], "its time is over"


def test_the_beginning_of_two_is_expected_from_the_first_to_the_last_moment() -> None:
    tree = RadixTree()
    insert(tree, array(1, 2), 10, 1.0)
    insert(tree, array(1, 3), 20, 1.0)
    tree.advise("", array(1, 2), Pin(9.0, begins=6.0), 2.0)
    tree.advise("", array(1, 3), Pin(8.0, begins=3.0), 2.0)
    (head,) = (node for _, node in tree.nodes() if node.tokens.tolist() == [1])
    assert head.advice == Pin(9.0, begins=3.0)


def test_what_is_expected_can_be_spared() -> None:
    tree = RadixTree()
    for number in (1, 2, 3):
        insert(tree, array(number), number, float(number))
    tree.advise("", array(1), Pin(50.0), 5.0)
    tree.advise("", array(2), Pin(50.0, begins=30.0), 5.0)
    assert sorted(tree.evict(3, spares=True).slots.tolist()) == [2, 3]
    assert tree.evict(3, spares=True).slots.tolist() == []
    assert tree.evict(3).slots.tolist() == [1]


def test_what_others_may_use_does_not_die() -> None:
    tree = RadixTree()
    insert(tree, array(1, 2), 10, 1.0)
    insert(tree, array(1, 3), 20, 2.0)
    insert(tree, array(4), 30, 0.5)
    tree.advise("", array(1, 3), Dead(), 3.0)
    assert tree.evict(1).slots.tolist() == [21]
    assert tree.evict(1).slots.tolist() == [30], "the beginning of two is as it was"


def test_the_head_of_what_dies_lives_on() -> None:
    tree = RadixTree()
    insert(tree, array(4), 30, 0.5)
    insert(tree, array(1, 2, 3), 10, 1.0)
    tree.advise("", array(1, 2, 3), Dead(head=2), 2.0)
    assert tree.evict(1).slots.tolist() == [12]
    assert tree.evict(1).slots.tolist() == [30], "older than the head"
    tree.advise("", array(1, 2, 3), Dead(head=3), 3.0)
    insert(tree, array(5), 50, 0.7)
    assert tree.evict(1).slots.tolist() == [50]


def test_a_pin_that_ends_before_it_begins_ends() -> None:
    tree = RadixTree()
    insert(tree, array(1), 10, 1.0)
    insert(tree, array(2), 20, 2.0)
    tree.advise("", array(1), Pin(expires=4.0, begins=8.0), 3.0)
    tree.advise("", array(2), None, 5.0)
    assert tree.evict(1).slots.tolist() == [10]


def test_advice_on_what_is_not_cached_changes_nothing() -> None:
    tree = RadixTree()
    tree.advise("", array(1), Pin(9.0), 0.0)
    insert(tree, array(1, 2), 10, 1.0)
    tree.advise("", array(5), Dead(), 2.0)
    tree.advise("other", array(1, 2), Dead(), 2.0)
    assert (tree.size, tree.evict(9).slots.tolist()) == (2, [10, 11])


def test_misuse_is_refused() -> None:
    tree = RadixTree()
    node = insert(tree, array(1, 2), 0, 1.0)
    with pytest.raises(ValueError, match="not locked"):
        tree.unlock(node)
    with pytest.raises(ValueError, match="2 tokens cannot be held by 1 slots"):
        tree.insert("", array(1, 2), array(1), 1.0)


Path = tuple[str, tuple[int, ...]]
"""A namespace and a prefix: one token of the model."""


@dataclass
class _Entry:
    slot: int
    used: float
    locks: int = 0
    advice: Advice = None

    def use(self, now: float) -> None:
        self.used, self.advice = now, None


@dataclass
class _Trie:
    """The model: every cached prefix by itself, searched by brute force."""

    entries: dict[Path, _Entry] = field(default_factory=dict)

    def walk(self, namespace: str, tokens: tuple[int, ...]) -> list[Path]:
        paths = [(namespace, tokens[: end + 1]) for end in range(len(tokens))]
        return [path for path in paths if path in self.entries]

    def leaves(self) -> list[Path]:
        inner = {(namespace, tokens[:-1]) for namespace, tokens in self.entries}
        return [path for path, entry in self.entries.items() if path not in inner and not entry.locks]

    def advise(self, namespace: str, tokens: tuple[int, ...], advice: Advice) -> None:
        for path in reversed(self.walk(namespace, tokens)):
            entry = self.entries[path]
            living = entry.locks or isinstance(entry.advice, Pin) or self.lives(path)
            if isinstance(advice, Dead) and living:
                return
            if isinstance(advice, Pin) and isinstance(entry.advice, Pin):
                entry.advice = advice.together(entry.advice)
            else:
                entry.advice = advice

    def lives(self, path: Path) -> bool:
        namespace, tokens = path
        below = [e for (name, t), e in self.entries.items() if (name, t[:-1]) == (namespace, tokens) and t]
        return any(not isinstance(entry.advice, Dead) for entry in below)

    def evict(self, count: int, now: float, *, spares: bool) -> set[int]:
        freed = set()
        for entry in self.entries.values():
            if isinstance(entry.advice, Pin) and entry.advice.expires <= now:
                entry.advice = None
            if isinstance(entry.advice, Pin) and entry.advice.begins <= now:
                entry.advice = Pin(entry.advice.expires)
        while count > 0 and (leaves := self.leaves()):
            first = min(leaves, key=self.order)
            advice = self.entries[first].advice
            if spares and isinstance(advice, Pin) and not advice.begins:
                break
            freed.add(self.entries.pop(first).slot)
            count -= 1
        return freed

    def order(self, path: Path) -> tuple[int, float]:
        return eviction_order(self.entries[path].advice, self.entries[path].used)


TOKENS = st.lists(st.integers(0, 2), max_size=9).map(tuple)
NAMESPACES = st.sampled_from(["", "tenant"])


class RadixMachine(RuleBasedStateMachine):
    locks: Bundle[tuple[Node, list[Path]]] = Bundle("locks")

    @initialize()
    def start(self) -> None:
        self.tree = RadixTree()
        self.trie = _Trie()
        self.now = 0.0
        self.next_slot = 0

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    @rule(namespace=NAMESPACES, tokens=TOKENS, target=locks)
    def match_and_lock(self, namespace: str, tokens: tuple[int, ...]) -> tuple[Node, list[Path]]:
        match = self.tree.match(namespace, array(*tokens), self.tick())
        paths = self.trie.walk(namespace, tokens)
        assert match.slots.tolist() == [self.trie.entries[path].slot for path in paths]
        self.tree.lock(match.node)
        for path in paths:
            self.trie.entries[path].use(self.now)
            self.trie.entries[path].locks += 1
        return match.node, paths

    @rule(lock=consumes(locks))
    def unlock(self, lock: tuple[Node, list[Path]]) -> None:
        node, paths = lock
        self.tree.unlock(node)
        for path in paths:
            self.trie.entries[path].locks -= 1

    @rule(namespace=NAMESPACES, tokens=TOKENS)
    def insert(self, namespace: str, tokens: tuple[int, ...]) -> None:
        slots = np.arange(self.next_slot, self.next_slot + len(tokens))
        self.next_slot += len(tokens)
        present = len(self.trie.walk(namespace, tokens))
        inserted = self.tree.insert(namespace, array(*tokens), slots, self.tick())
        assert inserted.duplicates.tolist() == slots[:present].tolist()
        for end, slot in enumerate(slots.tolist(), start=1):
            entry = self.trie.entries.setdefault((namespace, tokens[:end]), _Entry(slot, self.now))
            entry.use(self.now)
        held = [self.trie.entries[path].slot for path in self.trie.walk(namespace, tokens)]
        assert inserted.slots.tolist() == held

    @rule(count=st.integers(0, 12), spares=st.booleans())
    def evict(self, count: int, spares: bool) -> None:
        due = min(count, self.tree.evictable)
        freed = self.tree.evict(count, spares=spares).slots.tolist()
        assert len(set(freed)) == len(freed)
        assert spares or len(freed) == due, "no advice keeps what is not in use"
        assert set(freed) == self.trie.evict(count, self.now, spares=spares)

    @rule(
        namespace=NAMESPACES,
        tokens=TOKENS,
        seconds=st.sampled_from([-1.0, 2.5, 9.5]),
        begins=st.sampled_from([None, 1.5, 4.25]),
    )
    def pin(self, namespace: str, tokens: tuple[int, ...], seconds: float, begins: float | None) -> None:
        now = self.tick()
        pin = Pin(now + seconds, 0.0 if begins is None else now + begins)
        self.tree.advise(namespace, array(*tokens), pin, self.now)
        self.trie.advise(namespace, tokens, pin)

    @rule(namespace=NAMESPACES, tokens=TOKENS, advice=st.sampled_from([Dead(), None]))
    def advise(self, namespace: str, tokens: tuple[int, ...], advice: Advice) -> None:
        self.tree.advise(namespace, array(*tokens), advice, self.tick())
        self.trie.advise(namespace, tokens, advice)

    @invariant()
    def counters_are_right(self) -> None:
        entries = self.trie.entries.values()
        assert self.tree.locked == sum(entry.locks > 0 for entry in entries)
        assert self.tree.evictable == sum(entry.locks == 0 for entry in entries)

    @invariant()
    def nodes_hold_every_slot_once(self) -> None:
        held = [node.slots for _, node in self.tree.nodes() if node.slots is not None]
        slots = [slot for some in held for slot in some.tolist()]
        assert sorted(slots) == sorted(entry.slot for entry in self.trie.entries.values())


RadixMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRadixMachine = RadixMachine.TestCase
