from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.results import ResultCache

STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 40)), max_size=60)


@given(STEPS)
def test_it_never_holds_more_than_it_may_and_gives_back_only_what_a_tenant_put(
    steps: list[tuple[str, int, int]],
) -> None:
    cache: ResultCache[str] = ResultCache(100)
    last: dict[tuple[str, int], str] = {}
    for number, (tenant, name, size) in enumerate(steps):
        found = cache.get(tenant, bytes([name]))
        assert found in (None, last.get((tenant, name)))
        last[tenant, name] = str(number)
        cache.put(tenant, bytes([name]), str(number), size)
        assert cache.get(tenant, bytes([name])) == str(number)  # the newest is never the first to go
        assert cache.stats.size <= 100
    stats = cache.stats
    assert stats.hits + stats.misses == 2 * len(steps)
    assert stats.entries + stats.evictions <= len(steps)


def test_the_tenant_that_holds_most_gives_way() -> None:
    cache: ResultCache[str] = ResultCache(100)
    cache.put("small", b"k", "kept", 20)
    for number in range(9):
        cache.put("large", bytes([number]), "x", 30)
    assert cache.get("small", b"k") == "kept"
    assert cache.get("large", bytes([0])) is None
    assert cache.get("large", bytes([8])) == "x"


def test_what_was_used_lately_stays() -> None:
    cache: ResultCache[str] = ResultCache(100)
    cache.put("", b"1", "one", 40)
    cache.put("", b"2", "two", 40)
    assert cache.get("", b"1") == "one"
    cache.put("", b"3", "three", 40)
    assert (cache.get("", b"1"), cache.get("", b"2")) == ("one", None)


def test_a_result_that_would_drive_out_most_others_is_not_kept() -> None:
    cache: ResultCache[str] = ResultCache(100)
    cache.put("", b"1", "large", 51)
    assert cache.get("", b"1") is None


def test_no_room_keeps_nothing() -> None:
    cache: ResultCache[str] = ResultCache(0)
    cache.put("", b"1", "x", 1)
    assert cache.get("", b"1") is None
    assert cache.stats.size == 0
