from __future__ import annotations

import pytest

from weft.runtime.worker.efficient_batch import efficient_batch


@pytest.mark.parametrize("slowdown", [1, 7])
@pytest.mark.parametrize(("overhead_s", "expected"), [(0.0, 1), (0.004, 64), (0.016, 256)])
def test_the_batch_doubles_until_throughput_stops_rising(
    slowdown: int, overhead_s: float, expected: int
) -> None:
    """An engine with a fixed cost of each call; one that is slower in all has the same efficient batch."""
    found = efficient_batch(lambda items: slowdown * (overhead_s + 0.001 * items), seconds=1e9)
    assert found.items == expected
    assert found.item_ms == pytest.approx(slowdown * (overhead_s * 1e3 / expected + 1))


def test_an_engine_with_more_parallel_units_gets_a_larger_batch() -> None:
    def measure(items: int) -> float:
        return 0.001 * -(-items // 32)

    assert efficient_batch(measure, seconds=1e9).items == 32


def test_measuring_ends_when_its_time_is_over() -> None:
    calls: list[int] = []

    def measure(items: int) -> float:
        calls.append(items)
        return 1.0

    assert efficient_batch(measure, seconds=3).items == 4
    assert calls == [1, 2, 4]
