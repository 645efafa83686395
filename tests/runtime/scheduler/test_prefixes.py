"""Keys of prefixes, and the directory of who holds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.scheduler.directory import Directory
from weft.runtime.scheduler.engines import EngineState, WorkerState
from weft.runtime.scheduler.events import EngineSpec
from weft.runtime.scheduler.prefixes import Boundary, blocks_of, extend, start


def engine(name: str = "w", slots: int = 1000) -> EngineState:
    return EngineState(EngineSpec("llm", "m", kv_slots=slots), WorkerState(name, 1))


@given(st.text(max_size=3000), st.text(max_size=3000), st.text(min_size=1, max_size=30))
def test_equal_beginnings_have_equal_keys_and_others_have_not(head: str, tail: str, other: str) -> None:
    root = start("m", "")
    one, two = (extend(root, blocks_of(head + end)) for end in (tail, other + tail))
    for a, b in zip(one, two, strict=False):
        length = round(a.tokens * 4)
        same = (head + tail)[:length] == (head + other + tail)[:length] and a.tokens == b.tokens
        assert (a.key == b.key) == same


def test_a_common_beginning_of_long_texts_is_seen_to_about_a_sixteenth_of_its_length() -> None:
    head = "".join(f"{number:07} " for number in range(20_000))
    for length in (5_000, 20_000, 70_000, 160_000):
        one, two = (
            extend(start("m", ""), blocks_of(head[:length] + end)) for end in ("x" * 9000, "y" * 9000)
        )
        common = max(a.tokens for a, b in zip(one, two, strict=False) if a == b)
        assert length - common * 4 <= max(1024, length / 8)
        assert len(one) < 120


def test_models_and_namespaces_share_nothing() -> None:
    keys = {extend(start(model, name), blocks_of("x"))[0].key for model in "ab" for name in ("", "n")}
    assert len(keys) == 4


def test_the_longest_prefix_and_its_holders_are_found() -> None:
    directory, first, second = Directory(), engine("a"), engine("b")
    prefixes = [Boundary(1, 10.0), Boundary(2, 20.0), Boundary(3, 30.0)]
    directory.note(first, prefixes[:1])
    directory.note(second, prefixes[:2])
    assert directory.longest(prefixes) == (20.0, [second], 2)
    assert directory.longest(prefixes[:1]) == (10.0, [first, second], 1)
    assert directory.held(first, prefixes) == 10.0
    assert directory.longest([Boundary(9, 1.0)]).holders == ()


def test_what_was_found_missing_is_forgotten() -> None:
    directory, one = Directory(), engine()
    prefixes = [Boundary(1, 10.0), Boundary(2, 20.0)]
    directory.note(one, prefixes)
    directory.missed(one, prefixes, cached=12.0)
    assert directory.longest(prefixes) == (10.0, [one], 1)


def test_what_must_have_been_evicted_is_not_reckoned_with() -> None:
    directory, one = Directory(), engine(slots=1000)
    old, new = Boundary(1, 10.0), Boundary(2, 10.0)
    directory.note(one, [old])
    one.written += 800
    directory.note(one, [new])
    one.written += 200
    assert directory.longest([old]).holders == ()
    assert directory.longest([new]).holders == [one]


def test_lost_workers_hold_nothing() -> None:
    directory, one = Directory(), engine()
    directory.note(one, [Boundary(1, 10.0)])
    one.worker.engines = (one,)
    one.worker.lose()
    assert directory.longest([Boundary(1, 10.0)]).holders == ()


def test_of_many_prefixes_those_used_last_are_kept_and_of_many_holders_some_are_looked_at() -> None:
    directory, engines = Directory(limit=3), [engine(str(number)) for number in range(40)]
    for key in range(4):
        directory.note(engines[0], [Boundary(key, 1.0)])
    assert len(directory) == 3
    assert directory.longest([Boundary(0, 1.0)]).holders == ()
    for one in engines:
        directory.note(one, [Boundary(3, 1.0)])
    seen = {id(holder) for _ in range(20) for holder in directory.longest([Boundary(3, 1.0)]).holders}
    assert len(seen) == 40
    assert len(directory.longest([Boundary(3, 1.0)]).holders) < 10


def test_the_oldest_prefixes_are_forgotten_some_at_a_time_whatever_comes_at_once() -> None:
    directory, one = Directory(limit=128), engine()
    prefixes = [Boundary(key, float(key)) for key in range(200)]
    directory.note(one, prefixes[:128])
    directory.note(one, prefixes[:1])
    assert len(directory) == 128
    directory.note(one, prefixes[128:130])
    assert len(directory) == 126
    assert [directory.held(one, prefixes[key : key + 1]) for key in (4, 5)] == [0.0, 5.0]
    assert directory.longest(prefixes[:1]).holders == [one], "it was used again"
    directory.note(one, prefixes)
    assert len(directory) == 126
    assert directory.held(one, prefixes) == 199.0


def test_a_prefix_that_many_write_behind_takes_its_place_once() -> None:
    directory, one = Directory(), engine(slots=1000)
    directory.note(one, [Boundary(1, 300.0)])
    one.context_tokens, one.kv = 20 * 310.0, 500
    one.written = 200.0
    assert directory.held(one, [Boundary(1, 300.0)]) == 300.0
    one.kv = 800
    assert directory.held(one, [Boundary(1, 300.0)]) == 0.0, "what is computed with leaves too little room"
    one.context_tokens = 0.0
    assert directory.held(one, [Boundary(1, 300.0)]) == 300.0, "what waits for tools may be evicted first"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=60))
def test_engines_know_of_the_prefixes_that_the_directory_knows_and_of_no_others(
    steps: list[tuple[int, int, bool]],
) -> None:
    directory, engines = Directory(limit=4), [engine(str(number), 0) for number in range(4)]
    known: dict[int, set[int]] = {}  # engines by prefix; prefixes in the order of their latest use
    for number, key, holds in steps:
        if holds:
            directory.note(engines[number], [Boundary(key, 1.0)])
            known[key] = {*known.pop(key, ()), number}
            if len(known) > 4:
                del known[next(iter(known))]
        else:
            directory.missed(engines[number], [Boundary(key, 1.0)], 0.0)
            known[key] = known.get(key, set()) - {number}
            known = {key: numbers for key, numbers in known.items() if numbers}
        for n, one in enumerate(engines):
            held = {key for key in range(10) if directory.held(one, [Boundary(key, 1.0)])}
            assert held == {key for key, numbers in known.items() if n in numbers}
        assert len(directory) == len(known)
